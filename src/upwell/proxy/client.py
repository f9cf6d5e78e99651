"""Connections from clients: bytes in, exchanges one after the other, bytes out; keep-alive, pipelining, time-outs.

Knows one connection's life and the endpoint it came in by. What a request means is decided behind `endpoint.begin`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from heapq import nsmallest
from itertools import count
from typing import TYPE_CHECKING, Final, cast

from upwell.errors import ClientClosed, MessageError, RequestLineError
from upwell.http1.fields import FieldReader, FieldSection, check_host, check_line_host, shown
from upwell.http1.head import RequestHead, parse_request_head, refused_head
from upwell.http1.limits import DEFAULT_LIMITS, Counted, HeadLimits
from upwell.http1.target import Target, parse_target
from upwell.log import INFO, WARN, ErrorLog
from upwell.proxy.body import RequestBody
from upwell.proxy.browsers import is_msie6, is_safari
from upwell.proxy.clock import Clock
from upwell.proxy.exchange import LEFT_EARLY, Exchange
from upwell.proxy.intake import Receiver
from upwell.proxy.sockets import has_unread, reset_on_close
from upwell.proxy.stall import Stall
from upwell.proxy.suspension import suspend
from upwell.proxy.timers import NEVER, Timers
from upwell.proxy.tls import words_of_error
from upwell.proxy.tls_transport import TlsFront, TlsTransport

if TYPE_CHECKING:
    from upwell.proxy.location import Location, Server
    from upwell.proxy.proxy_protocol import Introduced

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_NOT_ALLOWED: Final = frozenset(
    (b"CONNECT", b"TRACE")
)  # nginx: a proxy for others, and one that shows them their fields
_MOST_PIPELINED: Final = 16_384  # bytes of further requests that are taken in while one is being answered
_LONG: Final = 16_384  # bytes that are not copied to be one piece with what comes before them
_CROWDED: Final = 1e-5
"""Where no connection rested, nobody looks again for so many seconds times the connections there are: looking at all of
them takes a thirtieth of it.
"""
_SOON: Final = 1.0
"""Seconds: a client that asked something this short ago will ask something again."""
_IN_LINE: Final = "while reading client request line"
_IN_HEADERS: Final = "while reading client request headers"
_connection_numbers = count(1)

Parse = Callable[["ClientConnection", bytes, int, "Counted | None"], "RequestHead | None"]
"""Reads a head as `parse_request_head` does."""


class Endpoint:
    """What all connections of one listening socket share in one worker.

    `match` finds the server for an exchange by its `host`; `begin` starts an exchange whose server is known;
    `variable` gives $name; `report` logs an exception that a handler let out. `parse` reads heads where `reader`
    and `limits` are not those of all servers. `tls` is set where connections are in TLS, `proxied` where each
    begins with the PROXY protocol; `computed` are the variables that the configuration has computed when they are
    read, by name.
    """

    __slots__ = (
        "begin",
        "clock",
        "computed",
        "connections",
        "crowded_until",
        "default",
        "draining",
        "header_timeout",
        "is_unix",
        "limit",
        "limits",
        "local",
        "log",
        "loop",
        "match",
        "merge_slashes",
        "on_close",
        "on_open",
        "parse",
        "proxied",
        "reader",
        "report",
        "said_at",
        "timers",
        "tls",
        "variable",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timers: Timers,
        clock: Clock,
        log: ErrorLog,
        default: Server,
        match: Callable[[Exchange], Server],
        begin: Callable[[Exchange], None],
        variable: Callable[[Exchange, str], bytes | None],
        report: Callable[[Exchange, Exception], None],
        connections: set[ClientConnection],
        limit: int = 512,
        reader: FieldReader | None = None,
        header_timeout: float = 60.0,
        limits: HeadLimits = DEFAULT_LIMITS,
        merge_slashes: bool = True,
        parse: Parse | None = None,
    ) -> None:
        self.loop = loop
        self.timers = timers
        self.clock: Clock = clock
        self.log = log
        self.default = default
        self.match = match
        self.begin = begin
        self.variable = variable
        self.report = report
        self.connections = connections
        self.limit = limit
        self.reader = reader or FieldReader()
        self.header_timeout = header_timeout
        self.limits = limits
        self.merge_slashes = merge_slashes
        self.parse = parse
        self.draining = False
        self.on_close: Callable[[], None] | None = None
        self.on_open: Callable[[bool], None] | None = None  # told whether there was a place for it
        self.local: tuple[str, int] | None = None  # unless each connection has to be asked
        self.is_unix = False
        self.tls: TlsFront | None = None
        self.proxied: bool = False
        self.crowded_until: float = 0.0  # nobody rested when somebody looked
        self.said_at: float = 0.0
        self.computed: Mapping[str, Callable[[Exchange], bytes]] = {}

    def __repr__(self) -> str:
        return f"<Endpoint {self.local}>"

    def make_room(self) -> bool:
        """Close connections that rest, the longest resting first and as many at once as nginx does. False where all are
        busy: then a new one has no place (nginx: worker_connections).
        """
        now = self.loop.time()
        if now < self.crowded_until:
            return False
        resting = [connection for connection in self.connections if connection.rests]
        if not resting:
            self.crowded_until = now + _CROWDED * len(self.connections)
            return False
        if now >= self.said_at + 1.0:
            self.said_at = now
            self.log.write(WARN, f"{self.limit} worker_connections are not enough, reusing connections")
        for connection in nsmallest(max(1, min(32, len(resting) // 8)), resting, _since):
            self.connections.discard(connection)
            connection.make_way()
        return True

    def connect(self) -> ClientConnection:
        """Who is to be told of a new connection."""
        return ClientConnection(self)


class ClientConnection(Receiver):
    """One connection from a client; `number` is nginx's connection serial, `address` and `port` the client's;
    `introduced` is what a proxy has said of it by the PROXY protocol.
    """

    __slots__ = (
        "_buffer",
        "_closing",
        "_counted",
        "_eof",
        "_in_head",
        "_lingering",
        "_lingers_until",
        "_local",
        "_lost",
        "_open_ended",
        "_reading",
        "_rests_until",
        "_resumes",
        "_scheduled",
        "_searched",
        "_stall",
        "_waiting_to_drain",
        "address",
        "address_bytes",
        "body",
        "endpoint",
        "exchange",
        "introduced",
        "loop",
        "number",
        "opened",
        "out",
        "pipelined",
        "port",
        "refused",
        "requests",
        "transport",
        "writable",
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint: Endpoint = endpoint
        self.loop: asyncio.AbstractEventLoop = endpoint.loop
        self.number: int = next(_connection_numbers)
        self.transport: asyncio.Transport
        self.exchange: Exchange | None = None
        self.body: RequestBody | None = None
        self.out: list[bytes] = []
        self.requests: int = 0
        super().__init__()
        self.opened: float = 0.0
        self.writable: bool = True
        self.pipelined: bool = False
        self.address: str = "unix:"
        self.address_bytes: bytes = b"unix:"
        self.port: int = 0
        self.introduced: Introduced | None = None
        self._local: tuple[str, int] | None = endpoint.local
        self._buffer = b""
        self._reading = True
        self._closing = False
        self.refused: bool = False  # what it sent cannot be read: it may be sending on
        self._scheduled = False
        self._searched = 0
        self._counted: Counted | None = None
        self._stall: Stall | None = None
        self._eof = False
        self._in_head = False
        self._lingering: Location | None = None
        self._lingers_until = 0.0
        self._rests_until = 0.0
        self._resumes: Location | None = None
        self._lost = False
        self._open_ended = False  # what waits to be sent is an answer that ends with the connection
        self._waiting_to_drain: Exchange | None = None

    def __repr__(self) -> str:
        return f"<ClientConnection *{self.number} {self.address}>"

    @property
    def local_address(self) -> str:
        return (self._local or self._ask_local())[0]

    @property
    def local_port(self) -> int:
        return (self._local or self._ask_local())[1]

    @property
    def tls(self) -> TlsTransport | None:
        """The connection, if it is in TLS."""
        if self.endpoint.tls is None:
            return None
        transport: object = self.transport
        return transport if isinstance(transport, TlsTransport) and transport.tls is not None else None

    def _ask_local(self) -> tuple[str, int]:
        name = self.transport.get_extra_info("sockname")
        local: tuple[str, int] = (name[0], name[1]) if name else ("", 0)
        self._local = local
        return local

    # The transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        endpoint = self.endpoint
        self.transport = cast("asyncio.Transport", transport)
        if len(endpoint.connections) >= endpoint.limit and not endpoint.make_room():
            endpoint.log.alert(f"{endpoint.limit} worker_connections are not enough")
            self._lost = True
            if endpoint.on_open is not None:
                endpoint.on_open(False)
            transport.close()
            return
        if not endpoint.is_unix:
            peer = transport.get_extra_info("peername")
            self.address, self.port = peer[0], peer[1]
            self.address_bytes = self.address.encode()
        self.opened = self.loop.time()
        endpoint.connections.add(self)
        if endpoint.on_open is not None:
            endpoint.on_open(True)
        endpoint.timers.arm(self, endpoint.header_timeout)

    def data_received(self, data: bytes) -> None:
        if self.exchange is None and self.body is None and (self._searched or not self._buffer):
            if self._lingering is not None:
                self._linger_on(self._lingering)
                return
            self._serve(self._buffer + data if self._buffer else data)
        elif self.body is not None:
            self._feed(data)
        else:
            self._buffer += data
            if len(self._buffer) > _MOST_PIPELINED:
                self._pause()

    def eof_received(self) -> bool:
        # An answer that does not come from an upstream is still sent to a client that closed its side; for a proxied
        # request nginx takes that as a client that left.
        self._eof = True
        exchange = self.exchange
        if self.body is not None:
            if exchange is not None:
                exchange.fail(MessageError(400, LEFT_EARLY))
            return False
        if exchange is None and self._in_head:
            self._give_up(400, "client prematurely closed connection")
            return False
        if exchange is None or self._buffer:
            return bool(self._buffer)
        if exchange.proxying and exchange.abortable:
            _tell_of_closing(exchange, None)
            exchange.fail(ClientClosed())
            self.transport.abort()
            return False
        return True

    def connection_lost(self, error: Exception | None) -> None:
        first = not self._lost
        self._lost = True
        endpoint = self.endpoint
        endpoint.connections.discard(self)
        endpoint.timers.drop(self)
        waiting, self._waiting_to_drain = self._waiting_to_drain, None
        self.writable = True
        exchange = self.exchange
        if exchange is not None and self._local is None:
            self._ask_local()  # the log may want to know, and the socket is about to go
        if exchange is None and self._in_head and first:
            self._give_up(400, "client prematurely closed connection")
        elif exchange is not None and first:
            if waiting is not None and waiting is not exchange:
                waiting.fail(ClientClosed())  # a subrequest that sends by itself
            # What waits for the client itself, or for a peer on its behalf, is given up; a handler runs to its end.
            receiving = self.body is not None and self.body.waiting
            if exchange.proxying and exchange.abortable:
                _tell_of_closing(exchange, error)
            if exchange.abortable or receiving or waiting is exchange:
                exchange.fail(ClientClosed())
            elif exchange.source is not None:
                exchange.source.proceed()
        if endpoint.on_close is not None:
            endpoint.on_close()

    def pause_writing(self) -> None:
        self.writable = False
        exchange = self.exchange
        if exchange is not None:
            if exchange.source is not None:
                exchange.source.pause()
            self._watch(exchange.location)

    def resume_writing(self) -> None:
        self.writable = True
        self._stall = None
        if not self._closing:
            self.endpoint.timers.disarm(self)
        exchange = self.exchange
        if exchange is not None:
            holds = exchange.chain is not None and exchange.chain.holds()
            if exchange.source is not None and not holds:
                exchange.source.proceed()
        waiting, self._waiting_to_drain = self._waiting_to_drain, None
        if waiting is not None:
            waiting.resume()
        elif self._resumes is not None and not self._closing:
            location, self._resumes = self._resumes, None
            self._ready(location)

    def timed_out(self) -> None:
        exchange = self.exchange
        if self._lost:
            return
        lingering = self._lingering
        location = exchange.location if exchange is not None else lingering or self.endpoint.default.fallback
        unsent = self.transport.get_write_buffer_size()
        if self._stall is not None:
            # It may read, if slowly: send_timeout is for the time between two writes.
            wait = self._stall.look(unsent, self.loop.time())
            if lingering is not None and not unsent:
                self._stall = None
                self._linger_on(lingering)
                return
            if wait:
                self.endpoint.timers.arm(self, wait)
                return
        if lingering is not None and not unsent:
            self.transport.abort()
        elif self._closing or lingering is not None:
            self._break_off(location)
        elif exchange is None:
            if self._resumes is not None:
                self._break_off(self._resumes)
            elif self._in_head:
                if location.reset_timedout:
                    reset_on_close(self.transport)
                self._give_up(408, "client timed out (110: Connection timed out)")
            elif has_unread(self.transport):
                self.endpoint.timers.arm(self, _SOON)  # its next request: this worker was busy
            else:
                self._close(location)
        elif not self.writable:
            exchange.log(INFO, "client timed out (110: Connection timed out) while sending response to client")
            self._break_off(location)
        elif self.body is not None:
            exchange.log(INFO, "client timed out (110: Connection timed out) while reading client request body")
            if location.reset_timedout:
                reset_on_close(self.transport)
            exchange.fail(ClientClosed(408))
            self._close(location)

    def _watch(self, location: Location) -> bool:
        """See that the client takes what waits for it, with pauses of no more than `send_timeout`; false if nothing
        waits.
        """
        unsent = self.transport.get_write_buffer_size()
        if not unsent:
            return False
        stall = self._stall = Stall(unsent, self.loop.time(), location.send_timeout)
        self.endpoint.timers.arm(self, stall.first)
        return True

    def _break_off(self, location: Location) -> None:
        """Close after a time-out; what is unsent is dropped (with a reset if reset_timedout_connection is on)."""
        if location.reset_timedout:
            reset_on_close(self.transport)
        self.cut()

    def no_handshake(self, error: OSError) -> None:
        self._tell_of_tls(f"SSL_do_handshake() failed ({words_of_error(error)}) while SSL handshaking")

    def no_tls(self, error: OSError) -> None:
        """The bytes are no TLS any more."""
        self._tell_of_tls(f"SSL failed ({words_of_error(error)})")

    def _tell_of_tls(self, what: str) -> None:
        log = self.endpoint.log
        if log.level >= INFO:
            where = self.local_address if self.endpoint.is_unix else f"{self.local_address}:{self.local_port}"
            log.write(INFO, f"*{self.number} {what}, client: {self.address}, server: {where}")

    # Requests

    def _serve(self, data: bytes) -> None:
        """Start the request at the start of `data`, or keep `data` until the rest of the head has come."""
        endpoint = self.endpoint
        if not self._searched and data[0] in b"\r\n":  # RFC 9112, 2.2: empty lines before a request are skipped
            data = data.lstrip(b"\r\n")
            if not data:
                self._buffer = b""
                if self._eof:
                    self._close(endpoint.default.fallback)
                else:
                    self._begin_head()
                return
        try:
            parse = endpoint.parse
            head = (
                parse_request_head(data, endpoint.reader, endpoint.limits, self._searched, self._counted)
                if parse is None
                else parse(self, data, self._searched, self._counted)
            )
            if head is None:
                self._buffer = data
                self._searched = len(data)
                if self._counted is None:
                    self._counted = Counted()
                if self._eof:
                    self._give_up(400, "client prematurely closed connection")
                else:
                    self._begin_head()
                return
            if head.method in _NOT_ALLOWED:
                if head.method == b"CONNECT" and head.target.startswith(b"/"):
                    raise RequestLineError(400, "invalid request")
                raise MessageError(405, f"{head.method.decode()} method")
            target = head.parsed
            if target is None:
                target = head.parsed = parse_target(head.target, endpoint.merge_slashes)
            name = head.section.host_name if target.host is None else check_line_host(target.host)
        except MessageError as error:
            self._refuse(data, error)
            return
        self._in_head = False
        self._searched = 0
        self._counted = None
        self.deadline = NEVER
        self._buffer = data[head.end :]
        self.requests += 1
        exchange = self.exchange = Exchange(self, head, target, self.loop.time())
        exchange.host = name
        try:
            exchange.server = endpoint.match(exchange)
        except Exception as failure:  # a regular expression that takes too long
            exchange.keepalive = False
            exchange.start_failing(failure)
            return
        section = head.section
        if not section.plain:
            if section.ignored:
                _tell_of_ignored(exchange, section)
            if section.chunked or section.content_length:
                body = exchange.body = self.body = RequestBody(exchange, section.content_length)
                if self._buffer:
                    rest, self._buffer = self._buffer, b""
                    self._feed(rest)
                    if self.refused:
                        return  # it has its answer, or an error page is on its way
                else:
                    body.expects = head.version == 11 and section.values.get(b"expect", b"").lower() == b"100-continue"
                body.limit = exchange.server.fallback.max_body_size
        endpoint.begin(exchange)

    def _begin_head(self) -> None:
        """Some of a head has come: `header_timeout` is for all of it, on a new connection from its start on (nginx)."""
        if not self._in_head:
            self._in_head = True
            if self.requests:
                self.endpoint.timers.arm(self, self.endpoint.header_timeout)

    def _schedule(self) -> None:
        """Serve what is in the buffer in the loop's next round."""
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._serve_buffer)

    def _serve_buffer(self) -> None:
        self._scheduled = False
        if self.exchange is None and self.body is None and not self._lost and self._lingering is None and self._buffer:
            self._serve(self._buffer)

    def _refuse(self, data: bytes, error: MessageError) -> None:
        """Answer for a head that could not be read."""
        only_line = isinstance(error, RequestLineError)
        exchange = self._unread(data, only_line)
        self._reject(exchange, error.status, f"client sent {error.reason} {_IN_LINE if only_line else _IN_HEADERS}")

    def _unread(self, data: bytes, only_line: bool) -> Exchange:
        """The exchange for a head that will not be read, with what is known of it: `only_line` says that the server is
        the default one, whatever Host may say.
        """
        endpoint = self.endpoint
        head = refused_head(data, only_line)
        try:
            target = parse_target(head.target, endpoint.merge_slashes, needs_host=False)
        except MessageError:
            # nginx takes the host of CONNECT for the host, and "/" for the rest.
            target = Target(b"/", b"", b"/", head.target) if head.method == b"CONNECT" else Target(b"", b"", b"")
        exchange = self.exchange = Exchange(self, head, target, self.loop.time())
        self.requests += 1
        self._buffer = b""
        self._in_head = False
        self._searched = 0
        self._counted = None
        host = head.section.values.get(b"host") if target.host is None else target.host
        if host is not None and not only_line:
            try:
                exchange.host = check_host(host)[0]
                exchange.server = endpoint.match(exchange)
                exchange.location = exchange.server.fallback
            except Exception:  # the name may be what is wrong, or a regular expression takes too long
                exchange.host = b""
        return exchange

    def _give_up(self, status: int, reason: str) -> None:
        """The client left or took too long in the middle of a head: it gets nothing, the logs get a line."""
        only_line = b"\n" not in self._buffer
        exchange = self._unread(self._buffer, only_line)
        exchange.keepalive = False
        exchange.finished = exchange.cut = True
        exchange.status = status
        exchange.log(INFO, f"{reason} {_IN_LINE if only_line else _IN_HEADERS}")
        self.exchange_done(exchange)

    def _reject(self, exchange: Exchange, status: int, reason: str) -> None:
        exchange.keepalive = False
        exchange.location = exchange.server.fallback
        self.refused = True
        exchange.log(INFO, reason)
        exchange.start_answer(status)

    def _feed(self, data: bytes) -> None:
        """Give bytes to the content that is being received."""
        body = self.body
        assert body is not None
        exchange = body.exchange
        try:
            rest = body.feed(data)
        except MessageError as error:
            self.body = None
            exchange.keepalive = False
            if self.exchange is exchange:
                self.refused = True  # the client may be sending still, and closing would reset: linger
                if exchange._coro is None:
                    exchange.location = exchange.server.fallback
                    exchange.start_failing(error)
                else:
                    exchange.fail(error)
            else:
                self._close(exchange.location)
            return
        if rest is None:
            if body.discarding and self.exchange is not exchange:
                self._linger_on(exchange.location)
            elif body.consumer is not None:
                if self._reading and self.writable:
                    self.endpoint.timers.arm(self, exchange.location.body_timeout)
            elif body.size >= _MOST_PIPELINED and not body.waiting:
                self._pause()
            body.wake()
            return
        self.body = None
        self.deadline = NEVER if self.writable else self.deadline
        self._buffer = rest
        if self.exchange is not exchange:
            self._ready(exchange.location)
        else:
            body.wake()

    def wait_for_body(self) -> None:
        """Somebody waits for content: read on, and no longer than client_body_timeout for each piece."""
        if self.body is not None:
            exchange = self.body.exchange
            if self.body.expects:
                self.body.expects = False
                if not self.body.total:
                    self.out.append(_CONTINUE)
                    exchange.body_bytes_sent += len(_CONTINUE)  # nginx counts all but the head
                    self.flush()
            self.go_on_reading()
            if self.writable:
                self.endpoint.timers.arm(self, exchange.location.body_timeout)

    def stop_reading(self) -> None:
        """Whoever takes the content cannot take more now; the client is not to blame for the time that takes."""
        self._pause()
        self.endpoint.timers.disarm(self)

    def _pause(self) -> None:
        if self._reading and not self._lost:
            self._reading = False
            self.transport.pause_reading()

    def go_on_reading(self) -> None:
        if not self._reading and not self._lost:
            self._reading = True
            self.transport.resume_reading()

    # Tunnels

    @property
    def has_ended(self) -> bool:
        """Whether the client has sent all it will."""
        return self._eof

    def hold(self, size: int) -> None:
        """How much may wait to be sent before whoever writes is told to pause."""
        if not self._lost:
            self.transport.set_write_buffer_limits(high=size)

    def note_end(self) -> None:
        self._eof = True

    def hand_over(self) -> bytes:
        """The transport changes hands for a tunnel: write what is to be written; returns what came before."""
        self.flush()
        self.endpoint.timers.disarm(self)
        self.go_on_reading()
        data, self._buffer = self._buffer, b""
        return data

    def take_back(self, writable: bool) -> None:
        """The tunnel is over; the connection will be closed, in a way that lets the client have what was sent."""
        if not self._lost:
            self.writable = writable
            self._reading = False  # it may have been stopped for the peer's sake
            self.transport.set_protocol(self)
            if not self.transport.get_write_buffer_size():
                self.refused = True  # it may still be sending, and closing would reset: linger

    # Answers

    def may_keep(self, exchange: Exchange) -> bool:
        """Whether the connection may live on after this exchange, as far as the server is concerned."""
        location = exchange.location
        if (
            self.requests >= location.keepalive_requests
            or (self.endpoint.draining and not location.keepalive_min_timeout)
            or (self._eof and not self._buffer)
        ):
            return False
        body = exchange.body
        if body is not None and (body.expects or (location.disable_msie6 and is_msie6(exchange))):
            return False
        if location.disable_safari and is_safari(exchange):
            return False
        return location.keepalive_timeout > 0 and exchange.started - self.opened < location.keepalive_time

    def flush(self) -> None:
        """Hand what was written to the transport, in one piece where none is long."""
        out = self.out
        if out:
            if not self._lost:
                if len(out) == 1:
                    self.transport.write(out[0])
                elif len(out) == 2 and len(out[1]) > _LONG:
                    self.transport.writelines(out)
                else:
                    self.transport.write(b"".join(out))
            out.clear()

    async def drained(self, exchange: Exchange) -> None:
        self.flush()
        if self._lost:
            raise ClientClosed
        if not self.writable:
            self._waiting_to_drain = exchange
            await suspend()

    def abort(self) -> None:
        """Cut the connection so that nobody takes what was sent for a complete answer."""
        self.flush()
        if not self._lost:
            self.transport.abort()

    def cut(self) -> None:
        """End at once, whatever still waits to be sent."""
        if self._lost:
            return
        exchange = self.exchange
        unsent = self._open_ended and self.transport.get_write_buffer_size() > 0
        if unsent if exchange is None else exchange.open_ended:
            reset_on_close(self.transport)
        self.transport.abort()

    def exchange_done(self, exchange: Exchange) -> None:
        """The answer is complete: log it, then the next request or the end of the connection."""
        try:
            for handler in exchange.location.log:
                handler(exchange)
        except Exception as error:
            self.endpoint.report(exchange, error)
        self.flush()
        self.exchange = None
        if exchange.body is not None:
            exchange.body.close()
            # These two know the exchange: let go of them, or all of it stays until a collection, which comes seldom.
            exchange.body = None
        exchange.module = None
        if self._lost:
            return
        if self.writable:
            self.deadline = NEVER
        if self.pipelined:
            self.pipelined = False
        location = exchange.location
        body = self.body
        if body is not None:
            body.discard()
            if exchange.keepalive:
                self.go_on_reading()
                self._lingers_until = self.loop.time() + location.lingering_time
                self._linger_on(location)
                return
        left = self._eof and not self._buffer  # while it was answered: nothing more can come
        if left or not exchange.keepalive or (self.endpoint.draining and not location.keepalive_min_timeout):
            self._open_ended = exchange.open_ended
            if exchange.cut and self._open_ended:
                reset_on_close(self.transport)
            unread = body is not None or self._buffer or self.refused
            if (unread or location.lingering_close == "always") and not self._eof and not exchange.cut:
                self._linger(location)
            else:
                self._close(location)
            return
        self._ready(location)

    def _ready(self, location: Location) -> None:
        """Take the next request, or wait for it as long as `location` (the last one's) lets a client rest."""
        if not self.writable:
            # The client has an answer to read first, for which it has `send_timeout`: else they would pile up.
            self._resumes = location
            self._pause()
            return
        rest = location.keepalive_timeout
        if location.keepalive_min_timeout:
            rest = self._rest_at_least(location)
        self.endpoint.timers.arm(self, rest)
        if self._buffer:
            # Not at once: a client that pipelines must not starve the others, nor grow the stack.
            self.pipelined = True
            self._schedule()
        if not self._reading and len(self._buffer) <= _MOST_PIPELINED:
            self.go_on_reading()

    def _rest_at_least(self, location: Location) -> float:
        """How long to wait for the next request where even a graceful end waits for some time."""
        self._rests_until = self.loop.time() + location.keepalive_min_timeout
        if self.endpoint.draining:
            return location.keepalive_min_timeout
        return max(location.keepalive_min_timeout, location.keepalive_timeout)

    def _linger(self, location: Location) -> None:
        """Close without a reset that would take the answer away: send FIN, read and forget for a while
        (lingering_close).
        """
        if location.lingering_close == "off" and self.body is None:  # nginx reads content that was begun all the same
            self._close(location)
            return
        self.body = None
        self._buffer = b""
        self._lingering = location
        self.go_on_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._lingers_until = self.loop.time() + location.lingering_time
        if not self._watch(location):
            self._linger_on(location)

    def _linger_on(self, location: Location) -> None:
        """Wait for the next piece to forget: `lingering_timeout` for each, `lingering_time` for all of them."""
        left = self._lingers_until - self.loop.time()
        if left <= 0.0:
            self.cut()
        elif self._lingering is None or not self.transport.get_write_buffer_size():
            self.endpoint.timers.arm(self, min(location.lingering_timeout, left))

    def _close(self, location: Location) -> None:
        """Close once everything is sent, which the client has `send_timeout` for between two of its reads."""
        if not self._lost:
            self._closing = True
            self.transport.close()
            self._watch(location)

    @property
    def rests(self) -> bool:
        """Whether it waits for a request of which nothing has come, be it the first."""
        return (
            self.exchange is None
            and self.body is None
            and not self._in_head
            and not self._buffer
            and not self._closing
            and self._lingering is None
            and self._resumes is None
        )

    def make_way(self) -> None:
        """For a new connection that has no place otherwise: close this one, which rests."""
        self._close(self.endpoint.default.fallback)

    def close_if_idle(self) -> None:
        """For a graceful end: close a connection that rests between two requests. Of a new one, a request may be on
        its way; client_header_timeout bounds it. One that has come while this worker was busy is answered, as the last.
        So is one that comes soon after another: to close such a connection would often be to reset it (nginx does).
        """
        if self.requests and self.exchange is None and not self._in_head and not self._buffer:
            now = self.loop.time()
            left = max(self._rests_until - now, min(_since(self)[0] + _SOON - now, _SOON))
            if left > 0.0:
                self.endpoint.timers.arm(self, left)
            elif not has_unread(self.transport):
                self._close(self.endpoint.default.fallback)


def _since(connection: ClientConnection) -> tuple[float, int]:
    """About when it began to rest: as if all clients might rest as long as by the default server."""
    if not connection.requests:
        return connection.opened, connection.number  # of one turn all have the same time
    return connection.deadline - connection.endpoint.default.fallback.keepalive_timeout, connection.number


def _tell_of_ignored(exchange: Exchange, section: FieldSection) -> None:
    exchange.location = exchange.server.fallback
    for line in section.ignored:
        exchange.log(INFO, f'client sent invalid header line: "{shown(line)}" {_IN_HEADERS}')


def _tell_of_closing(exchange: Exchange, error: Exception | None) -> None:
    """The client is gone, and with it what it asked of a peer."""
    if not exchange.tries:
        return
    source = exchange.source
    if source is None:
        doing = "connecting to upstream"
    elif exchange.tries[-1].status:
        doing = "reading upstream"
    else:
        doing = "reading response header from upstream" if source.answered else "sending request to upstream"
    number = getattr(error, "errno", None)
    why = f" ({number}: {os.strerror(number)})" if number else ""
    what = "client prematurely closed connection, so upstream connection is closed too"
    exchange.log(INFO, f"{what}{why} while {doing}")
