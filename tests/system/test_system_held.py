"""Which peers nginx tries while requests are under way: recorded of the real one, compared with upwell's and with what
upwell does over the wire.

`UPWELL_RECORD=1 pytest tests/system/test_system_held.py` writes what it recorded to tests/cases/balancers/held.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from random import Random
from select import select

import pytest

from tests.peers.held import Case, replay, write
from tests.system.conftest import StartBalancer
from upwell.contrib.processes import UPWELL, await_condition, free_ports

_RECORDS = bool(os.environ.get("UPWELL_RECORD"))
_METHODS = {
    "least_conn": "least_conn;",
    "round_robin": "",
    "ip_hash": "ip_hash;",
    "hash": "hash $uri;",
    "consistent": "hash $uri consistent;",
}
_GROUPS: dict[str, list[str]] = {
    # what follows the addresses of the peers; "refuses" is none of nginx's
    "alike": [""] * 5,
    "weights": ["weight=3", "", "weight=2", "weight=6"],
    "limits": ["max_conns=1", "max_conns=3 weight=4", "max_conns=2"],
    "mixed": ["max_conns=1 weight=3", "", "max_conns=2 refuses", "max_conns=2 weight=2", "max_conns=1 down"],
    "backup": ["max_conns=2", "max_conns=1 weight=2", "backup", "backup weight=2"],
    "failing": ["", "refuses max_fails=2 weight=3", "weight=2", "refuses max_fails=0", "down"],
}
_CASES = [
    *(f"least_conn_{group}" for group in _GROUPS),
    "round_robin_limits",
    *(f"{method}_{group}" for method in ("ip_hash", "hash", "consistent") for group in ("limits", "mixed")),
]
_STEPS = 90


class _Wire:
    """Clients and peers of one balancer; each request is one connection on either side."""

    def __init__(self, front: int, listeners: dict[socket.socket, str], stack: ExitStack) -> None:
        self._front = front
        self._listeners = listeners
        self._stack = stack
        self._clients: list[socket.socket] = []
        self._held: list[socket.socket | None] = []

    def begin(self) -> str:
        """Send a request, and wait until a peer or the client has something to read. Which peer has it, if any."""
        client = self._stack.enter_context(socket.create_connection(("127.0.0.1", self._front), 10))
        client.sendall(b"GET /%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % len(self._clients))
        self._clients.append(client)
        ready, _, _ = select([client, *self._listeners], [], [], 10)
        assert ready, "nobody got the request within 10 s"
        if ready == [client]:
            self._held.append(None)
            return ""
        (listener,) = ready
        held, _ = listener.accept()
        self._stack.enter_context(held).settimeout(10)
        data = b""
        while b"\r\n\r\n" not in data:
            data += held.recv(4096)
        self._held.append(held)
        return self._listeners[listener]

    def end(self, number: int) -> None:
        """Let the peer answer, and wait till the client has it."""
        held = self._held[number]
        if held is not None:
            held.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            held.close()
        client = self._clients[number]
        while client.recv(4096):
            pass
        client.close()


def _run(wire: _Wire, seed: int, log: Path) -> list[list[str] | int]:
    """Requests that come and end as chance has it. The log says who was tried."""
    chance = Random(seed)
    steps: list[list[str] | int] = []
    places: list[int] = []
    under_way: list[int] = []

    def end(number: int) -> None:
        wire.end(number)
        steps.append(number)

    for _ in range(_STEPS):
        if under_way and chance.random() < 0.45:
            end(under_way.pop(chance.randrange(len(under_way))))
            continue
        places.append(len(steps))
        steps.append([])
        number = len(places) - 1
        if wire.begin():
            under_way.append(number)
        else:
            end(number)
    for number in under_way:
        end(number)
    await_condition(lambda: log.read_bytes().count(b"\n") == len(places), "all lines of the access log", 10)
    for line in log.read_text().splitlines():
        request, _, names = line.partition(" ")
        steps[places[int(request[1:])]] = [name for name in names.split(", ") if name != "u"]
    return steps


def _configuration(front: int, upstream: list[str], workers: int = 1) -> str:
    lines = "\n".join(upstream)
    return f"""
worker_processes {workers};
events {{ worker_connections 1024; }}
http {{
    upstream u {{
        {lines}
    }}
    log_format tried "$request_uri $upstream_addr";
    access_log logs/tried.log tried;
    server {{
        listen 127.0.0.1:{front};
        location / {{
            proxy_pass http://u;
        }}
    }}
}}
"""


@pytest.mark.parametrize("name", _CASES)
def test_the_peers_tried_are_those_that_nginx_tries(
    name: str, start: StartBalancer, nginx: tuple[str, ...], tmp_path: Path
) -> None:
    method = next(one for one in _METHODS if name.startswith(f"{one}_"))
    group = _GROUPS[name.removeprefix(f"{method}_")]
    ports = free_ports(len(group))
    upstream = [_METHODS[method]] if _METHODS[method] else []
    failing = []
    names = []
    for words, port in zip(group, ports, strict=True):
        peer = f"127.0.0.1:{port}"
        rest = words.split()
        if "refuses" in rest:
            rest.remove("refuses")
            failing.append(peer)
        else:
            names.append(port)
        upstream.append(f"server {' '.join([peer, *rest, 'fail_timeout=1000s'])};")
    found = []
    for command in (nginx, UPWELL):
        with ExitStack() as stack:
            listeners = {
                stack.enter_context(socket.create_server(("127.0.0.1", port))): f"127.0.0.1:{port}" for port in names
            }
            (front,) = free_ports(1)
            balancer = start(_configuration(front, upstream), [front], command)
            log = balancer.prefix / "logs" / "tried.log"
            found.append(_run(_Wire(front, listeners, stack), len(name), log))
    case = Case(upstream=upstream, failing=failing, steps=found[0])
    if _RECORDS:
        write(name, case)
    assert replay(case, tmp_path) == case["steps"]
    assert found[1] == found[0]


@pytest.mark.parametrize("method", ["least_conn;", "least_time header;", "", "random two;"])
def test_several_workers_count_together(method: str, start: StartBalancer, nginx: tuple[str, ...]) -> None:
    """nginx with a `zone`; upwell always."""
    for command in (nginx, UPWELL):
        ports = free_ports(4)
        limits = [f"server 127.0.0.1:{port} max_conns=3;" for port in ports]
        with ExitStack() as stack:
            listeners = {
                stack.enter_context(socket.create_server(("127.0.0.1", port))): f"127.0.0.1:{port}" for port in ports
            }
            (front,) = free_ports(1)
            start(_configuration(front, [method, "zone u 64k;", *limits], workers=3), [front], command)
            wire = _Wire(front, listeners, stack)
            got = [wire.begin() for _ in range(14)]
            if method.startswith("least"):
                for turn in (got[:4], got[4:8]):
                    assert len(set(turn)) == 4, turn
            assert Counter(got) == {**dict.fromkeys(listeners.values(), 3), "": 2}
            for number in range(14):
                wire.end(number)
