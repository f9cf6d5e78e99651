"""The benchmark's pure parts: what it reads from wrk and /proc, and the tables it prints."""

from __future__ import annotations

import os
import time

import pytest

from bench.cases import CASES, GOALS, BadRun, Load, quantile
from bench.contenders import CONTENDERS
from bench.cpu import cpu_ticks, forget_peak, memory, peak, process_seconds, tree
from bench.measure import Cell, Figures, medians
from bench.report import as_json, cpu_section, goal_rows, probes_section, report, table, workers_section
from bench.steady import Work
from bench.tools import nginx_version
from bench.wrk import parse, script

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


def test_memory_of_this_process_is_read() -> None:
    rss, pss = memory(os.getpid())
    assert rss >= pss > 1_000_000


def test_every_case_is_a_request_of_its_own() -> None:
    assert len({(case.path, script(case)) for case in CASES}) == len(CASES)
    browser = next(case for case in CASES if case.name == "browser")
    assert len(browser.fields) + 1 == 10  # wrk adds Host
    assert 'wrk.method = "POST"' in script(next(case for case in CASES if case.name == "post"))


def test_every_goal_is_for_a_case_and_a_contender() -> None:
    assert {name for name, _, _ in GOALS} <= {case.name for case in CASES}
    assert {other for _, other, _ in GOALS} <= set(CONTENDERS)


def test_a_quantile_needs_values() -> None:
    assert quantile([float(n) for n in range(100, 0, -1)], 0.99) == 100.0
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    with pytest.raises(BadRun, match="nothing was answered"):
        quantile([], 0.5)


def test_medians_are_taken_figure_by_figure() -> None:
    samples = [Figures(1.0, 30.0, 5.0), Figures(2.0, 10.0, 6.0), Figures(9.0, 20.0, 1.0)]
    assert medians(samples) == Figures(2.0, 20.0, 5.0)


BROWSER = next(case for case in CASES if case.name == "browser")


def test_the_report_divides_what_was_measured() -> None:
    results: dict[Cell, Figures | str] = {
        Cell(BROWSER, "upwell", False): Figures(100.0, 30.0, 2.0),
        Cell(BROWSER, "nginx", False): Figures(200.0, 20.0, 1.0),
    }
    assert goal_rows(results) == [["ten browser headers: upwell / nginx", "1.00", "1.50"]]
    sections = [cpu_section(results), probes_section((1000.0, 47.25))]
    text = report(sections, {"processor": "one"})
    assert "- processor: one" in text
    assert "| ten browser headers |   1.50 |  1.00 |" in text
    assert "47.2 CPU us a probe" in text
    assert as_json(sections, {})["cpu"][0] == {
        "case": "browser",
        "program": "upwell",
        "log": False,
        "rate": 100.0,
        "cpu": 30.0,
        "p99": 2.0,
    }


def test_what_has_no_figures_says_why() -> None:
    results: dict[Cell, Figures | str] = {
        Cell(BROWSER, "upwell", True): "refused",
        Cell(BROWSER, "nginx", True): "wrk did not end",
    }
    text = cpu_section(results).text
    assert "refused | failed |" in text
    assert "- nginx, ten browser headers, access log on: wrk did not end" in text


def test_few_cores_are_said() -> None:
    found: dict[tuple[str, int], Work | str] = {
        ("upwell", 1): Work(100.0, 60.0, 60.0),
        ("upwell", 2): Work(150.0, 62.0, 31.0),
    }
    assert "not measurable here; 1.94 x by CPU time" in workers_section(found, 2).text
    assert "1.50 x in requests a second; 1.94 x by CPU time" in workers_section(found, 4).text


def test_tables_line_up() -> None:
    lines = table([["a", "bb"], ["long name", "1"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| --------- | -: |"


def test_the_version_is_what_nginx_says() -> None:
    assert nginx_version("nginx version: nginx/1.31.4 (upwell/0.1)\nbuilt\n") == "nginx/1.31.4 (upwell/0.1)"
    with pytest.raises(ValueError, match="Traceback"):
        nginx_version("Traceback")


def test_the_peak_of_memory_is_seen_after_it_passed() -> None:
    forget_peak(os.getpid())
    before = peak(os.getpid())
    held = b"x" * 60_000_000
    del held
    assert peak(os.getpid()) - before > 40_000_000
    forget_peak(os.getpid())
    assert peak(os.getpid()) - before < 40_000_000
