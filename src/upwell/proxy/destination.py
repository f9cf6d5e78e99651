"""Where a request goes when only the request itself says it: the target and the fields that follow from that.

Knows what was decided; who decides it, and from what, is not known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from upwell.http1.target import one_target

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange


class Destination:
    """`host` and `port` are nginx's $proxy_host and $proxy_port; `uri` the whole target, b"": as the client sent it."""

    __slots__ = ("host", "port", "uri")

    def __init__(self, host: bytes, port: bytes, uri: bytes) -> None:
        self.host = host
        self.port = port
        self.uri = one_target(uri)

    def __repr__(self) -> str:
        return f"<Destination {self.host!r} {self.uri!r}>"


def path_of_destination(exchange: Exchange) -> bytes:
    """The target as it goes to the peer (nginx: a proxy_pass with variables replaces nothing in its URI)."""
    destination = exchange.destination
    return exchange.path if destination is None or not destination.uri else destination.uri


def host_of_destination(exchange: Exchange) -> bytes:
    """$proxy_host, for the Host field."""
    destination = exchange.destination
    return b"" if destination is None else destination.host
