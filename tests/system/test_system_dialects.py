"""The same backends, the same timeline and the same verdicts under all three dialects of health checks."""

from __future__ import annotations

import re
import socket

from tests.system.conftest import StartBalancer
from tests.system.shop import BROKEN, FINE, Shop, await_takers
from tests.system.wire import Origin, Seen, response
from upwell.contrib.processes import await_condition, free_ports

DIALECTS = ("resty", "plus", "tengine")
_TRANSITION = re.compile(r'transition upstream="(\w+)" peer="([^"]+)" check="[^"]*" from=(\w+) to=(\w+)')

SILENT = b""
GARBAGE = b"220 this is not HTTP\r\n\r\n"
TIMELINE = (
    ("503", BROKEN),
    ("no answer", SILENT),
    ("404", response(b"", status="404 Not Found")),
    ("no HTTP", GARBAGE),
    ("500 without a reason", response(b"x" * 100_000, status="500 ")),
)
"""What a peer does for a while; before and after each it is well."""


def _configuration(front: int, peers: list[int]) -> str:
    servers = " ".join(f"server 127.0.0.1:{peer} max_fails=0;" for peer in peers)
    return f"""
worker_processes 2;
error_log logs/error.log notice;
events {{ worker_connections 1024; }}
http {{
    lua_shared_dict healthcheck 1m;
    upstream resty {{ {servers} }}
    upstream plus {{ {servers} }}
    upstream tengine {{
        {servers}
        check interval=100 fall=2 rise=2 timeout=300 type=http default_down=false;
        check_http_send "GET /health HTTP/1.0\\r\\nHost: tengine\\r\\n\\r\\n";
        check_http_expect_alive http_2xx;
    }}
    init_worker_by_lua_block {{
        local hc = require "resty.upstream.healthcheck"
        assert(hc.spawn_checker {{
            shm = "healthcheck", type = "http", upstream = "resty",
            http_req = "GET /health HTTP/1.0\\r\\nHost: resty\\r\\n\\r\\n",
            interval = 100, timeout = 300, fall = 2, rise = 2, valid_statuses = {{200, 204}}, concurrency = 10,
        }})
    }}
    match well {{ status 200-299; }}
    server {{
        listen 127.0.0.1:{front};
        proxy_next_upstream off;
        location /resty {{ proxy_pass http://resty; }}
        location /plus {{
            proxy_pass http://plus;
            health_check uri=/health interval=100ms fails=2 passes=2 timeout=300ms match=well;
        }}
        location /tengine {{ proxy_pass http://tengine; }}
    }}
}}
"""


def test_all_dialects_see_the_same(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Shop("a") as a, Shop("b") as b:
        balancer = start(_configuration(front, [a.port, b.port]), [front])

        def all_see(names: set[str]) -> None:
            for dialect in DIALECTS:
                await_takers(front, names, f"/{dialect}")

        all_see({"a", "b"})
        for _, answer in TIMELINE:
            a.otherwise = answer
            all_see({"b"})
            a.otherwise = FINE
            all_see({"a", "b"})
        a.otherwise = b.otherwise = BROKEN
        all_see({"502"})
        a.otherwise = response(b"", status="204 No Content")
        all_see({"a"})

        def transitions() -> dict[str, list[tuple[str, ...]]]:
            found: dict[str, list[tuple[str, ...]]] = {dialect: [] for dialect in DIALECTS}
            for upstream, *transition in _TRANSITION.findall(balancer.error_log()):
                found[upstream].append(tuple(transition))
            return found

        one = [("up", "down"), ("down", "up")]
        name_a, name_b = f"127.0.0.1:{a.port}", f"127.0.0.1:{b.port}"
        for found in transitions().values():
            assert [change for peer, *change in found if peer == name_a] == [list(pair) for pair in one * 6]
            assert [change for peer, *change in found if peer == name_b] == [["up", "down"]]


def test_all_dialects_see_a_peer_come_and_go(start: StartBalancer) -> None:
    (front, gone) = free_ports(2)
    with Shop("a") as a:
        start(_configuration(front, [a.port, gone]), [front])
        for dialect in DIALECTS:
            await_takers(front, {"a"}, f"/{dialect}")

        def answer(seen: Seen, connection: socket.socket) -> bytes:
            return response(b"new")

        with Origin(answer, port=gone) as origin:
            for dialect in DIALECTS:
                await_takers(front, {"a", "new"}, f"/{dialect}")
            await_condition(lambda: bool(origin.seen), "requests", 5)
        for dialect in DIALECTS:
            await_takers(front, {"a"}, f"/{dialect}")
