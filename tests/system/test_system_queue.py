"""`queue` and `max_conns` with several workers: a peer is never asked for more, and nobody is turned away."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.system.conftest import StartBalancer
from tests.system.wire import Origin, Seen, ask, get, response
from upwell.contrib.processes import free_ports


class Counting:
    """An origin's answers, each of which takes a while; `most` is how many it was asked for at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0

    def __call__(self, seen: Seen, connection: socket.socket) -> bytes:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(0.02)
        with self._lock:
            self._now -= 1
        return response(b"x")


def _statuses(start: StartBalancer, respond: Callable[[Seen, socket.socket], bytes], queue: str) -> list[int | str]:
    (front,) = free_ports(1)
    with Origin(respond) as origin:
        configuration = f"""
events {{ }}
http {{
    upstream u {{ server 127.0.0.1:{origin.port} max_conns=2; {queue} }}
    server {{ listen 127.0.0.1:{front}; location / {{ proxy_pass http://u; }} }}
}}
"""
        start(configuration, [front], main="daemon off; worker_processes 3;")
        with ThreadPoolExecutor(16) as pool:
            return [answer.status for answer in pool.map(lambda _: ask(front, get("/")), range(48))]


@pytest.mark.parametrize("queue", ["queue 48;", ""])
def test_who_finds_all_peers_full_waits_only_in_a_queue(start: StartBalancer, queue: str) -> None:
    respond = Counting()
    statuses = _statuses(start, respond, queue)
    assert respond.most <= 2
    assert set(statuses) == ({200} if queue else {200, 502})
