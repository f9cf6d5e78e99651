"""Constant load: so many requests a second, each on a connection of its own and whatever became of those before it."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

POST_EVERY = 10
"""Each so many-th request is a POST, which no proxy may send twice; all others are GETs."""

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when it began (`time.time`), how long it took, and why it failed, if it did."""

    began: float
    seconds: float
    idempotent: bool
    failure: str


class Load:
    """Asks 127.0.0.1:`port`, `rate` requests a second, until the end of the `with`; `asked` are those that are over."""

    def __init__(self, port: int, rate: float, patience: float) -> None:
        self.asked: list[Asked] = []
        self._port = port
        self._rate = rate
        self._patience = patience
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(self._patience + 5)

    def begun_within(self, first: float, last: float) -> Sequence[Asked]:
        """What began in that time and is over."""
        return [one for one in self.asked if first <= one.began < last]

    async def _run(self) -> None:
        running: set[asyncio.Task[None]] = set()
        due, number = time.monotonic(), 0
        while not self._stopping.is_set():
            number += 1
            task = asyncio.create_task(self._ask(number % POST_EVERY != 0))
            running.add(task)
            task.add_done_callback(running.discard)
            due += 1 / self._rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        if running:
            await asyncio.wait(running)

    async def _ask(self, idempotent: bool) -> None:
        began, start = time.time(), time.monotonic()
        failure = ""
        try:
            async with asyncio.timeout(self._patience):
                failure = await self._exchange(idempotent)
        except TimeoutError:
            failure = f"no answer in {self._patience:g} s"
        except OSError as error:
            failure = type(error).__name__
        except asyncio.IncompleteReadError:
            failure = "answer cut off"
        self.asked.append(Asked(began, time.monotonic() - start, idempotent, failure))

    async def _exchange(self, idempotent: bool) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            framing = b"" if idempotent else b"Content-Length: 4\r\n"
            writer.write(
                (b"GET" if idempotent else b"POST")
                + b" / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%b\r\n" % framing
                + (b"" if idempotent else b"text")
            )
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            content = await (reader.readexactly(int(length[1])) if length else reader.read())
            status = head[9:12]
            if status != b"200":
                return status.decode()
            return "" if content else "empty answer"
        finally:
            writer.close()
