"""How fast an answer goes to the client: so many bytes a second and no more (nginx: limit_rate, proxy_limit_rate).

A transport of its own stands between the client's connection and the real one while such an answer is sent. It takes
what is written, lets the connection pause its source when it holds too much, and knows nothing of what it sends.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from upwell.proxy.timers import Alarm

if TYPE_CHECKING:
    from upwell.proxy.client import ClientConnection
    from upwell.proxy.exchange import Exchange

TICK: Final = 0.05
"""Seconds that somebody who was too fast waits at least."""
_MOST_AT_ONCE = 65_536  # what may wait in the real transport, which must never be the one to stop the source


class Budget:
    """`rate` bytes for each second since `start` and one second in advance, as nginx counts; `free` bytes besides."""

    __slots__ = ("free", "rate", "start")

    def __init__(self, rate: int, start: float, free: int) -> None:
        self.rate = rate
        self.start = start
        self.free = free

    def left(self, now: float, sent: int) -> int:
        return self.free + int(self.rate * (now - self.start + 1)) - sent

    def wait(self, left: int) -> float:
        """Seconds until a byte may go where `left` is none or less."""
        return (1 - left) / self.rate


def begin(exchange: Exchange) -> None:
    """Pace what is sent from here on, if a rate was set for the answer; the exchange ends when all of it is sent."""
    client = exchange.client
    if exchange.capture is not None or exchange.header_only or exchange.status == 101:
        return
    budgets = []
    if exchange.limit_rate:
        after = exchange.location.limit_rate_after
        budgets.append(Budget(exchange.limit_rate, exchange.started, 0 if after is None else after(exchange)))
    if exchange.peer_rate:
        budgets.append(Budget(exchange.peer_rate, client.loop.time(), 0))
    if not budgets or isinstance(client.transport, Paced):
        return
    client.flush()
    paced = Paced(client, budgets)
    client.transport = paced

    def onward() -> None:
        exchange.start(_see_out(exchange, paced))

    exchange.onward = onward


async def _see_out(exchange: Exchange, paced: Paced) -> None:
    """Wait until what was written is sent, then give the connection its own transport back."""
    client = exchange.client
    try:
        client.flush()
        paced.end()
        await client.drained(exchange)
    finally:
        client.transport = paced.inner


class Paced(asyncio.Transport):
    """A client's transport that holds back what the budgets do not allow yet."""

    def __init__(self, client: ClientConnection, budgets: list[Budget]) -> None:
        super().__init__()
        self.inner = client.transport
        self._alarm = Alarm(self.pump)
        self._client = client
        self._budgets = budgets
        self._pending = bytearray()
        self._sent = 0
        self._high = _MOST_AT_ONCE
        self._low = _MOST_AT_ONCE // 4
        self._paused = False
        self._soon = False
        client.hold(2 * _MOST_AT_ONCE)

    def __repr__(self) -> str:
        return f"<Paced {len(self._pending)}>"

    def write(self, data: Any) -> None:
        self._pending += data
        self.pump()
        self._check()

    def _check(self) -> None:
        if len(self._pending) > self._high and not self._paused:
            self._paused = True
            self._client.pause_writing()

    def end(self) -> None:
        """Nothing more will be written: have the connection wait until all is sent."""
        self._low = 0
        if self._pending and not self._paused:
            self._paused = True
            self._client.pause_writing()

    def pump(self) -> None:
        """Send what may be sent now, and come back for the rest."""
        self._soon = False
        if self.inner.is_closing():
            self._pending.clear()
            return
        now = self._client.loop.time()
        left = min([budget.left(now, self._sent) for budget in self._budgets])
        size = min(left, len(self._pending), _MOST_AT_ONCE - self.inner.get_write_buffer_size())
        if size > 0:
            self.inner.write(bytes(self._pending[:size]))
            del self._pending[:size]
            self._sent += size
        if self._pending:
            self._come_back(left, size)
        if self._paused and len(self._pending) <= self._low:
            self._paused = False
            self._client.resume_writing()

    def _come_back(self, left: int, size: int) -> None:
        if 0 < size < left:  # the real transport was full, and is being emptied
            if not self._soon:
                self._soon = True
                self._client.loop.call_soon(self.pump)
            return
        slowest = min([budget.rate for budget in self._budgets])
        self._client.endpoint.timers.arm(self._alarm, max(TICK, (size - left + 1) / slowest))

    # The rest is the real transport's.

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = _MOST_AT_ONCE if high is None else high
        self._low = self._high // 4
        self._check()

    def get_write_buffer_size(self) -> int:
        return len(self._pending) + self.inner.get_write_buffer_size()

    def abort(self) -> None:
        self._pending.clear()
        self.inner.abort()

    def close(self) -> None:
        self.inner.close()

    def is_closing(self) -> bool:
        return self.inner.is_closing()

    def can_write_eof(self) -> bool:
        return self.inner.can_write_eof()

    def write_eof(self) -> None:
        self.inner.write_eof()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.inner.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self.inner.pause_reading()

    def resume_reading(self) -> None:
        self.inner.resume_reading()

    def is_reading(self) -> bool:
        return self.inner.is_reading()
