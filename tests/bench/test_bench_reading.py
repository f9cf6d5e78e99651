"""The benchmark's pure parts: what it reads from wrk and /proc, the configurations it makes, the tables it prints."""

from __future__ import annotations

import os
import time

import pytest

from bench.contenders import CONTENDERS, RATIOS, Contender, configuration, without_lua
from bench.cpu import cpu_ticks, process_seconds, tree
from bench.measure import Figures, medians
from bench.report import as_json, ratio_rows, report, table
from bench.tools import nginx_version
from bench.wrk import CASES, BadRun, Load, parse
from upwell.contrib.guide import APP_PORTS, FRONT_PORTS, guide_text

WRK = """Running 5s test @ http://127.0.0.1:8080/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.02ms    0.90ms  21.51ms   97.44%
    Req/Sec    32.86k     2.31k   36.02k    78.43%
  Latency Distribution
     50%    0.88ms
     75%    1.01ms
     90%    1.33ms
     99%    4.05ms
  166812 requests in 5.10s, 25.77MB read
Requests/sec:  32708.22
Transfer/sec:      5.05MB
"""


def test_wrks_figures_are_read() -> None:
    assert parse(WRK) == Load(166_812, 32_708.22, 4.05)


@pytest.mark.parametrize(("written", "milliseconds"), [("850.00us", 0.85), ("1.50s", 1500.0), ("2.00m", 120_000.0)])
def test_wrks_units_are_read(written: str, milliseconds: float) -> None:
    assert parse(WRK.replace("4.05ms", written)).p99 == pytest.approx(milliseconds)


@pytest.mark.parametrize(
    "trouble", ["  Non-2xx or 3xx responses: 7", "  Socket errors: connect 0, read 3, write 0, timeout 0"]
)
def test_figures_of_a_run_with_errors_are_not_used(trouble: str) -> None:
    output = WRK.replace("Requests/sec", f"{trouble}\nRequests/sec")
    with pytest.raises(BadRun, match=trouble.strip()):
        parse(output)


def test_output_without_figures_is_refused() -> None:
    with pytest.raises(BadRun, match="unable to connect"):
        parse("unable to connect to 127.0.0.1:8080 Connection refused")


def test_cpu_time_is_read_past_any_program_name() -> None:
    fields = "S 1 2 3 0 -1 4194560 100 200 0 0 70 30 5 2 20 0 1 0 12345"
    assert cpu_ticks(f"42 (a) b) (c) {fields}") == 107


def test_cpu_time_of_this_process_grows_with_its_work() -> None:
    before = process_seconds(os.getpid())
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    assert process_seconds(os.getpid()) - before >= 0.03
    assert tree(os.getpid())[0] == os.getpid()


def test_every_case_is_a_request_of_its_own() -> None:
    assert len({(case.path, case.script()) for case in CASES}) == len(CASES)
    browser = next(case for case in CASES if case.name == "browser")
    assert len(browser.fields) + 1 == 10  # wrk adds Host
    assert 'wrk.method = "POST"' in next(case for case in CASES if case.name == "post").script()


PORTS = {port: 20_000 + port for port in (*FRONT_PORTS, *APP_PORTS)}


def test_upwell_gets_the_guides_file_and_nginx_its_part_without_lua() -> None:
    upwell = configuration(Contender("upwell", "guide"), PORTS)
    nginx = configuration(Contender("nginx", "guide"), PORTS)
    assert "lua" in upwell
    assert "lua" not in nginx.replace("lua-resty", "")
    for text in (upwell, nginx):
        assert "listen       20080;" in text
        assert "listen       28080;" in text
        assert text.count("proxy_pass   http://") == 3
    assert nginx.count("{") == nginx.count("}")


def test_lua_is_cut_and_nothing_else() -> None:
    text = 'http {\n    lua_package_path "x;;";\n    a_by_lua_block {\n x = {1, {2}}\n }\n    server { }\n}\n'
    assert without_lua(text).split() == ["http", "{", "server", "{", "}", "}"]
    assert "proxy_pass" in without_lua(guide_text())


def test_upstream_connections_are_as_the_column_says() -> None:
    texts = {contender: configuration(contender, PORTS) for contender in CONTENDERS}
    for contender, text in texts.items():
        assert text.count("keepalive 64;") == (2 if contender.upstream == "keepalive 64" else 0)
        assert ("proxy_http_version 1.0;" in text) == (contender.upstream == "keepalive off")


def test_ratios_are_of_columns_that_exist() -> None:
    assert {contender for pair in RATIOS for contender in pair} <= set(CONTENDERS)


def test_medians_are_taken_figure_by_figure() -> None:
    samples = [Figures(1.0, 30.0, 5.0), Figures(2.0, 10.0, 6.0), Figures(9.0, 20.0, 1.0)]
    assert medians(samples) == Figures(2.0, 20.0, 5.0)


def test_the_report_divides_what_was_measured() -> None:
    first, second = RATIOS[0]
    results = {(CASES[0], first): Figures(100.0, 30.0, 2.0), (CASES[0], second): Figures(200.0, 20.0, 1.0)}
    rows = ratio_rows(results)
    assert rows == [["minimal requests: upwell / nginx", "1.50", "0.50", "2.00"]]
    text = report(results, (1000.0, 47.25), {"processor": "one"})
    assert "- processor: one" in text
    assert "| 30.0 |" in text.replace("  ", "")
    assert "47.2 CPU us a probe" in text
    assert as_json(results, None, {})["figures"][0] == {
        "case": "minimal",
        "program": "upwell",
        "upstream": "guide",
        "rate": 100.0,
        "cpu": 30.0,
        "p99": 2.0,
    }


def test_a_ratio_needs_both_columns() -> None:
    assert ratio_rows({(CASES[0], RATIOS[0][0]): Figures(1.0, 1.0, 1.0)}) == []


def test_tables_line_up() -> None:
    lines = table([["a", "bb"], ["long name", "1"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| --------- | -: |"


def test_the_version_is_what_nginx_says() -> None:
    assert nginx_version("nginx version: nginx/1.31.4 (upwell/0.1)\nbuilt\n") == "nginx/1.31.4 (upwell/0.1)"
    with pytest.raises(ValueError, match="Traceback"):
        nginx_version("Traceback")
