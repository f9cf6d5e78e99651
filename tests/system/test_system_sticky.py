"""`sticky` beside nginx: the same cookies and the same peers; and sessions that several workers and a reload share."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.system.conftest import StartBalancer
from tests.system.wire import Answer, Origin, Respond, Seen, ask, get, response
from upwell.contrib.processes import await_condition, free_ports

_TIME = re.compile(r"\d\d:\d\d:\d\d GMT")


def _answer(name: str) -> Respond:
    def respond(seen: Seen, _: socket.socket) -> bytes:
        if b"/failing" in seen.target:
            return response(b"", status="500 x")
        if b"/elsewhere" in seen.target:
            return response(b"", "X-Accel-Redirect: /page")
        return response(name.encode(), "Set-Cookie: own=1", f"X-Name: {name}")

    return respond


def _configuration(front: int, ports: list[int], closed: int) -> str:
    a, b, c = ports
    return f"""
events {{ }}
http {{
    access_log off;
    upstream cookie {{
        server 127.0.0.1:{a}; server 127.0.0.1:{b} weight=2; server 127.0.0.1:{c};
        sticky cookie srv expires=1h domain=.x.$host path=/p httponly secure samesite=Lax;
    }}
    upstream routes {{
        server 127.0.0.1:{a} route=a; server 127.0.0.1:{b} route=b drain; server 127.0.0.1:{c} route=c down;
        sticky route $arg_r $cookie_r;
    }}
    upstream dynamic {{ server 127.0.0.1:{a} route=a; sticky cookie srv expires=max samesite=$arg_s domain=$arg_d; }}
    upstream drains {{ server 127.0.0.1:{a} drain route=a; sticky cookie srv expires=0; }}
    upstream dead {{ server 127.0.0.1:{closed} max_fails=0; sticky cookie srv; }}
    upstream backup {{
        server 127.0.0.1:{closed} route=x; server 127.0.0.1:{b} backup route=b; server 127.0.0.1:{c} backup route=c;
        sticky cookie srv;
    }}
    upstream last {{
        server 127.0.0.1:{closed} drain route=x max_fails=0; server 127.0.0.1:{a} route=a; sticky cookie srv;
    }}
    upstream least {{
        server 127.0.0.1:{a} route=a; server 127.0.0.1:{b} route=b; server 127.0.0.1:{c} route=c;
        least_conn; sticky cookie srv;
    }}
    upstream hashed {{
        server 127.0.0.1:{a} route=a; server 127.0.0.1:{b} route=b; server 127.0.0.1:{c} route=c drain;
        hash $arg_k; sticky cookie srv;
    }}
    server {{
        listen 127.0.0.1:{front};
        location /cookie {{ proxy_pass http://cookie; proxy_intercept_errors on; error_page 500 /page; }}
        location /routes {{ proxy_pass http://routes; }}
        location /dynamic {{ proxy_pass http://dynamic; }}
        location /drains {{ proxy_pass http://drains; }}
        location /dead {{ proxy_pass http://dead; }}
        location /named {{ proxy_pass http://dead; error_page 502 @cookie; }}
        location @cookie {{ proxy_pass http://cookie; }}
        location /backup {{ proxy_pass http://backup; }}
        location /last {{ proxy_pass http://last; }}
        location /least {{ proxy_pass http://least; }}
        location /hashed {{ proxy_pass http://hashed; }}
        location = /page {{ return 200 page; }}
    }}
}}
"""


@dataclass
class Sides:
    nginx: int
    upwell: int
    ports: list[int]


@pytest.fixture(scope="module")
def sides(start_shared: StartBalancer, nginx: tuple[str, ...]) -> Iterator[Sides]:
    of_nginx, of_upwell, closed = free_ports(3)
    with ExitStack() as stack:
        origins = [stack.enter_context(Origin(_answer(name))) for name in "abc"]
        ports = [origin.port for origin in origins]
        start_shared(_configuration(of_nginx, ports, closed), [of_nginx], nginx, "daemon off; master_process off;")
        start_shared(_configuration(of_upwell, ports, closed), [of_upwell], main="daemon off; worker_processes 1;")
        yield Sides(of_nginx, of_upwell, ports)


def _shown(answer: Answer) -> tuple[int | str, list[tuple[str, str]], bytes]:
    fields = [(name, _TIME.sub("TIME", value)) for name, value in answer.fields]
    kept = [(name, value) for name, value in fields if name in ("Set-Cookie", "X-Name")]
    return answer.status, kept, answer.body if answer.status == 200 else b""


CASES = {
    "a new session": [get("/cookie")],
    "fields and pages": [get("/cookie/failing"), get("/cookie/elsewhere"), get("/named"), get("/dead")],
    "routes": [get(f"/routes?r={route}") for route in ("a", "b", "c", "d", "")]
    + [get("/routes", "Cookie: r=b"), get("/routes?r=a", "Cookie: r=b")],
    "what comes of variables": [get(f"/dynamic?s={one}") for one in ("", "lax", "NONE", "nonsense")]
    + [get("/dynamic?d=.example.org")],
    "one that drains": [get("/drains"), get("/drains", "Cookie: srv=a"), get("/drains", "Cookie: srv=b")],
    "backups": [get("/backup"), get("/backup", "Cookie: srv=c"), get("/backup", "Cookie: srv=b"), get("/backup")],
    "no second try": [get("/last", "Cookie: srv=x"), get("/last"), get("/last", "Cookie: srv=a")],
    "other methods": [get("/least", f"Cookie: srv={one}") for one in "aabcxcxxaxx"]
    + [get(f"/hashed?k={key}", "Cookie: srv=b") for key in range(3)]
    + [get(f"/hashed?k={key}", "Cookie: srv=c") for key in range(3)]
    + [get(f"/hashed?k={key}", "Cookie: srv=none") for key in range(8)],
}


@pytest.mark.parametrize("name", CASES)
def test_answers_are_nginx_s(sides: Sides, name: str) -> None:
    for request in CASES[name]:
        assert _shown(ask(sides.upwell, request)) == _shown(ask(sides.nginx, request)), request


def test_bound_requests_count_in_the_balance_as_in_nginx(sides: Sides) -> None:
    routes: dict[str, str] = {}
    while len(routes) < 3:
        answer = ask(sides.nginx, get("/cookie"))
        routes[answer.body.decode()] = str(answer.field("set-cookie")).partition(";")[0]
    seen = []
    for _ in range(20):  # both begin a round at the same place
        seen.append(ask(sides.nginx, get("/cookie")).body)
        if seen[-4:] == [b"b", b"a", b"c", b"b"]:
            break
    mine = [ask(sides.upwell, get("/cookie")).body for _ in range(4)]
    while mine[-4:] != [b"b", b"a", b"c", b"b"]:
        mine.append(ask(sides.upwell, get("/cookie")).body)
        assert len(mine) < 20
    for bound in "aaa bbbb ab cccccc a b c   bbbbbbb ca cab  aabbcc    ":
        fields = (f"Cookie: {routes[bound]}",) if bound != " " else ()
        request = get("/cookie", *fields)
        assert ask(sides.upwell, request).body == ask(sides.nginx, request).body


def test_sessions_are_shared_by_workers_and_outlive_a_reload(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Origin(response(b"a", "X-Sid: s")) as first, Origin(response(b"b")) as second:
        configuration = f"""
events {{ }}
http {{
    upstream u {{
        server 127.0.0.1:{first.port} weight=1; server 127.0.0.1:{second.port} weight=1;
        sticky learn create=$upstream_http_x_sid lookup=$arg_sid zone=sessions:64k header;
    }}
    server {{ listen 127.0.0.1:{front}; location / {{ proxy_pass http://u; }} }}
}}
"""
        balancer = start(configuration, [front], main="daemon off; worker_processes 4;")
        assert {ask(front, get("/")).body for _ in range(20)} == {b"a", b"b"}
        assert {ask(front, get("/?sid=s")).body for _ in range(20)} == {b"a"}
        before = set(balancer.workers)
        balancer.send(signal.SIGHUP)
        await_condition(lambda: not before & set(balancer.workers), "the old workers end", 20.0)
        assert {ask(front, get("/?sid=s")).body for _ in range(20)} == {b"a"}
