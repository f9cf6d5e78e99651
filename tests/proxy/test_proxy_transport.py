"""A transport alone on a socket pair: what a receiver may do from the first moment on, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import socket
import ssl
import struct
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from tests.wire.joined import Log
from upwell.proxy.client import Endpoint
from upwell.proxy.intake import Receiver
from upwell.proxy.listener import Listener
from upwell.proxy.tls_transport import TlsFront, TlsTransport
from upwell.proxy.transport import Poll, Transport

pytestmark = pytest.mark.pure_only(reason="a receiver written here, in Python, cannot be a compiled one's heir")

TLS = Path(__file__).parents[1] / "check" / "tls"


class Noting(Receiver):
    """Does `first` when it is told of its transport; notes what it is told."""

    def __init__(self, first: Callable[[Transport], object] = lambda _: None) -> None:
        super().__init__()
        self.first = first
        self.data = b""
        self.told: list[str] = []

    def connection_made(self, transport: Any) -> None:
        self.first(transport)

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.told.append("eof")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.told.append(f"lost: {type(error).__name__}")

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")


class Full:
    """An epoll for which the kernel has no room any more (fs.epoll.max_user_watches)."""

    def __init__(self, epoll: Any) -> None:
        self._epoll = epoll

    def register(self, fd: int, events: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


class Turning:
    """A loop with one `poll`, and what was reported to it."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.poll = Poll(self.loop)
        self.faults: list[BaseException] = []
        self.loop.set_exception_handler(lambda _, told: self.faults.append(told["exception"]))

    def begin(self, receiver: Receiver) -> tuple[Transport, socket.socket]:
        near, far = socket.socketpair()
        near.setblocking(False)
        transport = Transport(self.poll, near.detach(), socket.AF_UNIX, "", receiver)
        transport.begin()
        return transport, far

    def until(self, condition: Callable[[], object]) -> None:
        async def wait() -> None:
            async with asyncio.timeout(20):
                while not condition():  # noqa: ASYNC110  # what is waited for sets no event
                    await asyncio.sleep(0.001)

        self.loop.run_until_complete(wait())

    @property
    def pending(self) -> list[tuple[int, int]]:
        """What the set would tell now."""
        return list(cast(Any, self.poll)._epoll.poll(0))

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        poll = cast(Any, self.poll)
        epoll, poll._epoll = poll._epoll, Full(poll._epoll)
        try:
            yield
        finally:
            poll._epoll = epoll


@pytest.fixture
def turning() -> Iterator[Turning]:
    turning = Turning()
    yield turning
    turning.poll.close()
    turning.loop.run_until_complete(asyncio.sleep(0))
    turning.loop.close()


def test_who_pauses_at_once_hears_of_nothing_until_he_goes_on(turning: Turning) -> None:
    receiver = Noting(lambda transport: transport.pause_reading())
    transport, far = turning.begin(receiver)
    far.send(b"before")
    far.close()
    assert turning.pending == []  # a hang-up would be told again and again
    transport.resume_reading()
    turning.until(lambda: receiver.told)
    turning.until(lambda: len(receiver.told) == 2)
    assert (receiver.data, receiver.told) == (b"before", ["eof", "lost: NoneType"])


def test_who_writes_more_at_once_than_fits_is_served_all_the_same(turning: Turning) -> None:
    greeting = bytes(range(256)) * 8192
    receiver = Noting(lambda transport: transport.write(greeting))
    _, far = turning.begin(receiver)
    far.setblocking(False)
    got = bytearray()

    def read() -> bool:
        with contextlib.suppress(BlockingIOError):
            got.extend(far.recv(1 << 20))
        return len(got) == len(greeting)

    turning.until(read)
    assert bytes(got) == greeting
    assert turning.faults == []
    far.send(b"thanks")
    far.close()
    turning.until(lambda: "lost: NoneType" in receiver.told)
    assert (receiver.data, receiver.told) == (b"thanks", ["pause", "resume", "eof", "lost: NoneType"])


@pytest.mark.parametrize("before", [b"", b"before"])
@pytest.mark.parametrize("sizes", [(0, 0), (5, 20_000), (20_000, 5), (5, 2_000_000), (2_000_000, 5), (1, 1, 1_000_000)])
def test_pieces_arrive_as_they_are_written(turning: Turning, sizes: tuple[int, ...], before: bytes) -> None:
    pieces = [bytes([65 + at]) * size for at, size in enumerate(sizes)]

    def greet(transport: Transport) -> None:
        if before:
            transport.write(before * 100_000)  # more than fits: it waits, and so does all behind it
        transport.writelines(pieces)
        transport.write(b"behind")

    wanted = before * 100_000 + b"".join(pieces) + b"behind"
    receiver = Noting(greet)
    transport, far = turning.begin(receiver)
    far.setblocking(False)
    got = bytearray()

    def read() -> bool:
        with contextlib.suppress(BlockingIOError):
            got.extend(far.recv(1 << 20))
        return len(got) >= len(wanted)

    turning.until(read)
    assert bytes(got) == wanted
    assert transport.get_write_buffer_size() == 0
    transport.write_eof()
    with pytest.raises(RuntimeError):
        transport.writelines([b"a", b"b"])
    far.close()
    turning.until(lambda: receiver.told[-1:] == ["lost: NoneType"])


def test_pieces_for_one_who_is_gone_are_the_end(turning: Turning) -> None:
    receiver = Noting()
    transport, far = turning.begin(receiver)
    far.close()
    transport.writelines([b"a", b"b" * 20_000])
    turning.until(lambda: receiver.told)
    assert receiver.told == ["lost: BrokenPipeError"]
    transport.writelines([b"a", b"b"])
    assert turning.faults == []


def test_who_writes_and_closes_at_once_is_sent_to_the_end(turning: Turning) -> None:
    greeting = bytes(2_000_000)

    def greet(transport: Transport) -> None:
        transport.write(greeting)
        transport.close()

    receiver = Noting(greet)
    _, far = turning.begin(receiver)
    far.setblocking(False)
    got = 0

    def read() -> bool:
        nonlocal got
        with contextlib.suppress(BlockingIOError):
            while data := far.recv(1 << 20):
                got += len(data)
            return True
        return False

    turning.until(read)
    assert got == len(greeting)
    turning.until(lambda: receiver.told[-1] == "lost: NoneType")
    far.close()


def test_one_that_the_kernel_will_not_watch_ends_and_says_so(turning: Turning) -> None:
    first = Noting()
    with turning.full():
        _, far = turning.begin(first)
    turning.until(lambda: first.told)
    second = Noting()
    transport, other = turning.begin(second)
    transport.pause_reading()
    with turning.full():
        transport.resume_reading()
    turning.until(lambda: second.told)
    assert first.told == second.told == ["lost: OSError"]
    assert [cast(OSError, error).errno for error in turning.faults] == [errno.ENOSPC] * 2
    assert far.recv(1) == other.recv(1) == b""
    far.close()
    other.close()


def test_a_listener_that_the_kernel_will_not_watch_tries_again(turning: Turning) -> None:
    class Short:
        """A listening socket without a descriptor for the first that comes."""

        def __init__(self, sock: socket.socket) -> None:
            self._sock = sock
            self._short = True

        def _accept(self) -> Any:
            if self._short:
                self._short = False
                raise OSError(errno.EMFILE, "Too many open files")
            return cast(Any, self._sock)._accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sock, name)

    class Door:
        loop = turning.loop
        receiver = Noting()
        tls = None
        proxied = False

        def connect(self) -> Noting:
            return self.receiver

    log, sock = Log(), socket.create_server(("127.0.0.1", 0))
    listener = Listener(turning.poll, cast(socket.socket, Short(sock)), cast(Endpoint, Door()), log)
    client = socket.create_connection(sock.getsockname())
    turning.until(lambda: log.lines)
    with turning.full():
        turning.until(lambda: len(log.lines) == 2)
    assert log.lines == [
        "accept4() failed (24: Too many open files)",
        "epoll_ctl() failed (28: No space left on device)",
    ]
    client.close()
    turning.until(lambda: len(Door.receiver.told) == 2)
    listener.close()
    assert turning.faults == []


def test_a_reset_leaves_nothing_for_the_collector(turning: Turning) -> None:
    def of_this_test() -> int:
        return sum(isinstance(one, Transport) for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = of_this_test()
        with socket.create_server(("127.0.0.1", 0)) as server:
            far = socket.create_connection(server.getsockname())
            near, peer = server.accept()
        near.setblocking(False)
        receiver = Noting()
        Transport(turning.poll, near.detach(), socket.AF_INET, peer, receiver).begin()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        turning.until(lambda: receiver.told)
        assert receiver.told == ["lost: ConnectionResetError"]
        assert of_this_test() == before
    finally:
        gc.enable()


class Knowing(Noting):
    """Knows its transport, as a client's connection does."""

    def __init__(self, loop: object) -> None:
        super().__init__()
        self.loop = loop

    def connection_made(self, transport: Any) -> None:
        self.transport = transport


def _come_and_go(turning: Turning, breaks: bool) -> weakref.ref[Knowing]:
    """A connection that has begun with TLS and is over."""
    server = cast(Any, object())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "good-test-only.pem", TLS / "leaf-test-only.key")
    front = TlsFront(server, lambda *_: server, {server: context}, frozenset())
    client = Knowing(turning.loop)
    near, far = socket.socketpair()
    near.setblocking(False)
    transport = TlsTransport(turning.poll, near.detach(), socket.AF_UNIX, "", cast(Any, client), front)
    transport.begin()
    said = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl._create_unverified_context().wrap_bio(ssl.MemoryBIO(), said).do_handshake()
    far.send(said.read())
    turning.until(lambda: transport.tls is not None)
    if breaks:
        transport.abort()
    else:
        far.close()
    turning.until(lambda: client.told and client.told[-1].startswith("lost"))
    far.close()
    return weakref.ref(client)


@pytest.mark.parametrize("breaks", [False, True])
def test_a_connection_with_tls_is_gone_with_its_end(turning: Turning, breaks: bool) -> None:
    """OpenSSL's memory is many times that of a connection without: it does not wait for the collector."""
    gc.collect()
    gc.disable()
    try:
        assert _come_and_go(turning, breaks)() is None
    finally:
        gc.enable()
