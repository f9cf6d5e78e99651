"""Tengine's page, byte for byte, from what the checker left in the zone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from upwell.check.spec import TENGINE, MatchSpec
from upwell.zone.records import note_failure, note_pass

CONFIGURATION = """
check_shm_size 10M;
upstream none { server 10.0.0.9:80; }
upstream app {
    server 10.0.0.2:80 backup;
    server 10.0.0.1:80;
    server 10.0.0.3:80 down;
    check interval=3000 rise=2 fall=5 timeout=1000 type=http port=8081;
    check_http_send "HEAD / HTTP/1.0\\r\\n\\r\\n";
    check_http_expect_alive http_2xx http_3xx;
}
upstream db { server 10.0.0.4:3306; check type=mysql default_down=false; }
server {
    listen 127.0.0.1:8080; allow all;
    location / { check_status; }
    location /csv { check_status csv; }
}
"""

HEAD = """<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN
"http://www.w3.org/TR/xhtml1/DTD/xhtml1-strict.dtd">
<html xmlns="http://www.w3.org/1999/xhtml">
<head>
  <title>Nginx http upstream check status</title>
</head>
<body>
<h1>Nginx http upstream check status</h1>
<h2>Check upstream server number: 3, generation: 1</h2>
<table style="background-color:white" cellspacing="0"        cellpadding="3" border="1">
  <tr bgcolor="#C0C0C0">
    <th>Index</th>
    <th>Upstream</th>
    <th>Name</th>
    <th>Status</th>
    <th>Rise counts</th>
    <th>Fall counts</th>
    <th>Check type</th>
    <th>Check port</th>
  </tr>
  <tr>
    <td>0</td>
    <td>app</td>
    <td>10.0.0.1:80</td>
    <td>up</td>
    <td>3</td>
    <td>0</td>
    <td>http</td>
    <td>8081</td>
  </tr>
  <tr bgcolor="#FF0000">
    <td>1</td>
    <td>app</td>
    <td>10.0.0.2:80</td>
    <td>down</td>
    <td>0</td>
    <td>7</td>
    <td>http</td>
    <td>8081</td>
  </tr>
"""
TAIL = """  <tr>
    <td>2</td>
    <td>db</td>
    <td>10.0.0.4:3306</td>
    <td>up</td>
    <td>1</td>
    <td>0</td>
    <td>mysql</td>
    <td>0</td>
  </tr>
</table>
</body>
</html>
"""
CSV = """0,app,10.0.0.1:80,up,3,0,http,8081
1,app,10.0.0.2:80,down,0,7,http,8081
2,db,10.0.0.4:3306,up,1,0,mysql,0
"""
JSON = """{"servers": {
  "total": 3,
  "up": 2,
  "down": 1,
  "generation": 1,
  "server": [
    {"index": 0, "upstream": "app", "name": "10.0.0.1:80", "status": "up", "rise": 3, "fall": 0, "type": "http", "port": 8081},
    {"index": 1, "upstream": "app", "name": "10.0.0.2:80", "status": "down", "rise": 0, "fall": 7, "type": "http", "port": 8081},
    {"index": 2, "upstream": "db", "name": "10.0.0.4:3306", "status": "up", "rise": 1, "fall": 0, "type": "mysql", "port": 0}
  ]
}}
"""  # noqa: E501  # the page's own lines
PROMETHEUS = """# HELP nginx_upstream_count_total Nginx total number of servers
# TYPE nginx_upstream_count_total gauge
nginx_upstream_count_total 1
# HELP nginx_upstream_count_up Nginx total number of servers that are UP
# TYPE nginx_upstream_count_up gauge
nginx_upstream_count_up 0
# HELP nginx_upstream_count_down Nginx total number of servers that are DOWN
# TYPE nginx_upstream_count_down gauge
nginx_upstream_count_down 1
# HELP nginx_upstream_count_generation Nginx generation
# TYPE nginx_upstream_count_generation gauge
nginx_upstream_count_generation 1
# HELP nginx_upstream_server_rise Nginx rise counter
# TYPE nginx_upstream_server_rise counter
nginx_upstream_server_rise{index="1",upstream="app",name="10.0.0.2:80",status="down",type="http",port="8081"} 0
# HELP nginx_upstream_server_fall Nginx fall counter
# TYPE nginx_upstream_server_fall counter
nginx_upstream_server_fall{index="1",upstream="app",name="10.0.0.2:80",status="down",type="http",port="8081"} 7
# HELP nginx_upstream_server_active Nginx active 1 for UP / 0 for DOWN
# TYPE nginx_upstream_server_active gauge
nginx_upstream_server_active{index="1",upstream="app",name="10.0.0.2:80",type="http",port="8081"} 0
"""


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path, CONFIGURATION) as one:
        table = one.table
        app, db = one.checks
        rows = {key[2]: row for row, key in enumerate(table.keys)}
        for name, spec, up, streak in (
            ("10.0.0.1:80", app, True, 3),
            ("10.0.0.2:80", app, False, -7),
            ("10.0.0.4:3306", db, True, 1),
        ):
            row = rows[name]
            slot = table.add_check(row, spec.identity, spec.rise, spec.rise + spec.fall - 1 if up else 0)
            for _ in range(abs(streak)):
                if streak > 0:
                    note_pass(table.words, table.record_at(row, slot))
                else:
                    note_failure(table.words, table.record_at(row, slot), 1, 0, 5)
        yield one


def page(serving: Serving, target: str, method: str = "GET") -> tuple[int, str, str]:
    answer = serving.ask(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return answer.status, answer.field("content-type") or "", answer.body.decode()


@pytest.mark.parametrize(
    ("target", "media_type", "content"),
    [
        ("/", "text/html", HEAD + TAIL),
        ("/?format=html", "text/html", HEAD + TAIL),
        ("/?format=no", "text/html", HEAD + TAIL),
        ("/csv", "text/plain", CSV),
        ("/csv?format=no&status=no", "text/plain", CSV),
        ("/?format=csv&status=up", "text/plain", CSV.replace(CSV.splitlines(True)[1], "")),
        ("/?status=DOWN&format=csv", "text/plain", CSV.splitlines(True)[1]),
        ("/?format=json", "application/json", JSON),
        ("/?format=prometheus&status=down", "text/plain", PROMETHEUS),
    ],
)
def test_each_format_is_tengine_s(serving: Serving, target: str, media_type: str, content: str) -> None:
    assert page(serving, target) == (200, media_type, content)


@pytest.mark.parametrize("state", ["up", "down", "UP"])
def test_a_filtered_json_is_valid_json(serving: Serving, state: str) -> None:
    found = json.loads(page(serving, f"/?format=json&status={state}")[2])["servers"]
    assert [one["status"] for one in found["server"]] == [state.lower()] * found["total"]
    assert found[state.lower()] == found["total"] > 0


def test_an_empty_list_is_valid_json_too(serving: Serving) -> None:
    for row in range(len(serving.table.keys)):
        for state in serving.table.checks(row):
            serving.table.drop_check(row, state.slot)
    assert json.loads(page(serving, "/?format=json")[2])["servers"]["server"] == []


NAME = 'q"<script>&\\x'


def test_names_are_escaped_as_each_format_wants(tmp_path: Path) -> None:
    text = """
        upstream 'q"<script>&\\\\x' { server 10.0.0.4:3306; check type=tcp; }
        server { listen 127.0.0.1:8080; allow all; location / { check_status; } }
    """
    with Serving(tmp_path, text) as serving:
        (spec,) = serving.checks
        serving.table.add_check(0, spec.identity, spec.rise, spec.rise)
        assert spec.upstream == NAME
        (server,) = json.loads(page(serving, "/?format=json")[2])["servers"]["server"]
        assert server["upstream"] == NAME
        assert "<td>q&quot;&lt;script&gt;&amp;\\x</td>" in page(serving, "/")[2]
        assert 'upstream="q\\"<script>&\\\\x",' in page(serving, "/?format=prometheus")[2]


def test_only_get_and_head_are_allowed(serving: Serving) -> None:
    assert page(serving, "/", "POST")[0] == 405
    assert page(serving, "/", "HEAD")[::2] == (200, "")


def test_the_directives_make_the_checks(serving: Serving) -> None:
    app, db = serving.checks
    assert (app.upstream, app.type, app.dialect, app.port) == ("app", "http", TENGINE, 8081)
    assert (app.interval, app.timeout, app.rise, app.fall, app.initial) == (3.0, 1.0, 2, 5, "down")
    assert app.request == b"HEAD / HTTP/1.0\r\n\r\n"
    assert app.match == MatchSpec(statuses=((200, 299), (300, 399)), words="2xx or 3xx")
    assert (db.type, db.interval, db.rise, db.fall, db.initial, db.match) == ("mysql", 30.0, 2, 5, "up", None)
