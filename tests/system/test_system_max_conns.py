"""`max_conns` and a group with a single server beside nginx: what counts as a connection, and what failures do."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.system.conftest import StartBalancer
from tests.system.wire import Origin, Seen, ask, get, response
from upwell.contrib.processes import await_condition, free_ports

SIDES = ("nginx", "upwell")


@pytest.mark.parametrize("side", SIDES)
def test_connections_that_rest_do_not_count(side: str, start: StartBalancer, nginx: tuple[str, ...]) -> None:
    gate = threading.Event()

    def respond(seen: Seen, _: socket.socket) -> bytes:
        if seen.target == b"/slow":
            gate.wait(10)
        return response(b"fine")

    (front,) = free_ports(1)
    with Origin(respond) as origin, ThreadPoolExecutor(1) as pool:
        configuration = f"""
events {{ }}
http {{
    upstream u {{ server 127.0.0.1:{origin.port} max_conns=1; keepalive 4; }}
    server {{ listen 127.0.0.1:{front}; location / {{ proxy_pass http://u; }} }}
}}
"""
        if side == "nginx":
            start(configuration, [front], nginx)
        else:
            start(configuration, [front])
        assert [ask(front, get("/")).status for _ in range(3)] == [200] * 3
        slow = pool.submit(ask, front, get("/slow"))
        await_condition(lambda: any(seen.target == b"/slow" for seen in origin.seen), "the slow request", 10.0)
        assert ask(front, get("/")).status == 502
        gate.set()
        assert slow.result().status == 200
        assert ask(front, get("/")).status == 200
        assert origin.connections == 1


def _refusing_then(side: str, start: StartBalancer, nginx: tuple[str, ...], more: str) -> list[int | str]:
    """The statuses of two requests to a peer that refuses connections, and of one when it does not any more."""
    front, port = free_ports(2)
    configuration = f"""
events {{ }}
http {{
    upstream u {{ server 127.0.0.1:{port}; {more} }}
    server {{ listen 127.0.0.1:{front}; location / {{ proxy_pass http://u; }} }}
}}
"""
    if side == "nginx":
        start(configuration, [front], nginx, "daemon off; worker_processes 1;")
    else:
        start(configuration, [front], main="daemon off; worker_processes 1;")
    statuses = [ask(front, get("/")).status for _ in range(2)]
    with Origin(response(b"fine"), port=port):
        return [*statuses, ask(front, get("/")).status]


@pytest.mark.parametrize("side", SIDES)
def test_the_only_server_is_asked_whatever_it_did(side: str, start: StartBalancer, nginx: tuple[str, ...]) -> None:
    assert _refusing_then(side, start, nginx, "") == [502, 502, 200]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("other", ["backup", "", "down"])
def test_with_another_one_it_rests(side: str, other: str, start: StartBalancer, nginx: tuple[str, ...]) -> None:
    (nobody,) = free_ports(1)
    more = f"server 127.0.0.1:{nobody} {other};"
    assert _refusing_then(side, start, nginx, more) == [502, 502, 502]
