"""The PROXY protocol: the lines by which one proxy tells the next whom it speaks for (HAProxy's, versions 1 and 2).

Knows bytes; who sends them, and whether he is to be believed, is decided elsewhere.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from upwell.errors import MessageError
from upwell.log import printable

if TYPE_CHECKING:
    from upwell.proxy.session import Session

MOST: Final = 4096
"""Bytes of a header at most (nginx: NGX_PROXY_PROTOCOL_MAX_HEADER)."""
_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_V1_MOST: Final = 107
_STREAM_V4: Final = 0x11
_STREAM_V6: Final = 0x21

Introduced = tuple[str, int, str, int, bytes]
"""The client's address and port, those that it came to, and what else is said (version 2: type, length, value)."""

_KINDS: Final = {"alpn": 0x01, "authority": 0x02, "unique_id": 0x05, "ssl": 0x20, "netns": 0x30}
_KINDS_OF_SSL: Final = {"version": 0x21, "cn": 0x22, "cipher": 0x23, "sig_alg": 0x24, "key_alg": 0x25}
_SSL: Final = 0x20
_SSL_HEAD: Final = 5  # bits of what the client did, and the result of its verification


def parse(data: bytes) -> tuple[int, Introduced | None]:
    """How many bytes of `data` are the header, and what it says (None: of nobody). Raises MessageError(400)."""
    if data.startswith(_SIGNATURE):
        return _parse_binary(data)
    end = data.find(b"\r\n", 0, _V1_MOST)
    if end < 0 or not data.startswith(b"PROXY "):
        line = data[:_V1_MOST].partition(b"\r")[0].partition(b"\n")[0]
        raise MessageError(400, f'broken header: "{printable(line)}"')
    words = data[:end].split(b" ")
    if words[1] == b"UNKNOWN":
        return end + 2, None
    try:
        family = {b"TCP4": 4, b"TCP6": 6}[words[1]]
        _, _, source, target, source_port, target_port = words
        addresses = _address(source, family), _port(source_port), _address(target, family), _port(target_port), b""
    except (KeyError, ValueError):
        raise MessageError(400, f'broken header: "{printable(data[:end])}"') from None
    return end + 2, addresses


def _address(text: bytes, family: int) -> str:
    """Raises ValueError."""
    word = text.decode("ascii")
    if ipaddress.ip_address(word).version != family or "%" in word:
        raise ValueError(word)
    return word


def _port(text: bytes) -> int:
    """Raises ValueError."""
    if not text.isdigit() or len(text) > 5 or int(text) > 65535:
        raise ValueError(text)
    return int(text)


def _parse_binary(data: bytes) -> tuple[int, Introduced | None]:
    if len(data) < 16:
        raise MessageError(400, "broken header: too short")
    version, command = data[12] >> 4, data[12] & 15
    size = 16 + int.from_bytes(data[14:16], "big")
    if version != 2:
        raise MessageError(400, f"unknown PROXY protocol version: {version}")
    if len(data) < size:
        raise MessageError(400, "header is too large or incomplete")
    if command != 1 or data[13] not in (_STREAM_V4, _STREAM_V6):
        return size, None  # LOCAL, or of a kind that says nothing here
    family, width = (socket.AF_INET, 4) if data[13] == _STREAM_V4 else (socket.AF_INET6, 16)
    if size < 16 + 2 * width + 4:
        raise MessageError(400, "header is too short for its addresses")
    source = socket.inet_ntop(family, data[16 : 16 + width])
    target = socket.inet_ntop(family, data[16 + width : 16 + 2 * width])
    ports = data[16 + 2 * width :]
    rest = data[16 + 2 * width + 4 : size]
    return size, (source, int.from_bytes(ports[:2], "big"), target, int.from_bytes(ports[2:4], "big"), rest)


def field_of(name: str) -> Callable[[Introduced | None], bytes | None]:
    """What finds the value called `name` among those behind the addresses (nginx: $proxy_protocol_tlv_name): a known
    name, or a type as "0x2a"; with "ssl_" before it one of those inside of "ssl".
    """
    of_ssl = name.startswith("ssl_")
    last = name[4:] if of_ssl else name
    try:
        kind = int(last, 16) if last.startswith("0x") else (_KINDS_OF_SSL if of_ssl else _KINDS).get(last, -1)
    except ValueError:
        kind = -1

    def find(introduced: Introduced | None) -> bytes | None:
        if introduced is None:
            return None
        if not of_ssl:
            return _value(introduced[4], kind)
        inside = _value(introduced[4], _SSL)
        if inside is None or len(inside) < _SSL_HEAD:
            return None
        return b"%d" % int.from_bytes(inside[1:5], "big") if last == "verify" else _value(inside[_SSL_HEAD:], kind)

    return find


def _value(data: bytes, kind: int) -> bytes | None:
    at = 0
    while at + 3 <= len(data):
        end = at + 3 + int.from_bytes(data[at + 1 : at + 3], "big")
        if end > len(data):
            return None
        if data[at] == kind:
            return data[at + 3 : end]
        at = end
    return None


def header(session: Session) -> bytes:
    """The line that tells a peer of the client (version 1, as nginx sends it): of who has connected, not of whom he
    speaks for."""
    source, source_port = session.address, session.port
    target, target_port = session.local_address()
    if source == "unix:" or target == "unix:" or (":" in source) != (":" in target):
        return b"PROXY UNKNOWN\r\n"
    family = "TCP6" if ":" in source else "TCP4"
    return f"PROXY {family} {source} {target} {source_port} {target_port}\r\n".encode()
