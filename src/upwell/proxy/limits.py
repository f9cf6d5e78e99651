"""Requests that come too fast, or too many at once: what limit_req and limit_conn do with one.

Knows rates and counts by key (`zone/rates.py`, `zone/counts.py`); which ones a location has is told to it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from upwell.errors import ClientClosed
from upwell.log import ERROR, INFO, printable
from upwell.zone.counts import Counts, Held
from upwell.zone.rates import Rates

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

NO_DELAY: Final = (1 << 63) // 1000
_LONGEST_RATE_KEY: Final = 65_535
_LONGEST_COUNT_KEY: Final = 255
_LEFT: Final = "client prematurely closed connection"


class Limited:
    """What became of the limits that a request met; b"" where it met none. `held` is what it is counted in."""

    __slots__ = ("connections", "held", "requests")

    def __init__(self) -> None:
        self.requests = b""
        self.connections = b""
        self.held: list[tuple[Counts, Held]] = []


def limited(exchange: Exchange) -> Limited:
    """That of the client's request, of which `exchange` may be a part."""
    main = exchange.client.exchange
    whole = exchange if main is None else main
    if whole.limited is None:
        whole.limited = Limited()
    return whole.limited


def status_of_rate(exchange: Exchange) -> bytes | None:
    """$limit_req_status."""
    main = exchange.client.exchange
    found = (exchange if main is None else main).limited
    return None if found is None else found.requests or None


def status_of_count(exchange: Exchange) -> bytes | None:
    """$limit_conn_status."""
    main = exchange.client.exchange
    found = (exchange if main is None else main).limited
    return None if found is None else found.connections or None


@dataclass(slots=True)
class RateLimit:
    """One `limit_req`: `burst` and `delay` are thousandths of a request."""

    rates: Rates
    key: Callable[[Exchange], bytes]
    key_text: str
    burst: int
    delay: int


@dataclass(slots=True)
class CountLimit:
    """One `limit_conn`."""

    counts: Counts
    key: Callable[[Exchange], bytes]
    key_text: str
    most: int


class RateLimits:
    """Those of a location. `level` is that of a refusal's line in the error log; a delay's is one less grave."""

    __slots__ = ("_dry", "_level", "_limits", "_status")

    def __init__(self, limits: list[RateLimit], status: int, level: int, dry_run: bool) -> None:
        self._limits = limits
        self._status = status
        self._level = level
        self._dry = dry_run

    def __repr__(self) -> str:
        return f"<RateLimits {len(self._limits)}>"

    def check(self, exchange: Exchange) -> int | Awaitable[int | None] | None:
        """The access handler: a status for too much, a delay to wait for, or None."""
        known = limited(exchange)
        if known.requests:
            return None
        now = int(exchange.client.loop.time() * 1000.0)
        met: list[tuple[RateLimit, bytes]] = []
        last = len(self._limits) - 1
        taken = False
        excess = 0
        for index, limit in enumerate(self._limits):
            key = limit.key(exchange)
            if not key:
                continue
            if len(key) > _LONGEST_RATE_KEY:
                _tell_of_key(exchange, limit.key_text, key, _LONGEST_RATE_KEY)
                continue
            taken = index == last
            excess = limit.rates.take(key, now, limit.burst) if taken else limit.rates.excess(key, now)
            if excess > limit.burst:
                self._tell(exchange, self._level, "limiting requests", "", excess, limit.rates.name)
                known.requests = b"REJECTED_DRY_RUN" if self._dry else b"REJECTED"
                return None if self._dry else self._status
            met.append((limit, key))
        if not met:
            return None
        return self._account(exchange, known, now, met, taken, excess)

    def _account(
        self,
        exchange: Exchange,
        known: Limited,
        now: int,
        met: list[tuple[RateLimit, bytes]],
        taken: bool,
        excess: int,
    ) -> Awaitable[int | None] | None:
        """Count the request where it was only looked at, and see for how long it is to wait."""
        chosen, key = met[-1]
        longest = 0
        told = excess
        if taken:
            longest = _delay(chosen, excess)
            met.pop()
        for limit, key in reversed(met):
            excess = limit.rates.take(key, now, NO_DELAY)
            delay = _delay(limit, excess)
            if delay > longest:
                longest, told, chosen = delay, excess, limit
        if not longest:
            known.requests = b"PASSED"
            return None
        level = self._level if self._level == INFO else self._level + 1
        self._tell(exchange, level, "delaying request", ",", told, chosen.rates.name)
        if self._dry:
            known.requests = b"DELAYED_DRY_RUN"
            return None
        known.requests = b"DELAYED"
        return _wait(exchange, longest / 1000.0)

    def _tell(self, exchange: Exchange, level: int, what: str, comma: str, excess: int, zone: str) -> None:
        dry = ", dry run" if self._dry else ""
        whole, part = divmod(excess, 1000)
        exchange.log(level, f'{what}{dry}, excess: {whole}.{part:03d}{comma} by zone "{zone}"')


def _delay(limit: RateLimit, excess: int) -> int:
    """In milliseconds."""
    return (excess - limit.delay) * 1000 // limit.rates.rate if excess > limit.delay else 0


async def _wait(exchange: Exchange, seconds: float) -> int | None:
    # A client that leaves meanwhile is not waited for.
    exchange.abortable = exchange.proxying = True
    try:
        await exchange.sleep(seconds)
    except ClientClosed:
        exchange.log(INFO, _LEFT)
        raise
    finally:
        exchange.abortable = exchange.proxying = False
    return None


class CountLimits:
    """Those of a location; `level` is that of a refusal's line in the error log."""

    __slots__ = ("_dry", "_level", "_limits", "_status")

    def __init__(self, limits: list[CountLimit], status: int, level: int, dry_run: bool) -> None:
        self._limits = limits
        self._status = status
        self._level = level
        self._dry = dry_run

    def __repr__(self) -> str:
        return f"<CountLimits {len(self._limits)}>"

    def check(self, exchange: Exchange) -> int | None:
        """The access handler: a status for too many, or None, with the request counted until `let_go`."""
        known = limited(exchange)
        if known.connections:
            return None
        for limit in self._limits:
            key = limit.key(exchange)
            if not key:
                continue
            if len(key) > _LONGEST_COUNT_KEY:
                _tell_of_key(exchange, limit.key_text, key, _LONGEST_COUNT_KEY)
                continue
            known.connections = b"PASSED"
            held = limit.counts.enter(key, limit.most)
            if held is None:
                if not limit.counts.is_full(key):
                    dry = ", dry run," if self._dry else ""
                    exchange.log(self._level, f'limiting connections{dry} by zone "{limit.counts.name}"')
                _leave_all(known)
                known.connections = b"REJECTED_DRY_RUN" if self._dry else b"REJECTED"
                return None if self._dry else self._status
            known.held.append((limit.counts, held))
        return None


def let_go(exchange: Exchange) -> None:
    """The request is over."""
    if exchange.limited is not None and exchange.limited.held:
        _leave_all(exchange.limited)


def _leave_all(known: Limited) -> None:
    held, known.held = known.held, []
    for counts, one in held:
        counts.leave(one)


def _tell_of_key(exchange: Exchange, text: str, key: bytes, longest: int) -> None:
    exchange.log(ERROR, f'the value of the "{text}" key is more than {longest} bytes: "{printable(key)}"')
