"""A resolver over real sockets, turned by hand."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from tests.resolve.dns_server import DnsServer
from upwell.log import ErrorLog
from upwell.resolve.resolver import Resolver
from upwell.resolve.sockets import Epoll, Sockets
from upwell.resolve.spec import Answer, Question, ResolverSpec
from upwell.zone.resolvers import COUNT_WORDS


class Lines(ErrorLog):
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("", 8)
        self.lines: list[str] = []

    def write(self, level: int, message: str, connection: int = 0) -> None:
        self.lines.append(message)


class Clock:
    """Time stands still, but for what the test adds to it, unless it is `running`."""

    def __init__(self) -> None:
        self.added = 0.0
        self.running = False
        self._start = time.monotonic()

    def __call__(self) -> float:
        return (time.monotonic() if self.running else self._start) + self.added


class Resolving:
    """`servers` are real ones, or addresses."""

    def __init__(
        self,
        *servers: DnsServer | tuple[str, int],
        valid: float | None = None,
        ipv4: bool = True,
        ipv6: bool = False,
        timeout: float = 30.0,
        most: int = 1000,
    ) -> None:
        addresses = tuple(one.address if isinstance(one, DnsServer) else one for one in servers)
        self.clock = Clock()
        self.log = Lines()
        self.counts = [0] * COUNT_WORDS
        self.epoll = Epoll()
        self.sockets = Sockets(self.epoll)
        self.resolver = Resolver(
            ResolverSpec(addresses, valid, ipv4, ipv6, timeout=timeout),
            self.sockets,
            self.clock,
            lambda: secrets.randbelow(65536),
            self.log,
            self.counts,
            most,
        )
        self.sockets.serve(self.resolver)

    def close(self) -> None:
        self.resolver.close()
        self.epoll.close()

    def turn_until(self, over: Callable[[], object], at_most: float = 20.0) -> None:
        """Go round until `over`."""
        end = time.monotonic() + at_most
        while not over():
            assert time.monotonic() < end, "it did not come to an end"
            due = self.resolver.next_due()
            wait = 0.5 if due is None else min(max(due - self.clock(), 0.0), 0.5)
            self.epoll.turn(wait)
            self.resolver.step()

    def ask(self, name: str, service: str = "") -> Answer:
        answers: list[Answer] = []
        self.resolver.ask(Question(name, service), answers.append)
        self.turn_until(lambda: answers)
        return answers[0]

    def addresses(self, name: str, service: str = "") -> list[str]:
        answer = self.ask(name, service)
        assert not answer.code, answer
        return sorted(one.address for one in answer.found)  # servers mix them
