"""A request's content on its way in: counted, held up to a buffer, then handed to a consumer piece by piece.

Knows nothing of sockets: the client connection feeds it, and is asked to stop and go on reading through the exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from upwell.errors import MessageError
from upwell.http1.framing import ChunkedReader, LengthReader
from upwell.proxy.suspension import suspend

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange


class Consumer(Protocol):
    """Whoever takes content as it comes (an upstream connection)."""

    def send_content(self, content: bytes) -> None: ...

    def end_content(self) -> None: ...


class RequestBody:
    """The content of one request. `size` bytes are held in `pieces`; `limit` is client_max_body_size (0: none).

    `announced` is its Content-Length, None for a chunked one; `total` counts what has come, `received`
    the same with its framing. `read`: somebody asked for it. `expects`: the client waits for "100 Continue" before it
    sends.
    """

    __slots__ = (
        "_threshold",
        "announced",
        "complete",
        "consumer",
        "discarding",
        "exchange",
        "expects",
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
        self._threshold = 0

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes from the connection; returns what is behind the content once it is complete, else None.

        Raises MessageError: 400 for bad chunks, 413 over the limit.
        """
        content, rest = self.reader.feed(data)
        self.received += len(data) - len(rest) if rest else len(data)
        if content:
            self.total += len(content)
            if self.limit and self.total > self.limit and not self.discarding:
                raise MessageError(413, "client intended to send too large chunked body")
            if self.consumer is not None:
                self.pieces.clear()  # what follows is not held, so the request cannot be sent again
                self.consumer.send_content(content)
            elif not self.discarding:
                self.pieces.append(content)
                self.size += len(content)
        if rest is not None:
            self.complete = True
            if self.consumer is not None:
                self.consumer.end_content()
        return rest

    def wake(self) -> None:
        """Resume the exchange if it waits in `fill` and has got what it waits for."""
        if self.waiting:
            if self.complete or self.size >= self._threshold:
                self.waiting = False
                self.exchange.resume()
            else:
                self.exchange.client.wait_for_body()

    async def fill(self, size: int) -> None:
        """Wait until the content is complete or at least `size` bytes of it are held."""
        self.read = True
        if self.complete or self.size >= size:
            return
        self._threshold = size
        self.waiting = True
        self.exchange.client.wait_for_body()
        try:
            await suspend()
        finally:
            self.waiting = False

    def content(self) -> bytes:
        """What is held, as one piece."""
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
        self.pieces.clear()
        self.size = 0
