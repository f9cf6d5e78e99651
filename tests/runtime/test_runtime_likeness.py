"""When workers of one configuration can serve for another one, the peers of upstreams left aside."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from upwell.modules.load import load
from upwell.runtime.build import Plan, plan

BASE = """
worker_processes 2;
events { worker_connections 100; }
http {
    log_format own '$remote_addr "$request"';
    upstream backend { zone backend 64k; server 127.0.0.1:81; server 127.0.0.1:82 weight=2; keepalive 8; }
    upstream other { server 127.0.0.1:83; }
    init_worker_by_lua_block { local x = 1 }
    server {
        listen 127.0.0.1:8080;
        location / { proxy_pass http://backend; health_check interval=1s; }
        location /lua { content_by_lua_block { ngx.say("a") } }
    }
}
"""


@pytest.fixture
def planned(tmp_path: Path) -> Callable[[str], Plan]:
    def read(text: str, name: str = "nginx.conf") -> Plan:
        (tmp_path / name).write_text(text)
        return plan(load(name, f"{tmp_path}/"))

    return read


@pytest.mark.parametrize(
    "changed",
    [
        BASE,
        BASE.replace("server 127.0.0.1:82 weight=2;", ""),
        BASE.replace("server 127.0.0.1:83;", "server 127.0.0.1:83 down; server unix:/a backup;"),
        BASE.replace("events", "# a comment\n\n\nevents").replace("interval=1s", '"interval=1s"'),
        BASE.replace("server 127.0.0.1:81;", "\n# one more line before all Lua code\nserver 127.0.0.1:81;\n"),
    ],
    ids=["same", "leaves", "changes", "written otherwise", "lines"],
)
def test_alike(planned: Callable[[str], Plan], changed: str) -> None:
    assert planned(changed).likeness == planned(BASE).likeness


def test_members_in_a_file_of_their_own_are_members(planned: Callable[[str], Plan], tmp_path: Path) -> None:
    text = BASE.replace("server 127.0.0.1:81; server 127.0.0.1:82 weight=2;", "include members.conf;")
    members = tmp_path / "members.conf"
    members.write_text("server 127.0.0.1:81; server 127.0.0.1:82 weight=2;")
    first = planned(text)
    members.write_text("server 127.0.0.1:91;")
    second = planned(text)
    assert first.likeness == second.likeness == planned(BASE).likeness
    assert second.upstreams[0].peers != first.upstreams[0].peers


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("worker_processes 2", "worker_processes 3"),
        ("worker_connections 100", "worker_connections 101"),
        ("keepalive 8", "keepalive 9"),
        ("keepalive 8;", "keepalive 8; least_conn;"),
        ("interval=1s", "interval=2s"),
        ("upstream other {", "upstream another {"),
        ("upstream other { server 127.0.0.1:83; }", ""),
        ("server 127.0.0.1:83;", "server 127.0.0.1:83; server localhost resolve; resolver 127.0.0.1;"),
        ("local x = 1", "local x = 2"),
        ('"a"', '"b"'),
        ("8080;", "8081;"),
        ("8080;", "8080; server_name a;"),
        ("location /lua", "location /luas"),
        ('"$request"\'', '"$request_uri"\''),
    ],
)
def test_not_alike(planned: Callable[[str], Plan], old: str, new: str) -> None:
    assert old in BASE
    assert planned(BASE.replace(old, new)).likeness != planned(BASE).likeness


def test_servers_of_http_are_no_members(planned: Callable[[str], Plan]) -> None:
    second = "server { listen 127.0.0.1:8082; }\n}"
    assert planned(f"{BASE.rstrip().removesuffix('}')}{second}").likeness != planned(BASE).likeness


def test_files_count_by_what_is_in_them(planned: Callable[[str], Plan], tmp_path: Path) -> None:
    code = tmp_path / "code.lua"
    code.write_text("ngx.say(1)")
    text = BASE.replace('content_by_lua_block { ngx.say("a") }', f"content_by_lua_file {code};")
    first = planned(text)
    assert planned(text).likeness == first.likeness
    code.write_text("ngx.say(2)")
    assert planned(text).likeness != first.likeness


def test_files_that_are_replaced_are_others(planned: Callable[[str], Plan], tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    content = (Path(__file__).parents[1] / "check" / "tls" / "test-only.pem").read_text()
    authority.write_text(content)
    text = BASE.replace("interval=1s", f"interval=1s type=https ca={authority}")
    first = planned(text)
    assert planned(text).likeness == first.likeness
    (tmp_path / "new").write_text(content)
    os.replace(tmp_path / "new", authority)
    assert planned(text).likeness != first.likeness


def test_python_code_is_never_known_to_be_the_same(planned: Callable[[str], Plan], tmp_path: Path) -> None:
    (tmp_path / "likeness_probe.py").write_text("def check(target):\n    pass\n")
    text = BASE.replace("interval=1s", "interval=1s type=python function=likeness_probe:check")
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    assert planned(text).likeness != planned(text).likeness
