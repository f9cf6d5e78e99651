"""Clients over real sockets: what the listener takes in and the transport carries, on a loop that runs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from tests.wire.joined import Log, get
from upwell.errors import ClientClosed
from upwell.proxy import phases
from upwell.proxy.client import ClientConnection, Endpoint
from upwell.proxy.clock import Clock
from upwell.proxy.exchange import Exchange
from upwell.proxy.listener import Listener
from upwell.proxy.location import Location, Server
from upwell.proxy.suspension import suspend
from upwell.proxy.timers import Timers
from upwell.proxy.transport import Poll

Handler = Callable[[Exchange], Awaitable[None]]
LARGE = b"".join(b"%07d\n" % number for number in range(500_000))
CLOSE = "Connection: close"


async def _path(exchange: Exchange) -> None:
    exchange.respond(200, exchange.uri)


async def _large(exchange: Exchange) -> None:
    exchange.send_head()
    for at in range(0, len(LARGE), 30_000):
        exchange.write(LARGE[at : at + 30_000])
        await exchange.drained()


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # what is waited for sets no event
            await asyncio.sleep(0.001)


async def _slow(exchange: Exchange) -> None:
    await suspend()


class Worker:
    """Listeners, connections and the loop they live in; `handler` answers everything."""

    def __init__(self, handler: Handler = _path, limit: int = 512) -> None:
        self.loop = uvloop.new_event_loop()
        self.timers = Timers(self.loop)
        self.poll = Poll(self.loop)
        self.log = Log()
        self.connections: set[ClientConnection] = set()
        self.reported: list[Exception] = []
        self.logged: list[tuple[bytes, int]] = []
        location = Location("/", handler, log=(lambda x: self.logged.append((x.uri, x.status)),))
        server = Server("localhost", location, lambda _: location)
        self.endpoint = Endpoint(
            self.loop,
            self.timers,
            Clock(),
            self.log,
            server,
            lambda _: server,
            phases.begin,
            lambda _exchange, _name: None,
            lambda _exchange, error: self.reported.append(error),
            self.connections,
            limit,
        )
        self.listeners: list[Listener] = []
        self.faults: list[BaseException] = []
        self.loop.set_exception_handler(lambda _, told: self.faults.append(told["exception"]))

    def listen(self, address: Any = ("127.0.0.1", 0), family: int = socket.AF_INET, poll: Poll | None = None) -> Any:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.bind(address)
        sock.listen(128)
        address = sock.getsockname()
        self.serve(sock, poll)
        return address

    def serve(self, sock: socket.socket, poll: Poll | None = None) -> None:
        self.listeners.append(Listener(poll or self.poll, sock, self.endpoint, self.log))

    def until(self, condition: Callable[[], object]) -> None:
        self.loop.run_until_complete(_until(condition))

    def ask(self, address: Any, *pieces: bytes, eof: bool = False) -> bytes:
        """All that a client gets on a connection of its own."""

        async def talk() -> bytes:
            async with asyncio.timeout(20):
                reader, writer = await (
                    asyncio.open_unix_connection(address)
                    if isinstance(address, str)
                    else asyncio.open_connection(*address[:2])
                )
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                if eof:
                    writer.write_eof()
                data = await reader.read()
                writer.close()
                return data

        return self.loop.run_until_complete(talk())


@contextlib.contextmanager
def working(handler: Handler = _path, limit: int = 512) -> Iterator[Worker]:
    worker = Worker(handler, limit)
    try:
        yield worker
        assert worker.reported == []
        worker.until(lambda: not worker.connections)
    finally:
        for listener in worker.listeners:
            listener.close()
        for connection in list(worker.connections):
            connection.transport.abort()
        worker.poll.close()
        worker.loop.run_until_complete(asyncio.sleep(0))
        worker.timers.close()
        worker.loop.close()


def _connected(address: Any) -> socket.socket:
    sock = socket.create_connection(address[:2])
    sock.setblocking(False)
    return sock


def _body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "unix"])
def test_a_client_is_answered_and_both_ends_are_known(tmp_path: Path, address: str) -> None:
    seen: list[tuple[str, int, str, int]] = []

    async def note(exchange: Exchange) -> None:
        client = exchange.client
        seen.append((client.address, client.port, client.local_address, client.local_port))
        exchange.respond(200, b"seen")

    with working(note) as worker:
        if address == "unix":
            worker.endpoint.is_unix = True
            worker.endpoint.local = ("unix:", 0)
            at = worker.listen(str(tmp_path / "s"), socket.AF_UNIX)
        else:
            any_of = "::" if ":" in address else "0.0.0.0"
            at = worker.listen((any_of, 0), socket.AF_INET6 if ":" in address else socket.AF_INET)
            at = (address, at[1])
        assert _body(worker.ask(at, get("/", CLOSE))) == b"seen"
    if address == "unix":
        assert seen == [("unix:", 0, "unix:", 0)]
    else:
        assert seen[0][0] == address
        assert 0 < seen[0][1] != at[1]
        assert seen[0][2:] == (address, at[1])


def test_little_is_held_of_a_client_that_sends_on_while_it_waits() -> None:
    with working(_slow) as worker:
        sock = _connected(worker.listen())
        flood = get("/flood") * 20_000
        sent = 0
        worker.until(lambda: worker.connections)
        (client,) = worker.connections

        def stopped() -> bool:
            nonlocal sent
            with contextlib.suppress(BlockingIOError):
                sent += sock.send(flood[sent:])
            return not client._reading

        worker.until(stopped)
        assert client.exchange is not None
        assert len(client._buffer) <= 2 * 16_384
        client.transport.abort()
        client.exchange.fail(ClientClosed())
        sock.close()


def test_nothing_waits_for_more_to_send() -> None:
    found: list[int] = []

    async def note(exchange: Exchange) -> None:
        sock = exchange.client.transport.get_extra_info("socket")
        found.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        exchange.respond(200, b"")

    with working(note) as worker:
        worker.ask(worker.listen(), get("/", CLOSE))
    assert found == [1]


def test_an_address_that_is_asked_for_by_the_log_of_a_client_that_left_is_known() -> None:
    found: list[tuple[str, int]] = []

    async def endless(exchange: Exchange) -> None:
        exchange.abortable = True
        await exchange.sleep(1000)

    with working(endless) as worker:
        address = worker.listen()
        location = worker.endpoint.default.fallback
        location.log = (lambda x: found.append((x.client.local_address, x.client.local_port)),)
        sock = _connected(address)
        sock.send(get("/"))
        worker.until(lambda: any(one.exchange for one in worker.connections))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        worker.until(lambda: found)
    assert found == [address]


def test_many_at_once_each_get_their_own_answer() -> None:
    """Descriptors are closed and given out again all the time, also between an event and its turn."""
    with working() as worker:
        address = worker.listen()

        async def one(number: int) -> None:
            for turn in range(6):
                reader, writer = await asyncio.open_connection(*address)
                path = f"/{number}/{turn}"
                writer.write(get(path, CLOSE) if number % 3 else get(path) + get(path + "/", CLOSE))
                data = await reader.read()
                assert data.endswith(path.encode() if number % 3 else path.encode() + b"/")
                writer.close()

        async def all_of_them() -> None:
            async with asyncio.timeout(30), asyncio.TaskGroup() as group:
                for number in range(100):
                    group.create_task(one(number))

        worker.loop.run_until_complete(all_of_them())
        assert worker.faults == []


def test_workers_share_a_socket() -> None:
    with working() as worker:
        sock = socket.create_server(("127.0.0.1", 0))
        address = sock.getsockname()
        other = Poll(worker.loop)
        worker.serve(sock.dup())
        worker.serve(sock, other)
        clients = [_connected(address) for _ in range(50)]
        for client in clients:
            client.send(get("/", CLOSE))
        worker.until(lambda: len(worker.logged) == 50)
        for client in clients:
            client.close()
        worker.until(lambda: not worker.connections)
        for listener in worker.listeners:
            listener.close()
        other.close()
    assert not [line for line in worker.log.lines if "accept" in line]


def test_a_large_answer_waits_for_a_slow_client_and_loses_nothing() -> None:
    with working(_large) as worker:
        address = worker.listen()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.connect(address)
        sock.setblocking(False)
        sock.send(get("/", CLOSE, version="1.0"))
        worker.until(lambda: any(not one.writable for one in worker.connections))
        waiting = [one.transport.get_write_buffer_size() for one in worker.connections]
        assert 65_536 < waiting[0] < 65_536 + 40_000
        got = bytearray()

        async def read() -> None:
            async with asyncio.timeout(60):
                while data := await worker.loop.sock_recv(sock, 30_000):
                    got.extend(data)

        worker.loop.run_until_complete(read())
        sock.close()
    assert _body(bytes(got)) == LARGE


def test_a_client_that_has_sent_its_end_still_gets_its_answer() -> None:
    async def late(exchange: Exchange) -> None:
        await exchange.sleep(0.05)
        exchange.respond(200, b"late")

    with working(late) as worker:
        assert _body(worker.ask(worker.listen(), get("/"), eof=True)) == b"late"


def test_what_is_refused_is_answered_with_a_fin_and_not_a_reset() -> None:
    with working() as worker:
        head = get("/", "Content-Length: 900000", CLOSE, method="POST")
        answer = worker.ask(worker.listen(), head, *[bytes(100_000)] * 8, eof=True)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert _body(answer) == b"/"


def test_a_reset_before_it_is_accepted_harms_nobody() -> None:
    with working() as worker:
        address = worker.listen()
        for _ in range(3):
            sock = _connected(address)
            sock.send(get("/"))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        assert _body(worker.ask(address, get("/next", CLOSE))) == b"/next"
        worker.until(lambda: not worker.connections)
        assert worker.faults == []


def test_what_raises_ends_its_own_connection_only() -> None:
    def broken(_: Exchange) -> None:
        raise LookupError("broken")

    with working() as worker:
        address = worker.listen()
        begin = worker.endpoint.begin
        other = _connected(address)
        other.send(get("/"))
        worker.until(lambda: worker.logged)
        worker.endpoint.begin = broken
        assert worker.ask(address, get("/")) == b""
        assert [type(error) for error in worker.faults] == [LookupError]
        worker.endpoint.begin = begin
        other.send(get("/again", CLOSE))
        worker.until(lambda: len(worker.logged) == 2)
        other.close()


def test_more_than_worker_connections_are_turned_away() -> None:
    with working(limit=1) as worker:
        address = worker.listen()
        first = _connected(address)
        first.send(b"GET / HT")  # one that has asked for nothing would make way
        worker.until(lambda: any(not one.rests for one in worker.connections))
        assert worker.ask(address) == b""
        assert worker.log.lines == ["1 worker_connections are not enough"]
        first.close()
        worker.until(lambda: not worker.connections)
        assert _body(worker.ask(address, get("/", CLOSE))) == b"/"


def test_once_closed_nobody_comes_in_and_who_is_in_stays() -> None:
    with working() as worker:
        address = worker.listen()
        sock = _connected(address)
        worker.until(lambda: worker.connections)
        worker.listeners[0].close()
        worker.listeners[0].close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        sock.send(get("/", CLOSE))
        worker.until(lambda: worker.logged)
        sock.close()


async def _without_descriptors(worker: Worker) -> None:
    """Let this process open no more until the listener has found out."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = socket.socket()
    free = probe.fileno()
    probe.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        await _until(lambda: worker.log.lines)
        for _ in range(50):
            await asyncio.sleep(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_descriptors_it_pauses_says_so_and_goes_on() -> None:
    with working() as worker:
        address = worker.listen()
        sock = _connected(address)
        sock.send(get("/", CLOSE))
        worker.loop.run_until_complete(_without_descriptors(worker))
        assert "pausing" in repr(worker.listeners[0])
        worker.until(lambda: worker.logged)
        assert worker.log.lines == ["accept4() failed (24: Too many open files)", "accept4() succeeds again"]
        assert "pausing" not in repr(worker.listeners[0])
        sock.close()


def test_closed_while_it_pauses_it_does_not_come_back() -> None:
    with working() as worker:
        address = worker.listen()
        sock = _connected(address)
        worker.loop.run_until_complete(_without_descriptors(worker))
        worker.listeners[0].close()
        assert "pausing" not in repr(worker.listeners[0])
        worker.loop.run_until_complete(asyncio.sleep(0))
        sock.close()
        assert worker.faults == []


def test_an_error_that_is_the_client_s_is_logged_and_the_next_is_taken() -> None:
    class Aborted:
        """A listening socket whose next client is gone when it is accepted."""

        def __init__(self, sock: socket.socket) -> None:
            self._sock = sock
            self._aborts = 1

        def _accept(self) -> Any:
            if self._aborts:
                self._aborts = 0
                raise OSError(errno.ECONNABORTED, "Software caused connection abort")
            return cast(Any, self._sock)._accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sock, name)

    with working() as worker:
        sock = socket.create_server(("127.0.0.1", 0))
        address = sock.getsockname()
        worker.serve(cast(socket.socket, Aborted(sock)))
        assert _body(worker.ask(address, get("/", CLOSE))) == b"/"
        assert worker.log.lines == ["accept4() failed (103: Software caused connection abort)"]


def test_a_connection_that_has_to_introduce_itself_is_served_afterwards() -> None:
    told: list[object] = []

    async def note(exchange: Exchange) -> None:
        told.append(exchange.client.introduced)
        exchange.respond(200, exchange.uri)

    header = b"PROXY TCP4 192.0.2.1 198.51.100.2 80 443\r\n"
    with working(note) as worker:
        worker.endpoint.proxied = True
        address = worker.listen()
        assert worker.ask(address, header + get("/a", CLOSE)).endswith(b"/a")
        assert worker.ask(address, header, get("/b", CLOSE)).endswith(b"/b")
        assert worker.ask(address, get("/c", CLOSE)) == b""
        assert told == [("192.0.2.1", 80, "198.51.100.2", 443, b"")] * 2
        assert [line.partition(",")[0] for line in worker.log.lines] == [
            'broken header: "GET /c HTTP/1.1" while reading PROXY protocol'
        ]
        worker.endpoint.header_timeout = 0.01
        assert worker.ask(address) == b""  # who says nothing has as long as for the head of a request
    assert worker.faults == []


def test_who_leaves_instead_of_an_introduction_leaves_nothing() -> None:
    with working(limit=1) as worker:
        worker.endpoint.proxied = True
        address = worker.listen()
        gone = socket.create_connection(address)
        worker.until(lambda: worker.connections)
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
        worker.until(lambda: not worker.connections)
        with socket.create_connection(address), socket.create_connection(address):
            worker.until(lambda: len(worker.log.lines) > 0)
    assert worker.faults == []
