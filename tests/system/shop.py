"""A backend of the tests of health checks: its answers to probes can be changed while it runs, and requests name it."""

from __future__ import annotations

import socket

from tests.system.wire import Origin, Seen, ask, get, response
from upwell.contrib.processes import Balancer, await_condition

_SECONDS = 20

FINE = response(b"fine", "X-Ready: yes")
BROKEN = response(b"sorry", status="503 Service Unavailable")


PROBED = (b"/health", b"/live", b"/ready", b"/other")
"""What the paths of probes begin with."""


class Shop:
    """A web server that answers requests with its name, and probes with what it is told: those for a path in `answer`
    with that, others with `otherwise`."""

    def __init__(self, name: str, answer: bytes = FINE) -> None:
        self.name = name
        self.answer: dict[bytes, bytes] = {}
        self.otherwise = answer
        self.origin = Origin(self._respond)

    def __enter__(self) -> Shop:
        self.origin.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.origin.__exit__()

    @property
    def port(self) -> int:
        return self.origin.port

    def probes(self, path: bytes = b"/health") -> list[Seen]:
        return [seen for seen in self.origin.seen if seen.target == path]

    def _respond(self, seen: Seen, connection: socket.socket) -> bytes:
        if seen.target in self.answer:
            return self.answer[seen.target]
        return self.otherwise if seen.target.startswith(PROBED) else response(self.name.encode())


def takers(front: int, path: str = "/", requests: int = 8) -> set[str]:
    """Who answers `requests` requests, each on a connection of its own; "502" for nobody."""
    answers = [ask(front, get(path)) for _ in range(requests)]
    return {answer.body.decode() if answer.status == 200 else str(answer.status) for answer in answers}


def await_takers(front: int, names: set[str], path: str = "/") -> None:
    await_condition(lambda: takers(front, path) == names, f"requests for {path} answered by {names}", _SECONDS)


def await_line(balancer: Balancer, words: str) -> None:
    await_condition(lambda: words in balancer.error_log(), f"the line {words!r}", _SECONDS)
