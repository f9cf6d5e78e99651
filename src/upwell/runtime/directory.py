"""Names that only a request says (`proxy_pass http://$name`): a worker asks for their addresses; the request waits.

Knows the worker's loop and what an exchange is told; whose upstream an address becomes is destinations.py's business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from secrets import randbelow
from typing import TYPE_CHECKING, Final

from upwell.log import ERROR, printable
from upwell.proxy.suspension import suspend
from upwell.resolve.resolver import Resolver
from upwell.resolve.sockets import Sockets
from upwell.resolve.spec import Answer, Found, Question, ResolverSpec
from upwell.zone.resolvers import Words

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_IDS: Final = 65536


class LoopPoller:
    """The worker's loop as `resolve.sockets` needs it."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def watch(self, fd: int, callback: Callable[[], None], writing: bool) -> None:
        (self._loop.add_writer if writing else self._loop.add_reader)(fd, callback)

    def forget(self, fd: int, writing: bool) -> None:
        (self._loop.remove_writer if writing else self._loop.remove_reader)(fd)


class Directory:
    """What one worker knows by one resolver. No request of a location without variables comes here."""

    __slots__ = ("_loop", "_resolver", "_timer")

    def __init__(self, spec: ResolverSpec, loop: asyncio.AbstractEventLoop, counts: Words) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        sockets = Sockets(LoopPoller(loop), self._turn)
        self._resolver = Resolver(spec, sockets, time.monotonic, partial(randbelow, _IDS), counts=counts)
        sockets.serve(self._resolver)

    def __repr__(self) -> str:
        return f"<Directory {self._resolver!r}>"

    async def find(self, exchange: Exchange, host: str) -> Sequence[Found]:
        """The addresses of `host`; what has to be said where there are none is in the error log."""
        question = Question(host.lower())
        answer = self._resolver.known(question)
        if answer is None:
            answer = await self._wait(exchange, question)
        if not answer.found:
            name = printable(host.encode("utf-8", "surrogateescape"))
            exchange.log(ERROR, f"{name} could not be resolved {answer.words}")
        return answer.found

    def ask(self, host: str, done: Callable[[Answer], None]) -> None:
        """Have `done` called with the answer, at once if it is known."""
        question = Question(host.lower())
        answer = self._resolver.known(question)
        if answer is not None:
            done(answer)
            return
        self._resolver.ask(question, done)
        self._turn()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._resolver.close()

    async def _wait(self, exchange: Exchange, question: Question) -> Answer:
        answers: list[Answer] = []
        waiting = False

        def done(answer: Answer) -> None:
            answers.append(answer)
            if waiting:
                exchange.resume()

        self._resolver.ask(question, done)
        if not answers:
            self._turn()
        if not answers:
            waiting = True
            try:
                await suspend()
            finally:
                waiting = False
                self._resolver.cancel(question, done)
        return answers[0]

    def _turn(self) -> None:
        """Have the resolver do what is due, and come back when more is."""
        self._resolver.step()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._resolver.next_due()
        if due is not None:
            self._timer = self._loop.call_later(max(due - time.monotonic(), 0.0), self._turn)
