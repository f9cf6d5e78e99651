"""Where a message's content ends (RFC 9112, 6 and 7): three readers with one shape, and the chunked writer.

A reader's `feed(data)` returns (content, rest): `content` the decoded bytes in `data`; `rest` None while the message
goes on, and once it ended the bytes behind it. `complete` says whether the end was seen. Raises MessageError(400).
"""

from __future__ import annotations

from typing import Final

from upwell.errors import MessageError
from upwell.http1.fields import FieldReader, FieldSection
from upwell.http1.syntax import BARE_LF, CHUNK_HEAD

_MAX_CHUNK_HEAD: Final = 256  # a size line with its extensions; longer ones are an attack on the reader's patience
_MAX_TRAILERS: Final = 8192


_HEAD: Final = 0
_DATA: Final = 1
_DATA_END: Final = 2
_TRAILERS: Final = 3
"""Where a ChunkedReader stands."""


class LengthReader:
    """Content of a known length."""

    __slots__ = ("complete", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.complete = length == 0

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        left = self.left - len(data)
        if left > 0:
            self.left = left
            return data, None
        self.left = 0
        self.complete = True
        if left == 0:
            return data, b""
        return data[:left], data[left:]


class CloseReader:
    """Content that ends with the connection: complete only when the owner says so."""

    __slots__ = ("complete",)

    def __init__(self) -> None:
        self.complete = False

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        return data, None


class ChunkedReader:
    """Content in chunks. Trailer fields are checked and kept in `trailers` as wire bytes (RFC 9112, 7.1.2)."""

    __slots__ = ("_buffer", "_left", "_state", "complete", "trailers")

    def __init__(self) -> None:
        self._state: int = _HEAD
        self._left = 0
        self._buffer = b""
        self.complete = False
        self.trailers = b""

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        out: list[bytes] = []
        at = 0
        size = len(data)
        while True:
            if self._state == _DATA:
                take = min(self._left, size - at)
                if take:
                    out.append(data[at : at + take])
                    at += take
                    self._left -= take
                if self._left:
                    break
                self._state = _DATA_END
            if self._state == _DATA_END:
                if size - at < 2:
                    if size - at == 1 and data[at] != 13:
                        raise MessageError(400, "invalid chunked body")
                    self._buffer = data[at:]
                    break
                if data[at : at + 2] != b"\r\n":
                    raise MessageError(400, "invalid chunked body")
                at += 2
                self._state = _HEAD
            if self._state == _HEAD:
                match = CHUNK_HEAD.match(data, at)
                if match is None:
                    self._wait(data[at:], _MAX_CHUNK_HEAD)
                    break
                if match.end() - at > _MAX_CHUNK_HEAD:
                    raise MessageError(400, "invalid chunked body")
                at = match.end()
                self._left = int(match[1], 16)
                self._state = _DATA if self._left else _TRAILERS
                continue
            # Trailers: an empty line at once, or field lines and then an empty line.
            if data.startswith(b"\r\n", at):
                end = at
            else:
                end = data.find(b"\r\n\r\n", at)
                if end < 0:
                    self._wait(data[at:], _MAX_TRAILERS)
                    break
                end += 2
                if end - at > _MAX_TRAILERS:
                    raise MessageError(400, "too large trailers")
                self.trailers = data[at:end]
                read_trailers(self.trailers)
            self.complete = True
            return b"".join(out), data[end + 2 :]
        return out[0] if len(out) == 1 else b"".join(out), None

    def _wait(self, rest: bytes, limit: int) -> None:
        """Keep the start of a line whose end has not come, unless it can no longer be a good one."""
        if len(rest) > limit + 1 or BARE_LF.search(rest) is not None:
            raise MessageError(400, "invalid chunked body")
        if self._state == _HEAD and (b"\n" in rest or (rest and rest[0] not in b"0123456789abcdefABCDEF")):
            raise MessageError(400, "invalid chunked body")
        self._buffer = rest


_TRAILER_READER: Final = FieldReader(ignore_invalid=False, too_large=400, request=False)


def read_trailers(block: bytes) -> FieldSection:
    """The field lines of a trailer section, checked. Raises MessageError(400)."""
    return _TRAILER_READER.read(block)


Reader = LengthReader | CloseReader | ChunkedReader

LAST_CHUNK: Final = b"0\r\n\r\n"


def last_chunk(trailers: bytes) -> bytes:
    """The end of chunked content with the field lines `trailers`."""
    return b"0\r\n" + trailers + b"\r\n"


def chunk(data: bytes) -> bytes:
    """`data` (not empty) as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)
