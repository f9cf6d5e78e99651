"""Requests that wait for a peer because all that could have them are full (NGINX Plus: `queue`).

One queue serves one upstream in one worker, in the order of arrival. Slots that this worker frees are given on at once;
those of other workers, and peers that are well again, are looked for now and then while somebody waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from upwell.peers.upstream import Peer, Upstream
from upwell.proxy.suspension import suspend

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange
    from upwell.proxy.upstream import Try

Choose = Callable[["Exchange", set[Peer], float], Peer | None]
Route = Callable[["Exchange"], bytes]

_POLL: Final = 0.02  # seconds
NO_PEER: Final = "no live upstreams"
FULL: Final = "upstream queue is full"
TIMED_OUT: Final = "upstream queue timed out"


class _Waiter:
    """A request in the queue. `why` is set once it is in vain to wait on, `peer` once there is one for it."""

    __slots__ = ("choose", "deadline", "exchange", "peer", "route", "tried", "why")

    def __init__(self, exchange: Exchange, choose: Choose, tried: set[Peer], route: bytes, deadline: float) -> None:
        self.exchange = exchange
        self.choose = choose
        self.tried = tried
        self.route = route
        self.deadline = deadline
        self.peer: Peer | None = None
        self.why = ""


class Queue:
    """At most `most` requests wait, each for `timeout` seconds at most."""

    __slots__ = ("_loop", "_most", "_soon", "_timeout", "_timer", "_upstream", "_waiting")

    def __init__(self, upstream: Upstream, most: int, timeout: float, loop: asyncio.AbstractEventLoop) -> None:
        self._upstream = upstream
        self._most = most
        self._timeout = timeout
        self._loop = loop
        self._waiting: dict[_Waiter, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._soon = False

    def __repr__(self) -> str:
        return f"<Queue {self._upstream.name} {len(self._waiting)}/{self._most}>"

    def place(self, choose: Choose | None, route: Route | None = None) -> Place:
        """The queue as one location uses it; `choose` is how that would pick a peer, None: without a look at the
        request. `route` says to which peer a request's session is bound."""
        return Place(self, choose or self._pick, route)

    def freed(self, exchange: Exchange, peer: Peer, attempt: Try) -> None:
        """A request at `peer` is over: somebody may have the place."""
        if self._waiting and not self._soon:
            # Not at once: one answer after the other would end within the one before.
            self._soon = True
            self._loop.call_soon(self._serve)

    @property
    def waits(self) -> bool:
        return bool(self._waiting)

    def is_hopeless(self, tried: set[Peer], route: bytes, now: float) -> bool:
        """Whether nobody is full, so that there is nobody to wait for."""
        return not self._upstream.is_crowded(tried, now, route)

    async def wait(self, exchange: Exchange, choose: Choose, tried: set[Peer], route: bytes) -> tuple[Peer | None, str]:
        """A peer for `exchange` when its turn has come, or None and why there is none. `route` is its session's."""
        now = self._loop.time()
        if not self._waiting and self.is_hopeless(tried, route, now):
            return None, NO_PEER
        if len(self._waiting) >= self._most:
            return None, FULL
        waiter = _Waiter(exchange, choose, tried, route, now + self._timeout)
        self._waiting[waiter] = None
        if self._timer is None:
            self._timer = self._loop.call_later(min(_POLL, self._timeout), self._poll)
        try:
            await suspend()
        finally:
            self._waiting.pop(waiter, None)
        return waiter.peer, waiter.why

    def _pick(self, exchange: Exchange, tried: set[Peer], now: float) -> Peer | None:
        return self._upstream.pick(tried, now)

    def _poll(self) -> None:
        self._timer = None
        self._serve()
        if self._waiting and self._timer is None:
            first = next(iter(self._waiting))
            self._timer = self._loop.call_later(max(min(_POLL, first.deadline - self._loop.time()), 0.001), self._poll)

    def _serve(self) -> None:
        """Give the peers that there are to those who wait, the longest first."""
        self._soon = False
        now = self._loop.time()
        for waiter in list(self._waiting):
            if waiter not in self._waiting:
                continue  # its client left meanwhile
            waiter.peer = waiter.choose(waiter.exchange, waiter.tried, now)
            if waiter.peer is None:
                if now >= waiter.deadline:
                    waiter.why = TIMED_OUT
                elif self.is_hopeless(waiter.tried, waiter.route, now):
                    waiter.why = NO_PEER
                elif waiter.tried:
                    continue  # there may be a peer for those who have tried none
                else:
                    break
            del self._waiting[waiter]
            waiter.exchange.resume()


class Place:
    """A queue with the way in which one location picks its peers."""

    __slots__ = ("_choose", "_queue", "_route")

    def __init__(self, queue: Queue, choose: Choose, route: Route | None) -> None:
        self._queue = queue
        self._choose = choose
        self._route = route

    def __repr__(self) -> str:
        return f"<Place in {self._queue!r}>"

    def choose(self, exchange: Exchange, tried: set[Peer], now: float) -> Peer | None:
        """The peer for a request that came just now, or comes back from others: not before those who wait."""
        return None if self._queue.waits and not tried else self._choose(exchange, tried, now)

    async def wait(self, exchange: Exchange, tried: set[Peer]) -> tuple[Peer | None, str]:
        route = b"" if self._route is None else self._route(exchange)
        return await self._queue.wait(exchange, self._choose, tried, route)
