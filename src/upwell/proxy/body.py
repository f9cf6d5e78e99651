"""A request's content on its way in: counted, held in memory or a file, or handed to a consumer piece by piece.

Knows nothing of sockets: the client connection feeds it, and is asked to stop and go on reading through the exchange.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Protocol

from upwell.errors import MessageError
from upwell.http1.framing import ChunkedReader, LengthReader
from upwell.log import NOTICE, WARN
from upwell.proxy.body_file import BodyFile
from upwell.proxy.suspension import suspend

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange


_ALL: Final = 1 << 62
_TOO_LARGE: Final = "client intended to send too large chunked body:"


class Consumer(Protocol):
    """Whoever takes content as it comes (an upstream connection)."""

    def send_content(self, content: bytes) -> None: ...

    def end_content(self) -> None: ...


class RequestBody:
    """The content of one request. `size` bytes are held, all in `pieces` or all in `file`; `limit` is
    client_max_body_size (0: none).

    `announced` is its Content-Length, None for a chunked one; `total` counts what has come, `received`
    the same with its framing. `read`: somebody asked for it. `expects`: the client waits for "100 Continue" before it
    sends.
    """

    __slots__ = (
        "_closed",
        "_memory",
        "announced",
        "complete",
        "consumer",
        "discarding",
        "exchange",
        "expects",
        "file",
        "limit",
        "pieces",
        "read",
        "reader",
        "received",
        "size",
        "total",
        "waiting",
    )

    def __init__(self, exchange: Exchange, length: int | None) -> None:
        self.exchange = exchange
        self.announced = length
        self.reader: LengthReader | ChunkedReader = ChunkedReader() if length is None else LengthReader(length)
        self.limit = 0
        self.pieces: list[bytes] = []
        self.size = 0
        self.total = 0
        self.received = 0
        self.read = False
        self.complete = False
        self.discarding = False
        self.expects = False
        self.waiting = False
        self.consumer: Consumer | None = None
        self.file: BodyFile | None = None
        self._memory = _ALL
        self._closed = False

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes from the connection; returns what is behind the content once it is complete, else None.

        Raises MessageError: 400 for bad chunks, 413 over the limit, 500 when the disk is full.
        """
        content, rest = self.reader.feed(data)
        self.received += len(data) - len(rest) if rest else len(data)
        if content:
            self.total += len(content)
            if self.limit and self.total > self.limit and self.read and not self.discarding:
                before = self.total - len(content)
                raise MessageError(413, f"{_TOO_LARGE} {before}+{len(content)} bytes")
            if self.consumer is not None:
                self.pieces.clear()  # what follows is not held, so the request cannot be sent again
                self.consumer.send_content(content)
            elif not self.discarding:
                self.size += len(content)
                if self.file is not None:
                    self._write(self.file, content)
                else:
                    self.pieces.append(content)
                    if self.size > self._memory:
                        self._move()
        if rest is not None:
            self.complete = True
            if self.consumer is not None:
                self.consumer.end_content()
        return rest

    def wake(self) -> None:
        """Resume the exchange if it waits in `store` and all has come."""
        if self.waiting:
            if self.complete:
                self.waiting = False
                self.exchange.resume()
            else:
                self.exchange.client.wait_for_body()

    def is_held(self) -> bool:
        """Whether `store` has nothing to wait for and nothing to move: the usual small content."""
        location = self.exchange.location
        if not self.complete or self.file is not None or location.body_folder.always:
            return False
        if self.announced is None:
            self.check_size()
        if self.size > location.body_buffer_size and self.size > self._room():
            return False
        self.read = True
        return True

    def check_size(self) -> None:
        """Raise MessageError(413) if more came than the location takes before somebody asked for it. (Of what nobody
        asks for, only the announced length counts, as in nginx.)
        """
        if self.limit and self.total > self.limit and not self.read:
            raise MessageError(413, f"{_TOO_LARGE} 0+{self.total} bytes")

    def _room(self) -> int:
        """How much stays in memory, as nginx reckons: all if what was not in the head's own buffer
        (client_header_buffer_size) fits into one that is at most a quarter larger than client_body_buffer_size.
        """
        exchange = self.exchange
        size = exchange.location.body_buffer_size
        came = min(self.total, max(exchange.client.endpoint.limits.first - exchange.head.end, 0))
        if self.announced is None:
            return size + came
        return _ALL if self.announced - came < size + (size >> 2) else size

    async def store(self) -> None:
        """Wait until all of the content is held: in memory up to client_body_buffer_size, else in a file.

        Raises MessageError(413) when it is too much, (500) when it cannot be written.
        """
        self.check_size()
        self.read = True
        if self.file is None and self.exchange.capture is None:
            location = self.exchange.location
            self._memory = -1 if location.body_folder.always else self._room()
            if self.size > self._memory:
                self._move()
        if not self.complete:
            self.waiting = True
            self.exchange.client.wait_for_body()
            try:
                await suspend()
            finally:
                self.waiting = False

    def _move(self) -> None:
        """Take what is held out of memory."""
        folder = self.exchange.location.body_folder
        try:
            self.file = folder.create()
        except OSError as error:
            raise _failure("open", folder.path, error) from error
        level = NOTICE if folder.always else WARN
        self.exchange.log(level, f"a client request body is buffered to a temporary file {self.file.path}")
        pieces, self.pieces = self.pieces, []
        for piece in pieces:
            self._write(self.file, piece)

    def _write(self, file: BodyFile, content: bytes) -> None:
        try:
            file.append(content)
        except OSError as error:
            raise _failure("pwrite", file.path, error) from error

    def shared(self, exchange: Exchange) -> RequestBody:
        """The content, which has all come, for another exchange; what holds it is closed with the last of them."""
        body = RequestBody(exchange, self.size)
        body.pieces = [*self.pieces]
        body.size = body.total = body.received = self.size
        body.complete = body.read = True
        if self.file is not None:
            body.file = self.file.share()
        return body

    def close(self) -> None:
        """The request is over: nothing is held any more; idempotent."""
        if self.file is not None and not self._closed:
            self._closed = True
            self.file.close()

    def content(self) -> bytes:
        """What is held in memory, as one piece."""
        if len(self.pieces) > 1:
            self.pieces = [b"".join(self.pieces)]
        return self.pieces[0] if self.pieces else b""

    def stream_to(self, consumer: Consumer) -> None:
        """From now on pass content to `consumer`; what is held stays the caller's to send."""
        self.consumer = consumer
        self.read = True
        self.exchange.client.wait_for_body()

    def discard(self) -> None:
        """Throw away what is held and what still comes."""
        self.discarding = True
        self.consumer = None
        self.close()
        self.pieces.clear()
        self.size = 0


def _failure(call: str, path: str, error: OSError) -> MessageError:
    number = error.errno or 0
    return MessageError(500, f'client request body: {call}() "{path}" failed ({number}: {os.strerror(number)})')
