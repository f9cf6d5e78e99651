"""Whom a request comes from when a trusted proxy says so: the client's address is another one while it is answered.

Knows lists of addresses and who may be believed is told to it (nginx: ngx_http_realip_module). The connection has its
own address back when the request is over.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

PROXY_PROTOCOL: Final = "proxy_protocol"
FORWARDED: Final = "X-Forwarded-For"
"""The one field that is a list over all its lines; of any other the first line counts (nginx knows it in these letters
only).
"""

Found = tuple[str, int]


def taking(trusted: Callable[[str], bool], source: str, recursive: bool) -> Callable[[Exchange], None]:
    """What gives a request the address that `source` names (a field, or the PROXY protocol), if it came from somebody
    `trusted`; with `recursive` the last address that is not trusted itself.
    """
    name = source.lower().encode("utf-8", "surrogateescape")

    def take(exchange: Exchange) -> None:
        if exchange.came_from is not None or exchange.capture is not None:
            return
        client = exchange.client
        if source == PROXY_PROTOCOL:
            told = client.introduced
            if told is None:
                return
            found = last_named(client.address, [told[0].encode()], trusted, recursive)
            if found is not None:
                found = found[0], told[1]
        else:
            lines = [value for key, value in exchange.fields if key == name]
            found = last_named(client.address, lines if source == FORWARDED else lines[:1], trusted, recursive)
        if found is not None:
            exchange.came_from = (client.address, client.address_bytes, client.port)
            client.address, client.port = found
            client.address_bytes = found[0].encode()

    return take


def give_back(exchange: Exchange) -> None:
    """The request is over: its connection has the address that it came from."""
    came_from = exchange.came_from
    if came_from is not None:
        client = exchange.client
        client.address, client.address_bytes, client.port = came_from


def came_from(exchange: Exchange) -> tuple[str, bytes, int]:
    """Address and port that the connection came from (nginx: $realip_remote_addr)."""
    client = exchange.client
    whole = exchange if client.exchange is None else client.exchange
    if whole.came_from is not None:
        return whole.came_from
    return client.address, client.address_bytes, client.port


def last_named(address: str, lines: list[bytes], trusted: Callable[[str], bool], recursive: bool) -> Found | None:
    """The address that `lines` name for who came from `address`; None: that stays (ngx_http_get_forwarded_addr)."""
    found: Found | None = None
    for line in reversed(lines):
        left = line
        while True:
            if not trusted(address):
                return found
            left = left.rstrip(b" ,")
            start = max(left.rfind(b" "), left.rfind(b",")) + 1
            one = parse_address(left[start:])
            if one is None:
                return found
            found = one
            address = one[0]
            if not recursive:
                return found
            if not start:
                break
            left = left[: start - 1]
    return found


def parse_address(text: bytes) -> Found | None:
    """An address, maybe with a port ("10.0.0.1:80", "::1", "[::1]", "[::1]:80"), the port 0 where none is said."""
    word = text.decode("latin-1")
    address = _canonical(word[1:-1] if word.startswith("[") and word.endswith("]") and ":" in word else word)
    if address:
        return address, 0
    head, colon, tail = word.rpartition(":")
    if head.startswith("[") != head.endswith("]") or (":" in head and not head.startswith("[")):
        return None
    address = _canonical(head[1:-1] if head.startswith("[") else head)
    if not colon or not address or not tail.isascii() or not tail.isdigit() or len(tail) > 5:
        return None
    port = int(tail)
    return (address, port) if 0 < port < 65536 else None


def _canonical(word: str) -> str:
    """The usual text of an address; "" for what is none."""
    family = socket.AF_INET6 if ":" in word else socket.AF_INET
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, word))
    except (OSError, ValueError):
        return ""
