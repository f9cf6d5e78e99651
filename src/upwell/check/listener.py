"""Who is told of transitions: notifications (`notify.py`), the state file (`state.py`); and of members who come and go
(`server_lists.py`). Knows no check at work.

What listeners do takes time, so they do it in threads of their own; the checker's thread only hands over. What they
have to say in the log comes back the same way, because a log that is being reopened is no matter for two threads.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, NamedTuple

from upwell.check.spec import CheckSpec
from upwell.log import ErrorLog
from upwell.peers.roster import Member
from upwell.zone.table import RowKey

GRACE: Final = 1.2
"""Seconds that all listeners of a checker that ends have for it; the master kills one after 1.5."""


class Turn(NamedTuple):
    """One check of one peer is up or down now. `identity` is the check's, `at` when that began and `since` when the
    state before it did: milliseconds of the checker's clock, 0 where it is not known. A pass has no `kind` and `why`.
    """

    key: RowKey
    spec: CheckSpec
    identity: int
    up: bool
    kind: str
    why: str
    at: int
    since: int


class Recalled(NamedTuple):
    """What a listener knows of a check from an earlier life: `age` is for how long, in seconds."""

    up: bool
    kind: str
    why: str
    age: float


class Listener:
    """One that does nothing. All methods but `say` are called by the checker's thread; its descriptor is readable when
    `tell` has something to write into the log. `spawns`: it starts processes (see check.target.Loop)."""

    __slots__ = ("_fd", "_lines", "_lock", "_log", "spawns")

    def __init__(self, log: ErrorLog) -> None:
        self._log = log
        self._lines: deque[tuple[int, str]] = deque()
        self._lock = threading.Lock()
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.spawns = False

    def fileno(self) -> int:
        return self._fd

    def say(self, level: int, text: str) -> None:
        """Have a line written into the log; from any thread."""
        self._lines.append((level, text))
        with self._lock:
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def tell(self) -> None:
        """Write what was said."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        self._write()

    def _write(self) -> None:
        while self._lines:
            self._log.write(*self._lines.popleft())

    def recall(self, key: RowKey, identity: int) -> Recalled | None:
        """What is known of a check that is new to the zone."""
        return None

    def begun(self, turn: Turn, age: float) -> None:
        """A check begins in this state, which it has been in for `age` seconds."""

    def turned(self, turn: Turn) -> None:
        """A check has just turned."""

    def moved(self, upstream: str, members: Sequence[Member]) -> None:
        """These belong to an upstream now. Also told of each when the checker begins."""

    def settle(self, identities: Collection[int]) -> None:
        """These are all checks there are: forget about others."""

    def end(self, deadline: float) -> None:
        """Do what is still to be done, until `deadline` (`time.monotonic`); `close` follows."""

    def close(self) -> None:
        """Wait for the end of that, and let go of everything."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        self._write()


def rfc3339(seconds: float) -> str:
    """A wall-clock time: "2026-11-22T13:45:00.123Z"."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
