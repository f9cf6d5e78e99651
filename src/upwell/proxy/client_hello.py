"""The first message of a TLS client, read for the name that it asks for, before any handshake has begun.

Which certificate a connection gets, which protocols and whether a client has to show one of its own depends on that
name; OpenSSL through Python asks for it only when most of that is settled. What cannot be read is left to OpenSSL,
which will refuse it. RFC 8446, 4.1.2 and 5.1; RFC 6066, 3.
"""

from __future__ import annotations

from typing import Final

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0
_GROUPS: Final = 10
_LARGEST_RECORD: Final = 16_384 + 256
_MOST: Final = 1 << 16
"""More than any client says at first; OpenSSL takes no more than 128 KB."""


class Hello:
    """What a client has said so far. `complete`: nothing more is needed to say what it asks for. `message` is the
    ClientHello then, b"" if it is none.
    """

    __slots__ = ("_at", "_data", "_message", "complete", "message", "name")

    def __init__(self) -> None:
        self._data = bytearray()
        self._message = bytearray()  # out of the records before `_at`: what was read is not read again for each piece
        self._at = 0
        self.complete = False
        self.name = b""
        self.message = b""

    def __repr__(self) -> str:
        return f"<Hello {len(self._data)} bytes, {self.name!r}>"

    @property
    def data(self) -> bytes:
        """All of it."""
        return bytes(self._data)

    def feed(self, data: bytes) -> None:
        """`name` is what is asked for, b"" where nothing is, or where what came is no such message."""
        self._data += data
        message = self._read()
        if message is None:
            self.complete = len(self._data) > _MOST
            return
        self.complete = True
        self.message = message
        try:
            self.name = _name(message)
        except IndexError:
            self.name = b""

    def _read(self) -> bytes | None:
        """The ClientHello out of its records; None where it is not all there, b"" where it is none."""
        data, message, at = self._data, self._message, self._at
        while len(data) >= at + 5:
            if data[at] != _HANDSHAKE or data[at + 1] != 3:
                return b""
            size = data[at + 3] << 8 | data[at + 4]
            if not size or size > _LARGEST_RECORD:
                return b""
            at += 5
            if len(data) < at + size:
                return None
            message += data[at : at + size]
            at += size
            self._at = at
            if len(message) >= 4:
                if message[0] != _CLIENT_HELLO:
                    return b""
                need = 4 + int.from_bytes(message[1:4], "big")
                if len(message) >= need:
                    return bytes(message[4:need])
                if need > _MOST:
                    return b""
        return b"" if len(data) > at and data[at] != _HANDSHAKE else None


class Offers:
    """What else a ClientHello offers, in the client's order: cipher suites and groups for key exchange, by number."""

    __slots__ = ("ciphers", "groups")

    def __init__(self, data: bytes) -> None:
        """`data` is what the client said first, with all of the message in it."""
        self.ciphers: list[int] = []
        self.groups: list[int] = []
        hello = Hello()
        hello.feed(data)
        try:
            self._read(hello.message)
        except IndexError:
            self.ciphers, self.groups = [], []

    def __repr__(self) -> str:
        return f"<Offers {self.ciphers} {self.groups}>"

    def _read(self, message: bytes) -> None:
        at = 34
        at += 1 + message[at]
        size = message[at] << 8 | message[at + 1]
        self.ciphers = _pairs(message[at + 2 : at + 2 + size])
        at += 2 + size
        at += 3 + message[at]
        while at < len(message):
            kind = message[at] << 8 | message[at + 1]
            size = message[at + 2] << 8 | message[at + 3]
            if kind == _GROUPS:
                self.groups = _pairs(message[at + 6 : at + 4 + size])
            at += 4 + size


def _pairs(data: bytes) -> list[int]:
    return [data[at] << 8 | data[at + 1] for at in range(0, len(data) - 1, 2)]


def _name(message: bytes) -> bytes:
    """The host name in a ClientHello. Raises IndexError where it ends too early."""
    at = 34  # version, random
    at += 1 + message[at]  # session
    at += 2 + (message[at] << 8 | message[at + 1])  # cipher suites
    at += 1 + message[at]  # compression
    if at == len(message):
        return b""
    end = at + 2 + (message[at] << 8 | message[at + 1])
    at += 2
    if end != len(message):
        raise IndexError
    while at < end:
        kind = message[at] << 8 | message[at + 1]
        size = message[at + 2] << 8 | message[at + 3]
        at += 4
        if at + size > end:
            raise IndexError
        if kind == _SERVER_NAME:
            return _first_host(message[at : at + size])
        at += size
    return b""


def _first_host(names: bytes) -> bytes:
    """The only entry of a list of names, as OpenSSL wants it."""
    size = names[3] << 8 | names[4]
    if names[0] << 8 | names[1] != len(names) - 2 or names[2] != _HOST_NAME or len(names) != 5 + size:
        raise IndexError
    return names[5:]
