"""The clients that wrk cannot be: WebSocket echo, a steady rate, thousands of idle connections, bulk at either end.

They run in the benchmark's own process, whose CPU time is not counted, and each ends by itself.
"""

from __future__ import annotations

import asyncio
import gc
import re
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar, cast

import uvloop

from bench.backend import SLOW, accept_key
from bench.cases import BadRun, Load, Refused, quantile

_KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
_UPGRADE = (
    b"GET /echo HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + _KEY + b"\r\n\r\n"
)
_PAYLOAD = b"0123456789abcdef0123456789abcdef"
_MASK = 0x5AC3781E
_FRAME = (
    bytes((0x82, 0x80 | len(_PAYLOAD)))
    + _MASK.to_bytes(4, "big")
    + (int.from_bytes(_PAYLOAD, "big") ^ int(f"{_MASK:08x}" * (len(_PAYLOAD) // 4), 16)).to_bytes(len(_PAYLOAD), "big")
)
_ECHOED = bytes((0x82, len(_PAYLOAD))) + _PAYLOAD
_REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
_GRACE = 20.0
_TICK = 0.001
_SETTLED = 1.0
_T = TypeVar("_T")


def _status(head: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
    return int(found[1]) if found else 0


class _Client(asyncio.Protocol):
    """One connection: what arrives until it is a whole message, when the last one went out, how long each took."""

    def __init__(self, latencies: list[float]) -> None:
        self.latencies = latencies
        self.pending = b""
        self.sent_at = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done at the end: with BadRun when it came too early or with something unexpected."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's has another base class

    def fail(self, error: BadRun) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)
        self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(BadRun(f"a connection was lost: {error or 'closed'}"))

    def answered(self) -> None:
        self.latencies.append(time.perf_counter() - self.sent_at)
        self.pending = b""


class _Echoing(_Client):
    """Sends a frame, waits for its echo, and so on until `stop`."""

    def __init__(self, latencies: list[float]) -> None:
        super().__init__(latencies)
        self.upgraded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(_UPGRADE)

    def data_received(self, data: bytes) -> None:
        self.pending += data
        if not self.upgraded.done():
            self._answer_of_upgrade()
        elif self.pending == _ECHOED:
            self.answered()
            if self._stopping:
                self.ended.set_result(None)
            else:
                self.send()
        elif len(self.pending) >= len(_ECHOED):
            self.fail(BadRun("a frame came back as another"))

    def _answer_of_upgrade(self) -> None:
        head, found, _ = self.pending.partition(b"\r\n\r\n")
        if not found:
            return
        self.pending = b""
        if _status(head) == 101 and accept_key(_KEY) in head:
            self.upgraded.set_result(None)
        else:
            self.upgraded.set_exception(Refused(f"status {_status(head)} instead of 101"))

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if not self.upgraded.done():
            self.upgraded.set_exception(Refused("closed instead of 101"))

    def send(self) -> None:
        self.sent_at = time.perf_counter()
        self.transport.write(_FRAME)

    def stop(self) -> None:
        self._stopping = True


async def _echo(port: int, connections: int, seconds: float) -> Load:
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    clients: list[_Echoing] = []
    try:
        for _ in range(connections):
            _, client = await loop.create_connection(lambda: _Echoing(latencies), "127.0.0.1", port)
            clients.append(client)
            await client.upgraded
        started = time.perf_counter()
        for client in clients:
            client.send()
        await asyncio.wait([client.ended for client in clients], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for client in clients:
            client.stop()
        await asyncio.gather(*(client.ended for client in clients))
        taken = time.perf_counter() - started
    finally:
        _close(clients)
    return Load(len(latencies), len(latencies) / taken, quantile(latencies, 0.99) * 1e3)


def _close(clients: Sequence[_Client]) -> None:
    for client in clients:
        client.ended.cancel()
        client.transport.close()


def echo(port: int, connections: int, seconds: float) -> Load:
    """Echo frames over WebSockets for `seconds`, one frame under way on each. Raises Refused, BadRun."""
    return _run(_echo(port, connections, seconds), seconds)


def _run(load: Coroutine[Any, Any, _T], seconds: float) -> _T:
    # What the garbage collector takes here would be counted as the proxy's latency.
    gc.collect()
    gc.disable()
    try:
        return uvloop.run(asyncio.wait_for(load, seconds + _GRACE))
    except (OSError, TimeoutError) as error:
        raise BadRun(f"{type(error).__name__}: {error}") from None
    finally:
        gc.enable()


class _Asking(_Client):
    """Sends the request when told to, and gives itself back to `free` when the answer is whole."""

    def __init__(self, latencies: list[float], free: deque[_Asking], give: Callable[[_Asking], None]) -> None:
        super().__init__(latencies)
        self._give = give
        free.append(self)

    def ask(self, due: float) -> None:
        self.sent_at = due
        self.transport.write(_REQUEST)

    def data_received(self, data: bytes) -> None:
        self.pending += data
        head, found, content = self.pending.partition(b"\r\n\r\n")
        if not found:
            return
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        if _status(head) != 200 or length is None:
            self.fail(BadRun(f"status {_status(head)} instead of 200 with a length"))
        elif len(content) >= int(length[1]):
            self.answered()
            self._give(self)


async def _steady(port: int, rate: float, seconds: float, connections: int) -> list[float]:
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    free: deque[_Asking] = deque()
    due: deque[float] = deque()

    def give(client: _Asking) -> None:
        if due:
            client.ask(due.popleft())
        else:
            free.append(client)

    clients: list[_Asking] = []
    try:
        for _ in range(connections):
            _, client = await loop.create_connection(lambda: _Asking(latencies, free, give), "127.0.0.1", port)
            clients.append(client)
        total, asked = int(rate * seconds), 0
        started = time.perf_counter()
        while asked < total:
            now = time.perf_counter()
            # A request that this loop itself was late for counts from here: its lateness is not the proxy's.
            for _ in range(min(total, int((now - started) * rate) + 1) - asked):
                asked += 1
                if free:
                    free.popleft().ask(now)
                else:
                    due.append(now)
            await asyncio.sleep(_TICK)
        while len(latencies) < total:
            for client in clients:
                if client.ended.done():
                    client.ended.result()
            await asyncio.sleep(_TICK)
    finally:
        _close(clients)
    return latencies


def steady(port: int, rate: float, seconds: float, connections: int) -> list[float]:
    """Latencies in seconds of `rate` requests a second for `seconds`, whatever the answers do. Raises BadRun.

    A request for which no connection is free waits, and the wait counts.
    """
    return _run(_steady(port, rate, seconds, connections), seconds)


def _answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and so much of the content as came with it. Raises BadRun when the connection ends before."""
    pending = b""
    while b"\r\n\r\n" not in pending:
        data = connection.recv(65_536)
        if not data:
            raise BadRun("closed before the head of an answer")
        pending += data
    head, _, content = pending.partition(b"\r\n\r\n")
    if _status(head) != 200:
        raise BadRun(f"status {_status(head)} instead of 200")
    return head, content


@contextmanager
def idle(port: int, count: int) -> Iterator[None]:
    """Hold `count` connections that made one request each. Raises BadRun when one cannot be made or ends."""
    with ExitStack() as held:
        poll = select.poll()
        for made in range(count):
            try:
                connection = held.enter_context(socket.create_connection(("127.0.0.1", port), _GRACE))
                connection.sendall(_REQUEST)
                _answer(connection)
            except OSError as error:
                raise BadRun(f"connection {made + 1} of {count}: {error}") from None
            poll.register(connection, select.POLLIN)
        time.sleep(_SETTLED)
        yield
        ended = len(poll.poll(0))
        if ended:
            raise BadRun(f"{ended} of {count} connections did not stay open")


def download_slowly(port: int, size: int) -> None:
    """Read an answer of `size` bytes at SLOW bytes a second. Raises BadRun when it is not whole."""
    with socket.socket() as connection:
        # A small buffer here, so that it is the proxy that has to wait or to store.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 131_072)
        connection.settimeout(_GRACE)
        connection.connect(("127.0.0.1", port))
        connection.sendall(b"GET /bulk/%d HTTP/1.1\r\nHost: bench\r\n\r\n" % size)
        got = len(_answer(connection)[1])
        started = time.monotonic()
        buffer = bytearray(262_144)
        while got < size:
            read = connection.recv_into(buffer)
            if not read:
                raise BadRun(f"{got} of {size} bytes arrived")
            got += read
            ahead = got / SLOW - (time.monotonic() - started)
            if ahead > 0.01:
                time.sleep(ahead)


def upload(port: int, size: int) -> None:
    """Send `size` bytes as fast as they are taken to an app that reads slowly. Raises BadRun when not all arrived."""
    with socket.create_connection(("127.0.0.1", port), _GRACE + 2 * size / SLOW) as connection:
        connection.sendall(b"POST /slow HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n" % size)
        piece = b"x" * 262_144
        for start in range(0, size, len(piece)):
            connection.sendall(piece[: size - start])
        content = _answer(connection)[1]
        if int(content or b"-1") != size:
            raise BadRun(f"{content!r} of {size} bytes arrived")


class _Handshake:
    """One connection over TLS 1.3 that says nothing: it ends when the server's tickets have come, with the session
    to resume if it `asks` for that (which takes OpenSSL a while).
    """

    def __init__(self, port: int, context: ssl.SSLContext, session: ssl.SSLSession | None, asks: bool) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, session=session)
        self._shaken = False
        self._asks = asks
        self.session: ssl.SSLSession | None = None
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.setblocking(False)
        self._step()

    def _step(self) -> bool:
        done = False
        try:
            if not self._shaken:
                self.tls.do_handshake()
                self._shaken = True
            else:
                done = True  # nothing else comes then
            self.tls.read(1)
        except ssl.SSLWantReadError:
            pass
        if done:
            if self._asks:
                self.session = self.tls.session
            with suppress(ssl.SSLWantReadError):
                self.tls.unwrap()
        if self._outgoing.pending:
            self.socket.sendall(self._outgoing.read())  # so little always has room
        return done

    def ready(self) -> bool:
        """Take what has come; whether that was all. Raises BadRun."""
        data = self.socket.recv(65_536)
        if not data:
            raise BadRun("the connection was closed during a handshake")
        self._incoming.write(data)
        return self._step()


def shake(port: int, at_once: int, seconds: float, context: ssl.SSLContext, resumes: bool = False) -> Load:
    """Handshakes for `seconds`, `at_once` at a time and at least one; with `resumes` all but the first resume its
    session. Raises BadRun, OSError.
    """
    session: ssl.SSLSession | None = None
    under_way: dict[int, _Handshake] = {}
    count = 0
    with ExitStack() as stack:
        poll = stack.enter_context(select.epoll())

        def close() -> None:
            for one in under_way.values():
                one.socket.close()

        stack.callback(close)

        def begin() -> None:
            one = _Handshake(port, context, session, resumes and session is None)
            under_way[one.socket.fileno()] = one
            poll.register(one.socket, select.EPOLLIN)

        begin()
        began = time.monotonic()
        ends = began + seconds
        while under_way:
            events = poll.poll(_GRACE)
            if not events:
                raise BadRun("no answer in a handshake")
            for fd, _ in events:
                one = under_way[fd]
                if not one.ready():
                    continue
                if resumes and session is not None and not one.tls.session_reused:
                    raise BadRun("a session was not resumed")
                if resumes and session is None:
                    session = one.session
                del under_way[fd]
                one.socket.close()
                count += 1
            if time.monotonic() < ends:
                while len(under_way) < (1 if resumes and session is None else at_once):
                    begin()
        taken = time.monotonic() - began
    return Load(count, count / max(taken, 1e-9), 0.0)
