"""ngx.header and ngx.resp.get_headers on `exchange.out`, `content_type` and `content_length`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from upwell.log import ERROR, WARN
from upwell.lua.bridge import LuaFailure, integer, string

if TYPE_CHECKING:
    from upwell.lua.vm import Vm
    from upwell.proxy.exchange import Exchange

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_MOST_DIGITS = 18  # what nginx's off_t holds in any case
_FORBIDDEN = re.compile(rb"[\x00-\x1f\x7f]")
_SINGLE = frozenset(
    (
        b"location",
        b"refresh",
        b"last-modified",
        b"content-range",
        b"accept-ranges",
        b"www-authenticate",
        b"expires",
        b"etag",
        b"content-encoding",
        b"server",
        b"date",
    )
)
_FRAMING = frozenset((b"connection", b"transfer-encoding", b"keep-alive"))


def functions(vm: Vm) -> Mapping[str, Callable[..., Any]]:
    def header_get(name: object = None) -> Any:
        run, exchange = vm.request()
        wanted = string(name, 2, "__index").replace(b"_", b"-").lower()
        if wanted == b"content-type":
            if exchange.content_type is None and not run.typeless:
                return None
            return exchange.content_type
        if wanted == b"content-length":
            return None if exchange.content_length is None else b"%d" % exchange.content_length
        values = tuple(value for key, value in exchange.out if key.lower() == wanted)
        return values or None

    def header_set(name: object = None, *values: bytes) -> None:
        run, exchange = vm.request()
        key = string(name, 2, "__newindex")
        if run.head_is_fixed():
            text = key.decode("latin-1")
            exchange.log(ERROR, f"attempt to set ngx.header.{text} after sending out response headers")
            return
        if not key:
            raise LuaFailure(b"attempt to set a header without a name")
        key = key.replace(b"_", b"-")
        if not _TOKEN.fullmatch(key):
            key = b"".join(b"%%%02X" % byte if not _TOKEN.fullmatch(bytes((byte,))) else bytes((byte,)) for byte in key)
        lower = key.lower()
        # nginx escapes what would end the line; so no value can add a field line of its own.
        clean = [_FORBIDDEN.sub(_escape, value) for value in values]
        if lower == b"content-type":
            exchange.content_type = clean[-1] if clean and clean[-1] else None
            run.typeless = not clean
        elif lower == b"content-length":
            _set_length(exchange, clean)
        elif lower in _FRAMING:
            if lower == b"connection" and clean and clean[-1].lower() == b"close":
                exchange.keepalive = False
            else:
                exchange.log(WARN, f"ngx.header.{lower.decode()} is upwell's own and stays as it is")
        else:
            exchange.out = [field for field in exchange.out if field[0].lower() != lower]
            if lower in _SINGLE:
                clean = clean[-1:]
            exchange.out.extend((key, value) for value in clean)

    def response_fields(most: object = None, raw: bool = False) -> Any:
        _, exchange = vm.request()
        limit = 100 if most is None else integer(most, 1, "get_headers")
        fields = all_fields(exchange)
        if limit > 0:
            fields = fields[:limit]
        flat: list[bytes] = []
        for name, value in fields:
            flat += (name if raw else name.lower(), value)
        return tuple(flat)

    def response_truncated(most: object = None) -> Any:
        _, exchange = vm.request()
        limit = 100 if most is None else integer(most, 1, "get_headers")
        return b"truncated" if 0 < limit < len(all_fields(exchange)) else None

    return {
        "header_get": header_get,
        "header_set": header_set,
        "response_fields": response_fields,
        "response_truncated": response_truncated,
    }


def all_fields(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    """The answer's fields as far as they are known, with the two that are kept apart."""
    fields = []
    if exchange.content_type is not None:
        fields.append((b"Content-Type", exchange.content_type))
    if exchange.content_length is not None:
        fields.append((b"Content-Length", b"%d" % exchange.content_length))
    return [*fields, *exchange.out]


def _set_length(exchange: Exchange, values: list[bytes]) -> None:
    if not values:
        exchange.content_length = None
        return
    if not values[-1].isdigit() or len(values[-1]) > _MOST_DIGITS:
        raise LuaFailure(b"bad content-length value")
    exchange.content_length = int(values[-1])


def _escape(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]
