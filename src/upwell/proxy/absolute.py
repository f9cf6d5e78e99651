"""Where a redirect of the server's own leads: a path gets scheme, host and port in front (nginx: absolute_redirect)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_HTTP_PORT: Final = 80
_HTTPS_PORT: Final = 443


class Redirects:
    """What redirects of one location look like: `absolute` or just the path, with `name` for the host instead of what
    the client asked for unless it is None, with the `port` or without.
    """

    __slots__ = ("absolute", "name", "port")

    def __init__(self, absolute: bool = True, name: bytes | None = None, port: bool = True) -> None:
        self.absolute: bool = absolute
        self.name: bytes | None = name
        self.port: bool = port

    def __repr__(self) -> str:
        return f"<Redirects {self.absolute} {self.name!r} {self.port}>"


USUAL: Final = Redirects()


def absolute(exchange: Exchange, address: bytes) -> bytes:
    """A Location's value: an `address` that is a path goes out as the location has it."""
    redirects = exchange.location.redirects
    if not address.startswith(b"/") or not redirects.absolute:
        return address
    client = exchange.client
    host = redirects.name
    if host is None:
        host = exchange.host or client.local_address.encode()
    usual = _HTTPS_PORT if exchange.scheme == "https" else _HTTP_PORT
    port = b"" if not redirects.port or client.local_port in (0, usual) else b":%d" % client.local_port
    return b"%b://%b%b%b" % (exchange.scheme.encode(), host, port, address)
