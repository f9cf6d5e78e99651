"""Work that would hold up the loop, done in a thread while the request waits. Knows no kind of work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from upwell.proxy.suspension import suspend

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

T = TypeVar("T")

_MOST_THREADS: Final = 2


class _Job(Generic[T]):
    """One piece of work; `wanted` until its request is gone."""

    __slots__ = ("error", "exchange", "result", "wanted", "work")

    def __init__(self, exchange: Exchange, work: Callable[[], T]) -> None:
        self.exchange = exchange
        self.work = work
        self.wanted = True
        self.result: T | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        """In the thread."""
        if not self.wanted:
            return
        try:
            self.result = self.work()
        except Exception as error:  # it is the request's to see
            self.error = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.exchange.client.loop.call_soon_threadsafe(self.done)

    def done(self) -> None:
        """In the loop."""
        if self.wanted:
            self.exchange.resume()


class Aside:
    """A few threads of one worker, started when there is work. They end with the process, whatever they are at."""

    __slots__ = ("_jobs", "_pending", "_threads")

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job[object]] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._pending = 0

    def __repr__(self) -> str:
        return f"<Aside {len(self._threads)} threads, {self._pending} waiting>"

    async def run(self, exchange: Exchange, work: Callable[[], T]) -> T:
        """What `work` gives or raises. A client whose connection is gone meanwhile ends its request."""
        job: _Job[T] = _Job(exchange, work)
        self._jobs.put(job)  # type: ignore[arg-type]  # the thread does not look at what comes out
        self._pending += 1
        if len(self._threads) < min(self._pending, _MOST_THREADS):
            thread = threading.Thread(target=self._work, name="aside", daemon=True)
            self._threads.append(thread)
            thread.start()
        abortable, exchange.abortable = exchange.abortable, True
        try:
            await suspend()
        finally:
            job.wanted = False
            self._pending -= 1
            exchange.abortable = abortable
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[return-value]  # there is one where there is no error

    def _work(self) -> None:
        while True:
            self._jobs.get().run()
