"""Trailer sections of peers passed on to clients (RFC 9110, 6.5; nginx: proxy_pass_trailers)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from upwell.http1.fields import HOP_BY_HOP
from upwell.http1.framing import read_trailers

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_FORBIDDEN = HOP_BY_HOP | {
    # They frame, route, authenticate, control or decode the message, which whoever reads it has long done (RFC 9110,
    # 6.5.1). nginx passes them.
    b"age",
    b"authorization",
    b"cache-control",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"date",
    b"expires",
    b"host",
    b"location",
    b"max-forwards",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"range",
    b"retry-after",
    b"set-cookie",
    b"trailer",
    b"vary",
    b"www-authenticate",
}


class Trailers:
    """The trailer section of one answer: `received` of the peer, `sent` to the client, by lower-case name; `wire`: as
    it is sent.
    """

    __slots__ = ("received", "sent", "wire")

    def __init__(self, received: dict[bytes, bytes], sent: dict[bytes, bytes], wire: bytes) -> None:
        self.received = received
        self.sent = sent
        self.wire = wire

    def __repr__(self) -> str:
        return f"<Trailers {self.wire!r}>"


def passing(hide: frozenset[bytes]) -> Callable[[Exchange, bytes], None]:
    """What to do with a peer's trailer section: keep it for the end of the answer, without the fields `hide`."""
    unwanted = hide | _FORBIDDEN

    def keep(exchange: Exchange, block: bytes) -> None:
        section = read_trailers(block)
        sent = {name: value for name, value in section.values.items() if name not in unwanted}
        exchange.trailers = Trailers(section.values, sent, b"".join(section.wires_without(unwanted)))

    return keep
