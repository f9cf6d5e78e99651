"""A client, upwell and its peers joined in memory: a loop whose clock stands still, transports of lists.

Knows what asyncio promises of loops and transports (as uvloop keeps it), and what upwell's connections ask of them. A
`Joined` is left with everything checked: no peer is still counted as in use, no connection was forgotten.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any, Self, cast

import h11

from upwell.log import DEBUG, ErrorLog
from upwell.peers.peer import PeerSpec, UpstreamSpec, peer_keys
from upwell.peers.upstream import Upstream
from upwell.proxy import phases, variables
from upwell.proxy.client import ClientConnection, Endpoint
from upwell.proxy.clock import Clock
from upwell.proxy.exchange import Exchange
from upwell.proxy.forward import ForwardSpec, forward
from upwell.proxy.keepalive import Keepalive
from upwell.proxy.location import Location, Server
from upwell.proxy.request import path_as_sent, request_renderer
from upwell.proxy.timers import Timers
from upwell.zone.table import PeerTable

HIGH_WATER = 65_536
AT_ONCE = 65_536
UVLOOP_AT_ONCE = 262_144  # for a protocol that brings no buffer
_MORE_THAN_ANY_TIMEOUT = 10_000.0


class Handle:
    """What call_soon and call_later give back."""

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._callback = callback
        self._args = args
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def run(self) -> None:
        if not self.cancelled:
            self._callback(*self._args)


@dataclass
class Connecting:
    """A connection that was asked for: to whom, and who makes its protocol."""

    make: Callable[[], asyncio.BaseProtocol]
    address: object


class Task:
    """The task of a connection being made; what upwell uses of asyncio's."""

    def __init__(self, loop: Loop, connecting: Connecting) -> None:
        self.connecting = connecting
        self._loop = loop
        self._callbacks: list[Callable[[Any], object]] = []
        self._error: BaseException | None = None
        self._done = False
        self._cancelled = False

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        self._callbacks.append(callback)

    def cancel(self) -> bool:
        if self._done:
            return False
        self._cancelled = True
        self.end()
        return True

    def cancelled(self) -> bool:
        return self._cancelled

    def exception(self) -> BaseException | None:
        return self._error

    def end(self, error: BaseException | None = None) -> None:
        if not self._done:
            self._done = True
            self._error = error
            for callback in self._callbacks:
                self._loop.call_soon(callback, self)


class Loop:
    """An event loop in which time passes only by `advance`."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._order = count()
        self.network: dict[object, Origin] = {}

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Handle:
        handle = Handle(callback, args)
        self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Handle:
        return self.call_at(self._now + delay, callback, *args)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Handle:
        handle = Handle(callback, args)
        heappush(self._timers, (when, next(self._order), handle))
        return handle

    def create_connection(self, make: Callable[[], asyncio.BaseProtocol], host: str, port: int) -> Connecting:
        return Connecting(make, (host, port))

    def create_unix_connection(self, make: Callable[[], asyncio.BaseProtocol], path: str) -> Connecting:
        return Connecting(make, path)

    def create_task(self, connecting: Connecting) -> Task:
        task = Task(self, connecting)
        self.call_soon(self.network[connecting.address].asked, task)
        return task

    def run(self) -> None:
        """Run what is ready until nothing is."""
        while self._ready:
            self._ready.popleft().run()

    def advance(self, seconds: float) -> None:
        """Let time pass, running what becomes due on the way."""
        end = self._now + seconds
        self.run()
        while self._timers and self._timers[0][0] <= end:
            when, _, handle = heappop(self._timers)
            self._now = max(when, self._now)
            handle.run()
            self.run()
        self._now = end


class Far:
    """The other end of a transport, for the test to hold. `received` is what it took; `ended` how it saw the end."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.received = bytearray()
        self.taking = True
        self.ended = ""  # "fin" or "reset" once it did
        self.lingers = True  # but a socket that does not ends with a reset, however it is closed

    def __repr__(self) -> str:
        return f"<Far {bytes(self.received[-60:])!r} {self.ended}>"

    def reading(self) -> bool:
        """Whether upwell takes what this end sends."""
        return not self.transport.read_paused

    def closed(self) -> bool:
        """Whether upwell let go of the connection."""
        return self.transport.lost

    def taken(self) -> bytes:
        """What was received since the last call."""
        data = bytes(self.received)
        self.received.clear()
        return data

    def send(self, data: bytes) -> None:
        """Send `data` and let upwell see to it."""
        self.transport.inbox.append(data)
        self.transport.loop.call_soon(self.transport.pump)
        self.transport.loop.run()

    def finish_unnoticed(self) -> None:
        """Send FIN, but upwell's loop has not come to see it yet; its socket would say so."""
        self.transport.far_socket.close()
        self.transport.inbox.append(None)

    def finish(self) -> None:
        """Send FIN."""
        self.transport.inbox.append(None)
        self.transport.loop.call_soon(self.transport.pump)
        self.transport.loop.run()

    def reset(self) -> None:
        """Send RST: what was not yet read is lost."""
        self.transport.inbox.clear()
        self.transport.loop.call_soon(self.transport.end, ConnectionResetError(errno.ECONNRESET, "reset"))
        self.transport.loop.run()

    def stall(self) -> None:
        """Take nothing more."""
        self.taking = False

    def take(self) -> None:
        """Take what waits, and all that comes."""
        self.taking = True
        self.transport.drain()
        self.transport.loop.run()


class Transport(asyncio.Transport):
    """A stream transport whose other end is a `Far`."""

    def __init__(self, loop: Loop, protocol: asyncio.BaseProtocol, peer: tuple[str, int], own: tuple[str, int]) -> None:
        self.own_socket, self.far_socket = socket.socketpair()  # never used but to be asked whether it has ended
        super().__init__({"peername": peer, "sockname": own, "socket": self.own_socket})
        self.loop = loop
        self.protocol: Any = protocol
        self.far = Far(self)
        self.inbox: deque[bytes | None] = deque()
        self.high = HIGH_WATER
        self.at_once = AT_ONCE
        self.pending = bytearray()
        self.read_paused = False
        self.write_paused = False
        self.closing = False
        self.lost = False
        self._eof = False

    def write(self, data: Any) -> None:
        assert isinstance(data, bytes)
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self.closing or self.lost:
            return
        if self.far.taking:
            self.far.received += data
            return
        self.pending += data
        self._check_high()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if self.lost:
            raise RuntimeError("unable to perform operation; the handler is closed")  # as uvloop
        self.high = HIGH_WATER if high is None else high
        self._check_high()

    def get_write_buffer_size(self) -> int:
        return len(self.pending)

    def _check_high(self) -> None:
        if len(self.pending) > self.high and not self.write_paused:
            self.write_paused = True
            self.protocol.pause_writing()

    def drain(self) -> None:
        self.far.received += self.pending
        self.pending.clear()
        if self._eof:
            self.far.ended = self.far.ended or "fin"
        if self.write_paused:
            self.write_paused = False
            self.loop.call_soon(self.protocol.resume_writing)
        if self.closing:
            self.loop.call_soon(self.end, None)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._eof = True
        if not self.pending and not self.closing:
            self.far.ended = self.far.ended or "fin"

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            if not self.pending:
                self.loop.call_soon(self.end, None)

    def abort(self) -> None:
        self.closing = True
        self.pending.clear()
        if not self.lost:
            self.far.ended = self.far.ended or "reset"
        self.loop.call_soon(self.end, None)

    def end(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = self.closing = True
            self.far.lingers = not any(self.own_socket.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)[:4])
            self.own_socket.close()
            self.far_socket.close()
            self.far.ended = self.far.ended or ("reset" if error else "fin")
            self.protocol.connection_lost(error)

    def pause_reading(self) -> None:
        self.read_paused = True

    def resume_reading(self) -> None:
        self.read_paused = False
        self.loop.call_soon(self.pump)

    def is_reading(self) -> bool:
        return not self.read_paused and not self.closing

    def pump(self) -> None:
        while self.inbox and not self.read_paused and not self.closing:
            data = self.inbox.popleft()
            buffered = hasattr(self.protocol, "get_buffer")
            most = AT_ONCE if buffered else self.at_once
            if data and len(data) > most:
                self.inbox.appendleft(data[most:])
                data = data[:most]
            if data and buffered:  # as uvloop reads for it
                self.protocol.get_buffer(-1)[: len(data)] = data
                self.protocol.buffer_updated(len(data))
            elif data:
                self.protocol.data_received(data)
            elif data is None and not self.protocol.eof_received():
                self.close()


class Origin:
    """A peer and its connections; `mode` says what it does to who connects: "accept", "refuse", "hang", "stalled"."""

    def __init__(self, loop: Loop, address: tuple[str, int]) -> None:
        self._loop = loop
        self.address = address
        self.mode = "accept"
        self.connections: list[Far] = []
        loop.network[address] = self

    def __getitem__(self, index: int) -> Far:
        return self.connections[index]

    @property
    def last(self) -> Far:
        return self.connections[-1]

    def asked(self, task: Task) -> None:
        if task.cancelled() or self.mode == "hang":
            return
        if self.mode == "refuse":
            task.end(ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)))
            return
        if self.mode == "no path":
            task.end(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
            return
        if self.mode == "no descriptors":
            task.end(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
            return
        protocol = task.connecting.make()
        transport = Transport(self._loop, protocol, self.address, ("127.0.0.1", 40000))
        transport.at_once = UVLOOP_AT_ONCE
        self.connections.append(transport.far)
        if self.mode == "stalled":
            transport.far.stall()
        protocol.connection_made(transport)
        task.end()


class Log(ErrorLog):
    """An error log that keeps its lines as "[level] message"."""

    __slots__ = ("lines",)

    def __init__(self) -> None:
        super().__init__("memory", DEBUG)
        self.lines: list[str] = []

    def write(self, level: int, message: str, connection: int = 0) -> None:
        self.lines.append(message)


@dataclass
class Answer:
    """One response as the client sees it; `complete` is False when its end never came."""

    status: int = 0
    fields: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    complete: bool = False
    interim: list[int] = field(default_factory=list)

    def field(self, name: str) -> str | None:
        return next((value for key, value in self.fields if key.lower() == name.lower()), None)


class Client:
    """A client's connection, whose answers are read by h11."""

    def __init__(self, far: Far, protocol: ClientConnection) -> None:
        self.far = far
        self.protocol: Any = protocol
        self._rest = b""

    def send(self, data: bytes) -> None:
        self.far.send(data)

    def answer(self, method: str = "GET") -> Answer:
        """The next answer, as far as it came. Raises h11.RemoteProtocolError for what is not HTTP."""
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        reader.send(h11.EndOfMessage())
        reader.receive_data(self._rest + self.far.taken())
        answer = Answer()
        told = False
        while True:
            try:
                event = reader.next_event()
            except h11.RemoteProtocolError:
                if told:
                    return answer  # the connection ended before the message did
                raise
            if event is h11.NEED_DATA:
                if self.far.ended != "fin" or told:
                    return answer
                told = True
                reader.receive_data(b"")
            elif isinstance(event, h11.InformationalResponse):
                answer.interim.append(event.status_code)
            elif isinstance(event, h11.Response):
                answer.status = event.status_code
                answer.fields = [(key.decode(), value.decode("latin-1")) for key, value in event.headers.raw_items()]
            elif isinstance(event, h11.Data):
                answer.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                answer.complete = True
                self._rest = reader.trailing_data[0]
                return answer
            elif isinstance(event, h11.ConnectionClosed):
                return answer

    def ask(self, data: bytes) -> Answer:
        """Send a request that is answered at once."""
        self.send(data)
        return self.answer(data.partition(b" ")[0].decode())

    @property
    def rest(self) -> bytes:
        """What came behind the answers that were read."""
        return self._rest + bytes(self.far.received)


Handler = Callable[[Exchange], Awaitable[None]]


class Joined:
    """upwell between clients and `peers` origins. `spec` and `location` change defaults of ForwardSpec and Location.

    `places` are further contents by path; everything else is forwarded. The clock begins at 1000.
    """

    def __init__(
        self,
        peers: int = 1,
        spec: Mapping[str, Any] | None = None,
        location: Mapping[str, Any] | None = None,
        places: Mapping[bytes, Handler] | None = None,
        keepalive: Mapping[str, Any] | None = None,
        peer: Mapping[str, Any] | None = None,
        endpoint: Mapping[str, Any] | None = None,
        fields: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        self.loop = Loop()
        loop = cast("asyncio.AbstractEventLoop", self.loop)
        self.timers = Timers(loop)
        self.log = Log()
        self.origins = [Origin(self.loop, (f"10.0.0.{number}", 80)) for number in range(1, peers + 1)]
        specs = tuple(PeerSpec(f"{host}:{port}", (host, port), **(peer or {})) for host, port in self._addresses())
        upstream = UpstreamSpec("peers", specs)
        self.table = PeerTable.create(peer_keys(upstream), 1)
        self.upstream = Upstream(upstream, self.table)
        self.pool = Keepalive(loop, self.timers, **(keepalive or {}))
        self.spec = ForwardSpec(
            **{
                "upstream": self.upstream,
                "keepalive": self.pool,
                "request_head": request_renderer(path_as_sent, fields or [(b"Host", b"peers")]),
                "request_path": path_as_sent,
                "hide": frozenset((b"server", b"date")),
                **(spec or {}),
            }
        )
        self.done: list[tuple[bytes, int]] = []
        settings = {"log": (self._logged,), **(location or {})}

        def proxied(exchange: Exchange) -> Awaitable[None]:
            return forward(exchange, self.spec)

        self.location = Location("/", proxied, **settings)
        self.places = {path: Location(path.decode(), handler, **settings) for path, handler in (places or {}).items()}
        server = Server("localhost", self.location, self._locate)
        self.reported: list[Exception] = []
        self.expected: list[Exception] = []  # those that a test had its handlers raise
        self.endpoint = Endpoint(
            loop,
            self.timers,
            Clock(),
            self.log,
            server,
            lambda _: server,
            phases.begin,
            _variable,
            lambda _exchange, error: self.reported.append(error),
            set(),
            **(endpoint or {}),
        )
        self.clients: list[Client] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.check_at_rest()
        finally:
            for far in (
                *(client.far for client in self.clients),
                *(far for one in self.origins for far in one.connections),
            ):
                far.transport.own_socket.close()
                far.transport.far_socket.close()

    def _addresses(self) -> list[tuple[str, int]]:
        return [origin.address for origin in self.origins]

    def _locate(self, exchange: Exchange) -> Location:
        return self.places.get(exchange.uri, self.location)

    def _logged(self, exchange: Exchange) -> None:
        self.done.append((exchange.request_line, exchange.status))

    @property
    def origin(self) -> Origin:
        return self.origins[0]

    @property
    def in_use(self) -> list[int]:
        """How many connections each peer is counted to have in use."""
        return [peer.connections for peer in self.upstream.peers]

    def client(self) -> Client:
        """A new connection from a client."""
        protocol = self.endpoint.connect()
        transport = Transport(self.loop, protocol, ("192.0.2.1", 50000 + len(self.clients)), ("192.0.2.2", 80))
        client = Client(transport.far, protocol)
        self.clients.append(client)
        protocol.connection_made(transport)
        self.loop.run()
        return client

    def advance(self, seconds: float) -> None:
        self.loop.advance(seconds)

    def check_at_rest(self) -> None:
        """After all clients have gone nothing is held any more: no peer in use, no connection open, no request lost."""
        for client in self.clients:
            client.far.reset()
        assert self.reported == self.expected
        assert self.in_use == [0] * len(self.origins)
        assert not self.endpoint.connections
        self.advance(_MORE_THAN_ANY_TIMEOUT)
        assert self.in_use == [0] * len(self.origins)
        for origin in self.origins:
            assert all(far.closed() for far in origin.connections), f"a connection to {origin.address} was forgotten"


def _variable(exchange: Exchange, name: str) -> bytes | None:
    known = variables.find(name)
    return None if known is None else known(exchange)


def get(path: str = "/", *fields: str, version: str = "1.1", method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: test", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(body: bytes, *fields: str, path: str = "/", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return get(path, f"Content-Length: {size}", *fields, method="POST") + body


def response(body: bytes = b"", *fields: str, status: str = "200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {size}", *fields, "", ""]).encode("latin-1") + body


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
