"""Connections to peers: connecting, one request at a time, the response's head, then its content to the client.

Knows HTTP/1.1 on the upstream side and how long to wait; which peer, and what to do when it fails, is decided in
`forward`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

from upwell.errors import SHORTAGES, MessageError, UpstreamError
from upwell.http1.fields import FieldSection
from upwell.http1.framing import LAST_CHUNK, ChunkedReader, CloseReader, LengthReader, Reader, chunk
from upwell.http1.head import ResponseHead, parse_response_head
from upwell.log import WARN, printable
from upwell.proxy.dial import Dial, HandshakeError, NameFault, NearError
from upwell.proxy.file_sender import FileSender
from upwell.proxy.intake import Intake
from upwell.proxy.stall import Stall

if TYPE_CHECKING:
    from upwell.peers.upstream import Peer
    from upwell.proxy.body_file import BodyFile
    from upwell.proxy.exchange import Exchange
    from upwell.proxy.forward import ForwardSpec
    from upwell.proxy.keepalive import Keepalive

_CONNECTING: Final = 0
_IDLE: Final = 1
_HEAD: Final = 2
_ANSWERED: Final = 3
_RELAY: Final = 4
_CLOSED: Final = 5
_TUNNEL: Final = 6
_OF_THE_PEER: Final = frozenset((errno.ECONNREFUSED, errno.ECONNRESET, errno.EAGAIN))
"""What nginx takes for a peer's failure where it connects to a path; all else is critical."""
_MOST_INTERIM: Final = 4  # times `head_size`, of interim responses before the final one; more is a flood


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how much an exchange with a peer may take. Times in seconds, sizes in bytes.

    `head_size` bounds the response's head (nginx: proxy_buffer_size); `buffered` is how much content may wait for a
    slow client before the peer is no longer read (proxy_buffers). `tcp_keepalive` is proxy_socket_keepalive.
    `trailers(exchange, lines)` gets the trailer section of the answer (proxy_pass_trailers). `dial` is how connections
    are made, None: as the loop makes them.
    """

    connect_timeout: float = 60.0
    read_timeout: float = 60.0
    send_timeout: float = 60.0
    head_size: int = 4096
    buffered: int = 32_768
    tcp_keepalive: bool = False
    trailers: Callable[[Exchange, bytes], None] | None = None
    dial: Dial | None = None


DEFAULT_LIMITS: Final = Limits()
_INTERIM_FLOOD: Final = "upstream sent too many interim responses while reading response header from upstream"
_BAD_CHUNKS: Final = "upstream sent invalid chunked response while reading upstream"


class Try:
    """One try at a peer, for the log: times in seconds of the loop's clock, 0.0 for what did not happen.

    `peer` is the peer's name, `spec` says how it was asked. `sent` and `received` are bytes on the
    connection, `length` those of the response's content with its framing.
    """

    __slots__ = ("connected", "ended", "header", "length", "peer", "received", "sent", "spec", "started", "status")

    def __init__(self, peer: str, spec: ForwardSpec | None, started: float) -> None:
        self.peer: str = peer
        self.spec: ForwardSpec | None = spec
        self.started: float = started
        self.connected: float = 0.0
        self.header: float = 0.0
        self.ended: float = 0.0
        self.status: int = 0
        self.sent: int = 0
        self.received: int = 0
        self.length: int = 0

    def url(self, exchange: Exchange) -> str:
        """What was asked, for the log."""
        spec = self.spec
        if spec is None:
            return self.peer
        dial = spec.limits.dial
        scheme = "http" if dial is None or dial.tls is None else "https"
        return f"{scheme}://{self.peer}{printable(spec.request_path(exchange))}"


class UpstreamConnection(Intake):
    """One connection to one peer. `reused` says it had served a request before this one; `answered` that bytes came."""

    __slots__ = (
        "_body_chunked",
        "_buffer",
        "_content_sent",
        "_interim",
        "_keepable",
        "_limits",
        "_paused",
        "_reader",
        "_sender",
        "_stall",
        "_state",
        "_task",
        "_writable",
        "answered",
        "exchange",
        "head",
        "length",
        "opened",
        "peer",
        "pool",
        "received",
        "requests",
        "reusable",
        "sent",
        "transport",
    )

    def __init__(self, pool: Keepalive, peer: Peer, exchange: Exchange) -> None:
        self.pool = pool
        self.peer = peer
        self.exchange: Exchange | None = exchange
        self.head: ResponseHead | None = None
        self.transport: asyncio.Transport
        self.requests = 0
        self.sent = 0
        self.received = 0
        self.length = 0
        self.opened = 0.0
        self.answered = False
        self.reusable = False
        self._keepable = False
        super().__init__()
        self._state: int = _CONNECTING
        self._buffer = b""
        self._reader: Reader | None = None
        self._limits = DEFAULT_LIMITS
        self._interim = 0
        self._paused = False
        self._writable = True
        self._body_chunked = False
        self._content_sent = True
        self._sender: FileSender | None = None
        self._stall: Stall | None = None
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<UpstreamConnection {self.peer.name}>"

    @property
    def reused(self) -> bool:
        return self.requests > 1

    def connect(self, limits: Limits) -> None:
        """Begin to connect; the exchange is resumed when the connection is made and failed when it is not."""
        self._limits = limits
        loop = self.pool.loop
        address = self.peer.address
        if limits.dial is not None:
            making = loop.create_task(limits.dial.connect(loop, lambda: self, address))
        else:
            made = (
                loop.create_unix_connection(lambda: self, address)
                if isinstance(address, str)
                else loop.create_connection(lambda: self, address[0], address[1])
            )
            making = loop.create_task(cast("Coroutine[object, object, None]", made))
        self._task = making
        self._task.add_done_callback(self._connected)
        self.pool.timers.arm(self, limits.connect_timeout)

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        number = getattr(error, "errno", None)
        words = f"({number}: {os.strerror(number)})" if number else f"({error})"
        if isinstance(error, NearError):
            reason = f"bind({error.filename}) failed {words} while connecting to upstream"
            self._break("internal", reason, sent=False, critical=True)
            return
        if isinstance(error, NameFault):
            self._break("internal", f"{error} while SSL handshaking to upstream", sent=False)
            return
        if isinstance(error, HandshakeError):
            self._break("error", f"{error} while SSL handshaking to upstream", sent=False)
            return
        outcome = "internal" if number in SHORTAGES else "error"
        whom = f" to {self.peer.name}" if isinstance(self.peer.address, str) else ""
        critical = bool(whom) and number not in _OF_THE_PEER
        self._break(outcome, f"connect(){whom} failed {words} while connecting to upstream", False, critical)

    def begin(
        self,
        exchange: Exchange,
        request: bytes,
        content: bytes,
        streams: bool,
        chunked: bool,
        limits: Limits,
    ) -> None:
        """Send a request: its head, the content at hand, and, if it `streams`, what comes later (`chunked` or as it
        is).
        """
        self.exchange = exchange
        self.requests += 1
        self.answered = False
        self.reusable = False
        self._state = _HEAD
        self._interim = 0
        self._limits = limits
        self._body_chunked = chunked
        self._content_sent = not streams
        if streams:
            self.pool.timers.disarm(self)  # a slow client's time is not the peer's
        else:
            self.pool.timers.arm(self, limits.read_timeout)
        if content:
            request += chunk(content) if chunked else content
            if chunked and not streams:
                request += LAST_CHUNK
        self.sent = len(request)
        self.received = 0
        self.length = 0
        self.transport.write(request)

    # Request content (body.Consumer)

    def send_content(self, content: bytes) -> None:
        if self._state != _CLOSED:
            if self._body_chunked:
                content = chunk(content)
            self.sent += len(content)
            self.transport.write(content)

    @property
    def takes_content(self) -> bool:
        return self._writable and self._state != _CLOSED

    @property
    def sends_content(self) -> bool:
        """Whether the request's content has not all been sent."""
        return not self._content_sent

    def send_file(self, file: BodyFile, at: int) -> None:
        """Send what is in `file` from `at` on."""
        self._sender = FileSender(self, file, at)
        self._sender.go_on()

    def give_up(self, reason: str) -> None:
        """The content cannot be sent to its end, through no fault of the peer's."""
        self._break("internal", reason, sent=True)

    def end_content(self) -> None:
        self._sender = None
        self._content_sent = True
        if self._state != _CLOSED:
            if self._body_chunked:
                self.transport.write(LAST_CHUNK)
            if self._writable and not self._paused:
                self.pool.timers.arm(self, self._limits.read_timeout)

    def pause_writing(self) -> None:
        self._writable = False
        stall = self._stall = Stall(
            self.transport.get_write_buffer_size(), self.pool.loop.time(), self._limits.send_timeout
        )
        self.pool.timers.arm(self, stall.first)
        if self.exchange is not None and not self._content_sent and self._sender is None:
            self.exchange.client.stop_reading()

    def resume_writing(self) -> None:
        self._writable = True
        self._stall = None
        if self._content_sent:
            self.pool.timers.arm(self, self._limits.read_timeout)
        else:
            self.pool.timers.disarm(self)
            if self._sender is not None:
                self._sender.go_on()
            elif self.exchange is not None:
                self.exchange.client.wait_for_body()

    # The transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self._state == _CLOSED or self.exchange is None:
            transport.abort()  # type: ignore[attr-defined]  # every stream transport has abort
            return
        self._state = _IDLE
        self.opened = self.pool.loop.time()
        if self._limits.tcp_keepalive:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.pool.timers.disarm(self)
        self.exchange.resume()

    def data_received(self, data: bytes) -> None:
        state = self._state
        self.received += len(data)
        if state == _RELAY:
            self._relay(data)
        elif state == _HEAD:
            self.answered = True
            self._read_head(self._buffer + data if self._buffer else data)
        elif state == _ANSWERED:
            self._buffer += data
        else:
            self.close()  # a peer that speaks unasked cannot be trusted with a request

    def eof_received(self) -> None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        state = self._state
        exchange = self.exchange
        self.reusable = False
        self._state = _CLOSED
        self.pool.timers.drop(self)
        if state == _IDLE:
            self.pool.forget(self)
        elif state == _HEAD:
            reason = "upstream prematurely closed connection"
            number = getattr(error, "errno", None)
            if number:
                reason = f"recv() failed ({number}: {os.strerror(number)})"
            self._break("error", f"{reason} while reading response header from upstream", sent=True)
        elif state == _RELAY and exchange is not None:
            self.exchange = None
            reader = self._reader
            if isinstance(reader, CloseReader) and error is None:
                reader.complete = True
                exchange.resume()
            else:
                exchange.fail(
                    UpstreamError("error", "upstream prematurely closed connection while reading upstream", sent=True)
                )

    def timed_out(self) -> None:
        if self._stall is not None:
            # It may read, if slowly: proxy_send_timeout is for the time between two writes.
            wait = self._stall.look(self.transport.get_write_buffer_size(), self.pool.loop.time())
            if wait:
                self.pool.timers.arm(self, wait)
                return
        if self._state == _IDLE:
            self.close()
        elif self._state == _CONNECTING:
            self._break(
                "timeout", "upstream timed out (110: Connection timed out) while connecting to upstream", sent=False
            )
        elif self._state == _RELAY:
            self._break("timeout", "upstream timed out (110: Connection timed out) while reading upstream", sent=True)
        else:
            doing = "reading response header from upstream" if self._writable else "sending request to upstream"
            self._break("timeout", f"upstream timed out (110: Connection timed out) while {doing}", sent=True)

    # Responses

    def _read_head(self, data: bytes) -> None:
        """Look for the final response's head in `data`; interim ones are read past (RFC 9110, 15.2)."""
        pool = self.pool
        while True:
            try:
                head = parse_response_head(data, pool.reader, self._limits.head_size)
            except MessageError as error:
                reason = f"upstream sent {error.reason} while reading response header from upstream"
                self._break("invalid_header", reason, sent=True)
                return
            if head is None:
                self._buffer = data  # as in nginx, read_timeout is for the whole head: no byte of it prolongs it
                return
            if head.status >= 200 or head.status == 101:
                break
            self._interim += head.end
            if self._interim > _MOST_INTERIM * self._limits.head_size:
                self._break("invalid_header", _INTERIM_FLOOD, sent=True)
                return
            exchange = self.exchange
            if head.status == 103 and exchange is not None and exchange.location.early_hints is not None:
                exchange.location.early_hints(exchange, head)
            data = data[head.end :]
            if not data:
                self._buffer = b""
                return
        self._buffer = data[head.end :]
        self._state = _ANSWERED
        exchange = self.exchange
        assert exchange is not None
        self.head = head
        exchange.resume()

    def hand_over(self) -> bytes:
        """The transport changes hands for a tunnel; returns what came behind the head."""
        self.pool.timers.disarm(self)
        self._state = _TUNNEL
        data, self._buffer = self._buffer, b""
        return data

    def relay(self, head: ResponseHead, method: bytes) -> bool:
        """Pass the response's content on; true when it is complete already, else the exchange is resumed when it is."""
        section = head.section
        self._keepable = not section.close and (head.version == 11 or _keeps_old(section))
        data = self._buffer
        exchange = self.exchange
        assert exchange is not None
        if data and section.content_length == len(data) and not exchange.header_only:
            # The usual small answer has come whole: no reader is needed to see its end.
            self._buffer = b""
            self.length = len(data)
            exchange.write(data)
            self.reusable = self._keepable and self._content_sent
            return True
        reader = self._reader = response_reader(head, method)
        if reader.complete:
            if data and method != b"HEAD":
                _warn_of_more(exchange, reader)
            self.reusable = self._keepable and not data and self._content_sent and not _may_go_on(head)
            return True
        if data:
            self._buffer = b""
            if self._pass_on(data):
                return True
        if self._state == _CLOSED:  # while it had to wait
            return self._ended_with(reader)
        self._state = _RELAY
        passes = exchange.capture is None or exchange.capture.sink is not None
        if passes:
            exchange.client.flush()
            exchange.client.hold(self._limits.buffered)
        if passes and not exchange.client.writable:
            self.pause()
        else:
            self.pool.timers.arm(self, self._limits.read_timeout)
        return False

    def _ended_with(self, reader: Reader) -> bool:
        """The peer has closed before anybody asked for the rest: it is complete if that is what ends it."""
        if not isinstance(reader, CloseReader):
            raise UpstreamError("error", "upstream prematurely closed connection while reading upstream", sent=True)
        return True

    async def wait_for(self, others: Callable[[], Awaitable[None]]) -> None:
        """Content of others goes first: read no more until it is through, nor hold the time against the peer."""
        self.pool.timers.disarm(self)
        self.transport.pause_reading()
        await others()
        self.transport.resume_reading()

    def drop(self, head: ResponseHead, method: bytes) -> None:
        """Nobody wants the response's content: the connection may be used again only where all of it is here."""
        section = head.section
        data, self._buffer = self._buffer, b""
        reader = response_reader(head, method)
        rest: bytes | None = data
        if not reader.complete:
            try:
                _, rest = reader.feed(data)
            except MessageError:
                rest = None
        keepable = not section.close and (head.version == 11 or _keeps_old(section))
        self.reusable = keepable and rest == b"" and self._content_sent and not _may_go_on(head)

    def hold(self, size: int) -> None:
        """How much of this response's content may wait for a slow client."""
        self._limits = replace(self._limits, buffered=size)

    def _relay(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            self.close()
            return
        try:
            complete = self._pass_on(data)
        except UpstreamError as error:
            self._break(error.outcome, error.reason, error.sent)
            return
        if complete:
            self._state = _ANSWERED
            exchange.resume()
        else:
            if not self._paused:
                self.pool.timers.arm(self, self._limits.read_timeout)
            exchange.client.flush()

    def _pass_on(self, data: bytes) -> bool:
        """Decode content and write it to the client; true at its end. Raises UpstreamError for bad chunks."""
        reader = self._reader
        exchange = self.exchange
        assert reader is not None
        assert exchange is not None
        try:
            content, rest = reader.feed(data)
        except MessageError as error:
            raise UpstreamError("error", _BAD_CHUNKS, sent=True) from error
        self.length += len(data) - len(rest) if rest else len(data)
        if rest:
            _warn_of_more(exchange, reader)
        if content:
            exchange.write(content)
        if rest is None:
            return False
        if self._limits.trailers is not None and isinstance(reader, ChunkedReader) and reader.trailers:
            self._limits.trailers(exchange, reader.trailers)
        self.reusable = self._keepable and not rest and self._content_sent
        return True

    def pause(self) -> None:
        """The client is slow: read no more, and do not hold the time against the peer."""
        if not self._paused and self._state == _RELAY:
            self._paused = True
            self.transport.pause_reading()
            self.pool.timers.disarm(self)

    def proceed(self) -> None:
        if self._paused:
            self._paused = False
            if self._state == _RELAY:
                self.transport.resume_reading()
                self.pool.timers.arm(self, self._limits.read_timeout)

    # The end

    def _break(self, outcome: str, reason: str, sent: bool, critical: bool = False) -> None:
        """Close the connection and tell the exchange why."""
        exchange = self.exchange
        self.close()
        if exchange is not None:
            exchange.fail(UpstreamError(outcome, reason, sent, critical))

    def rest_idle(self) -> None:
        """Nothing to do until the next request."""
        self.exchange = None
        self._reader = None
        self._state = _IDLE

    def is_over(self) -> bool:
        """Whether there is something to read on an idle connection, which can only be its end."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Let go of the connection, whatever its state; idempotent."""
        state = self._state
        if state == _CLOSED:
            return
        self.exchange = None
        self.reusable = False
        self._state = _CLOSED
        self.pool.timers.drop(self)
        if state == _CONNECTING:
            if self._task is not None:
                self._task.cancel()
                self._task = None
            return
        if state == _IDLE:
            self.pool.forget(self)
        unsent = state != _TUNNEL and self.transport.get_write_buffer_size()
        if state in (_HEAD, _RELAY) or not self._content_sent or unsent:
            self.transport.abort()  # what is unsent will not be waited for
        else:
            self.transport.close()


def _keeps_old(section: FieldSection) -> bool:
    """Whether an HTTP/1.0 answer leaves the connection usable. Chunks do not: its framing is faulty (RFC 9112, 6.1)."""
    return section.keep_alive and not section.chunked


def _may_go_on(head: ResponseHead) -> bool:
    """Whether a response without content announces some, which may come yet: a 204 has neither length nor coding, and
    the coding of a 304 is that of content elsewhere (RFC 9110, 8.6; RFC 9112, 6.1), but not every peer knows.
    """
    section = head.section
    return head.status in (204, 304) and (section.chunked or (head.status == 204 and bool(section.content_length)))


def _warn_of_more(exchange: Exchange, reader: Reader) -> None:
    """The peer sent more than its answer: two that disagree about where it ends, which somebody should look at."""
    chunked = isinstance(reader, ChunkedReader)
    what = "data after final chunk" if chunked else 'more data than specified in "Content-Length" header'
    exchange.log(WARN, f"upstream sent {what} while reading upstream")


def response_reader(head: ResponseHead, method: bytes) -> Reader:
    """Where the response's content ends (RFC 9112, 6.3)."""
    section = head.section
    if method == b"HEAD" or head.status in (204, 304):
        return LengthReader(0)
    if section.chunked:
        return ChunkedReader()
    if section.content_length is not None:
        return LengthReader(section.content_length)
    return CloseReader()
