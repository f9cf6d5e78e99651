"""Mixed load at a steady rate: users who each do one kind of thing, one after the other, whatever becomes of it.

Knows HTTP and WebSocket as far as its own requests need them.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

_PATIENCE = 20.0
"""Seconds after which a user gives up."""
_KEPT = 20
"""Requests that a user makes on one connection."""
_ECHOES = 20
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_UPGRADE = (
    b"GET /echo HTTP/1.1\r\nHost: soak\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_FRAME = b"\x82\x84\0\0\0\0soak"
_ECHOED = b"\x82\x04soak"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Ports:
    http: int
    stream: int


@dataclass(frozen=True, slots=True)
class Done:
    """One request (or one WebSocket): when it began (`time.monotonic`), how long it took, why it failed, if it did."""

    kind: str
    began: float
    seconds: float
    failure: str


class _User:
    """One who does one kind of thing, on a connection that is kept for a while where HTTP allows it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: Streams | None = None
        self._asked = 0

    async def ask(self, request: bytes) -> str:
        """Send it and read the answer; why it failed."""
        if self._streams is not None and self._streams[0].at_eof():
            self.leave()  # it was closed meanwhile, as kept connections are
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
            self._asked = 0
        reader, writer = self._streams
        self._asked += 1
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        announced = _LENGTH.search(head)
        left = int(announced[1]) if announced else 0
        while left:
            part = await reader.read(min(left, 1 << 18))
            if not part:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(part)
        if self._asked >= _KEPT or not announced or b"\r\nConnection: close\r\n" in head:
            self.leave()
        return "" if head[9:12] == b"200" else head[9:12].decode("latin-1")

    async def echo(self) -> str:
        """A WebSocket's life of a few seconds."""
        self.leave()
        self._streams = reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(_UPGRADE)
        head = await reader.readuntil(b"\r\n\r\n")
        if head[9:12] != b"101":
            return head[9:12].decode("latin-1")
        for _ in range(_ECHOES):
            writer.write(_FRAME)
            if await reader.readexactly(len(_ECHOED)) != _ECHOED:
                return "wrong echo"
            await asyncio.sleep(0.2)
        self.leave()
        return ""

    def leave(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: soak\r\nUser-Agent: soak\r\nAccept: */*\r\n\r\n".encode()


def _post(size: int) -> bytes:
    return b"POST /post HTTP/1.1\r\nHost: soak\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size


_REQUESTS = {
    "small": _get("/"),
    "small, stream": _get("/"),
    "Lua": _get("/lua"),
    "100 KB": _get("/100k"),
    "10 MB": _get("/10m"),
    "POST of 10 KB": _post(10_000),
    "POST of 1 MB": _post(1_000_000),
    "page": _get("/upwell?format=json"),
}
WEBSOCKET = "WebSocket"
_SHARES = {
    "small": 0.60,
    "small, stream": 0.14,
    "Lua": 0.06,
    "100 KB": 0.08,
    "POST of 10 KB": 0.08,
    "POST of 1 MB": 0.02,
    "page": 0.01,
    "10 MB": 0.005,
    WEBSOCKET: 0.005,
}
"""The part of each in what is begun in a second."""


class Load:
    """`rate` things a second until the end of the `with`; `done` are those that are over."""

    def __init__(self, ports: Ports, rate: float) -> None:
        self.done: list[Done] = []
        self._ports = ports
        self._rate = rate
        self._begun = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._over: asyncio.Event

    def __enter__(self) -> Self:
        self._thread.start()
        self._begun.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Begin nothing more, and wait for what is under way."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(_PATIENCE + 5)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._begun.set()
        kinds = [asyncio.create_task(self._keep_on(kind, self._rate * share)) for kind, share in _SHARES.items()]
        await asyncio.wait(kinds)

    async def _keep_on(self, kind: str, rate: float) -> None:
        """Begin one of this kind so often; who is not back takes no part, and somebody new comes."""
        resting: list[_User] = []
        running: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while not self._over.is_set():
            port = self._ports.stream if kind == "small, stream" else self._ports.http
            user = resting.pop() if resting else _User(port)
            task = asyncio.create_task(self._do(kind, user, resting))
            running.add(task)
            task.add_done_callback(running.discard)
            due += 1 / rate
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), max(due - time.monotonic(), 0.0))
        if running:
            await asyncio.wait(running)
        for user in resting:
            user.leave()

    async def _do(self, kind: str, user: _User, resting: list[_User]) -> None:
        what: Callable[[], Awaitable[str]] = user.echo if kind == WEBSOCKET else lambda: user.ask(_REQUESTS[kind])
        began = time.monotonic()
        try:
            async with asyncio.timeout(_PATIENCE):
                failure = await what()
        except TimeoutError:
            failure = f"no end in {_PATIENCE:g} s"
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            failure = "cut off"
        except OSError as error:
            failure = type(error).__name__
        if failure:
            user.leave()
        resting.append(user)
        self.done.append(Done(kind, began, time.monotonic() - began, failure))
