"""What a TLS client says before anybody has answered (nginx: ssl_preread): which versions and protocols it offers.

The bytes stay where they are: a peer gets them as they came. Reading the name is client_hello.py's.
"""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from upwell.proxy.client_hello import Hello
from upwell.proxy.session import BAD_REQUEST, OK, WAITING

if TYPE_CHECKING:
    from upwell.proxy.tcp_session import TcpSession

_ALPN: Final = 16
_VERSIONS: Final = 43
_NAMES: Final = {
    0x0300: b"SSLv3",
    0x0301: b"TLSv1",
    0x0302: b"TLSv1.1",
    0x0303: b"TLSv1.2",
    0x0304: b"TLSv1.3",
}

VARIABLES: Final = ("ssl_preread_server_name", "ssl_preread_protocol", "ssl_preread_alpn_protocols")


_ENDED: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Preread:
    """The looking of one session, at most at the first `size` bytes."""

    __slots__ = ("_family", "_fd", "_hello", "_seen", "_session", "_size")

    def __init__(self, session: TcpSession, fd: int, family: int, size: int) -> None:
        self._session = session
        self._fd = fd
        self._family = family
        self._size = size
        self._seen = 0
        self._hello = Hello()

    def look(self, events: int) -> None:
        """`events` are what the set says of the client, 0: nothing."""
        session, hello = self._session, self._hello
        sock = socket.socket(self._family, socket.SOCK_STREAM, 0, self._fd)
        try:
            data = sock.recv(self._size, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            session.preread({}, WAITING)
            return
        except OSError:
            session.preread({}, OK)
            return
        finally:
            sock.detach()
        if len(data) > self._seen:
            hello.feed(data[self._seen :])
            self._seen = len(data)
        values = variables_of(hello) if self._seen else {}
        if hello.complete:
            session.preread(values, 0)
        elif self._seen >= self._size:
            session.preread(values, BAD_REQUEST)
        elif not data or events & _ENDED:
            session.preread(values, OK)
        else:
            session.preread(values, WAITING)


def variables_of(hello: Hello) -> dict[str, bytes]:
    """The values of VARIABLES; none of them where what came is no ClientHello."""
    message = hello.message
    if not message and hello.complete:
        return {}
    version, protocols = 0, b""
    with suppress(IndexError):
        version, protocols = _read(message)
    return dict(zip(VARIABLES, (hello.name, _NAMES.get(version, b""), protocols), strict=True))


def _read(message: bytes) -> tuple[int, bytes]:
    """The newest version, and the protocols with commas in between. Raises IndexError where it ends too early."""
    version = message[0] << 8 | message[1]
    protocols = b""
    at = 34
    at += 1 + message[at]
    at += 2 + (message[at] << 8 | message[at + 1])
    at += 1 + message[at]
    at += 2
    while at < len(message):
        kind = message[at] << 8 | message[at + 1]
        size = message[at + 2] << 8 | message[at + 3]
        data = message[at + 4 : at + 4 + size]
        if kind == _VERSIONS and data:
            offered = [data[index] << 8 | data[index + 1] for index in range(1, len(data) - 1, 2)]
            version = max((one for one in offered if one in _NAMES), default=version)
        elif kind == _ALPN:
            protocols = b",".join(_entries(data[2:]))
        at += 4 + size
    return version, protocols


def _entries(data: bytes) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    while at < len(data):
        size = data[at]
        found.append(data[at + 1 : at + 1 + size])
        at += 1 + size
    return found
