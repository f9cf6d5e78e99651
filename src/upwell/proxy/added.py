"""Fields that a location adds to its answers: filters over `exchange.out` (nginx: add_header, add_trailer, expires)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from email.utils import mktime_tz, parsedate_tz
from typing import TYPE_CHECKING, Final

from upwell.http1.fields import one_line
from upwell.proxy.clock import http_date
from upwell.proxy.trailers import Trailers

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

Value = Callable[["Exchange"], bytes]

_USUAL: Final = frozenset((200, 201, 204, 206, 301, 302, 303, 304, 307, 308))
"""What `add_header` without `always` and `expires` are for."""
_EMPTY: Final = frozenset((204, 304))
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


def trailing(fields: Sequence[tuple[bytes, Value, bool]]) -> Callable[[Exchange], None]:
    """A filter that has (name, value, always) sent behind the content, which goes out in chunks then, for each whose
    value is not empty at the end of it.
    """

    def end(exchange: Exchange) -> None:
        usual = exchange.status in _USUAL
        given = [(name, one_line(value(exchange))) for name, value, always in fields if usual or always]
        lines = [line for line in given if line[1]]
        if not lines:
            return
        known = exchange.trailers
        sent = {} if known is None else dict(known.sent)
        for name, text in lines:
            sent[name.lower()] = text
        wire = b"".join([b"%b: %b\r\n" % line for line in lines])
        if known is None:
            exchange.trailers = Trailers({}, sent, wire)
        else:
            exchange.trailers = Trailers(known.received, sent, known.wire + wire)

    always_some = any(always for _, _, always in fields)

    def promise(exchange: Exchange) -> None:
        if exchange.version < 11 or exchange.capture is not None or not exchange.location.chunks:
            return
        status = exchange.status
        if exchange.header_only or status < 200 or status in _EMPTY or not (always_some or status in _USUAL):
            return
        exchange.ending = end

    return promise


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
