"""Pages count every request once while one reload follows another and old workers still serve, in real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import ExitStack
from threading import Event
from typing import Any

from tests.system.conftest import StartBalancer
from tests.system.wire import Client, Origin, Seen, ask, get, post, response
from upwell.contrib.processes import Balancer, await_condition, free_ports
from upwell.contrib.traffic import fetch

_SECONDS = 60


def _text(front: int, origin: int, main: str) -> str:
    return f"""
worker_processes 2; {main}
error_log logs/error.log info;
events {{ }}
http {{
    access_log off;
    upstream peers {{ zone peers 64k; server 127.0.0.1:{origin}; }}
    server {{
        listen 127.0.0.1:{front};
        location / {{ proxy_pass http://peers; }}
        location = /upwell {{ upwell_status; status_format json; }}
    }}
}}
"""


class Town:
    """A balancer before one peer, where everything below /long waits until `over`."""

    def __init__(self, start: StartBalancer, stack: ExitStack) -> None:
        self.over = Event()
        self.origin = stack.enter_context(Origin(self._answer))
        (self.front,) = free_ports(1)
        self.balancer: Balancer = start(_text(self.front, self.origin.port, ""), [self.front])
        self._stack = stack
        self._reloads = 0
        self.asked = 0

    def _answer(self, seen: Seen, _: socket.socket) -> bytes:
        if seen.target.startswith(b"/long"):
            self.over.wait(_SECONDS)
        return response(b"x" * 1000)

    def ask(self, times: int) -> None:
        """Whole requests, one after the other."""
        for _ in range(times):
            assert ask(self.front, get("/")).status == 200
        self.asked += times

    def download(self, path: str = "/long") -> Client:
        """A request that has reached the peer."""
        before = len(self.origin.seen)
        client = self._stack.enter_context(Client(self.front))
        client.send(get(path, "Connection: close"))
        await_condition(lambda: len(self.origin.seen) > before, "the request at the origin", _SECONDS)
        self.asked += 1
        return client

    def upload(self) -> Client:
        """A request whose body is not whole: it comes to the peer later, by the worker that has it."""
        client = self._stack.enter_context(Client(self.front))
        client.send(post(b"1234567890", "/", "Connection: close", "Expect: 100-continue")[:-10])
        # The worker that says this has the head.
        assert client.socket.recv(64).startswith(b"HTTP/1.1 100 ")
        client.send(b"12345")
        self.asked += 1
        return client

    def reload(self) -> None:
        """HUP with new workers, and the hand-over to them."""
        self._reloads += 1
        text = _text(self.front, self.origin.port, f"worker_rlimit_nofile {4096 + self._reloads};")
        self.balancer.configure(text)
        self.balancer.send(signal.SIGHUP)
        await_condition(self._told, "the hand-over", _SECONDS)

    def _told(self) -> bool:
        """Whether all workers that are not of the last generation have been told to end."""
        lines = self.balancer.error_log().splitlines()
        return sum("gracefully shutting down" in line for line in lines) == 2 * self._reloads

    def peer(self) -> dict[str, Any]:
        status, page = fetch(self.front, "/upwell")
        assert status == 200
        peer: dict[str, Any] = json.loads(page)["upstreams"][0]["peers"][0]
        return peer

    def await_counts(self, connections: int, requests: int, answers: int) -> None:
        def seen() -> tuple[int, int, int]:
            peer = self.peer()
            return peer["connections"], peer["requests"], peer["responses"]["2xx"]

        expected = connections, requests, answers
        await_condition(lambda: seen() == expected, f"connections, requests and answers {expected}", _SECONDS)


def test_pages_count_each_request_once_over_reloads(start: StartBalancer) -> None:
    with ExitStack() as stack:
        town = Town(start, stack)
        town.ask(3)
        downloads = [town.download() for _ in range(2)]
        uploads = [town.upload() for _ in range(2)]
        town.reload()
        town.ask(4)
        downloads.append(town.download())
        uploads.append(town.upload())
        town.reload()
        town.ask(5)
        downloads.append(town.download())
        # What old workers have under way is on the page of the new ones.
        town.await_counts(4, town.asked - len(uploads), 12)
        for client in uploads:
            client.send(b"67890")
        for client in uploads:
            assert client.answer("POST").status == 200
        town.await_counts(4, town.asked, 12 + len(uploads))
        town.reload()
        town.over.set()
        for client in downloads:
            assert client.answer().status == 200
        town.ask(1)
        town.await_counts(0, town.asked, town.asked)
        await_condition(lambda: len(town.balancer.workers) == 3, "the end of the old workers", _SECONDS)
        # Nothing more comes with the end of generations, and all of it goes along.
        town.reload()
        town.await_counts(0, town.asked, town.asked)
        assert town.peer()["received"] % town.asked == 0


def test_an_old_worker_that_is_killed_takes_no_count_along_and_leaves_no_connection(start: StartBalancer) -> None:
    with ExitStack() as stack:
        town = Town(start, stack)
        client = town.download()
        before = set(town.balancer.workers)
        town.reload()
        await_condition(lambda: len(before & set(town.balancer.workers)) == 1, "the end of the others", _SECONDS)
        (old,) = before & set(town.balancer.workers)
        town.ask(2)
        town.await_counts(1, 3, 2)
        os.kill(old, signal.SIGKILL)
        assert client.closed(_SECONDS)
        town.await_counts(0, 3, 2)
