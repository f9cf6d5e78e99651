"""Fields that a location adds to its answers: filters over `exchange.out` (nginx: add_header, expires)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from email.utils import mktime_tz, parsedate_tz
from typing import TYPE_CHECKING, Final

from upwell.proxy.clock import http_date

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

Value = Callable[["Exchange"], bytes]

_USUAL: Final = frozenset((200, 201, 204, 206, 301, 302, 303, 304, 307, 308))
"""What `add_header` without `always` and `expires` are for."""
_SINGLE: Final = frozenset((b"etag", b"last-modified"))
"""Fields that are replaced, by nothing where the value is empty."""
_EPOCH: Final = b"Thu, 01 Jan 1970 00:00:01 GMT"
_MAX: Final = b"Thu, 31 Dec 2037 23:55:55 GMT"
_TEN_YEARS: Final = b"max-age=315360000"


def adding(fields: Sequence[tuple[bytes, Value, bool]]) -> Callable[[Exchange], None]:
    """A filter that adds (name, value, always) for each whose value is not empty."""

    def add(exchange: Exchange) -> None:
        usual = exchange.status in _USUAL
        out = list(exchange.out)
        for name, value, always in fields:
            if usual or always:
                text = value(exchange)
                if name.lower() in _SINGLE:
                    out = [line for line in out if line[0].lower() != name.lower()]
                if text:
                    out.append((name, text))
        exchange.out = out

    return add


def expiring(kind: str, seconds: int) -> Callable[[Exchange], None]:
    """A filter that says how long an answer may be kept: `kind` and `seconds` as in modules/headers.py."""

    def expire(exchange: Exchange) -> None:
        if exchange.status not in _USUAL:
            return
        expires, control = _said(exchange, kind, seconds)
        out = [line for line in exchange.out if line[0].lower() not in (b"expires", b"cache-control")]
        exchange.out = [*out, (b"Expires", expires), (b"Cache-Control", control)]

    return expire


def _said(exchange: Exchange, kind: str, seconds: int) -> tuple[bytes, bytes]:
    """The values of Expires and Cache-Control."""
    if kind == "epoch":
        return _EPOCH, b"no-cache"
    if kind == "max":
        return _MAX, _TEN_YEARS
    now = int(time.time())
    if kind == "daily":
        local = time.localtime(now)
        midnight = int(time.mktime((local.tm_year, local.tm_mon, local.tm_mday, 0, 0, 0, 0, 0, -1)))
        until = midnight + seconds
        if until <= now:
            until += 86_400
        return http_date(until), b"max-age=%d" % (until - now)
    until = now + seconds
    if kind == "modified":
        modified = _last_modified(exchange)
        if modified is not None:
            until = modified + seconds
    if not seconds and kind == "access":
        return http_date(now), b"max-age=0"
    left = until - now
    return http_date(until), b"no-cache" if left < 0 else b"max-age=%d" % left


def _last_modified(exchange: Exchange) -> int | None:
    for name, value in exchange.out:
        if name.lower() == b"last-modified":
            parsed = parsedate_tz(value.decode("latin-1"))
            return None if parsed is None else int(mktime_tz(parsed))
    return None
