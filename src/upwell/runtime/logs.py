"""Access-log files: lines collected and written once a loop iteration, or by the buffer and flush of the directive.

A file that cannot be written never stops traffic, and never gets half a line: what a full disk or a slow reader of a
pipe left over is written before anything else.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from upwell.runtime.complaint import Complaint, failed

if TYPE_CHECKING:
    import asyncio

    from upwell.log import ErrorLog

_PIPE_BUF = 4096  # what goes into a pipe whole or not at all
_MOST_HELD = 1 << 20  # bytes that wait for the reader of a pipe
_RETRY = 0.1  # seconds until a pipe is tried again


class AccessLogFile:
    """One access-log path, opened by the master and shared by all processes; `buffer` bytes, `flush` seconds (0:
    none).
    """

    __slots__ = (
        "_complaint",
        "_handle",
        "_lines",
        "_loop",
        "_piece",
        "_rest",
        "_size",
        "_torn",
        "buffer",
        "fd",
        "flush_after",
        "path",
    )

    def __init__(self, path: str, buffer: int = 0, flush: float = 0.0) -> None:
        self.path = path
        self.buffer = buffer
        self.flush_after = flush
        self.fd = -1
        self._lines: list[bytes] = []
        self._size = 0
        self._rest = b""
        self._torn = False
        self._piece = 0
        self._complaint = Complaint(f'"{path}"')
        self._handle: asyncio.Handle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<AccessLogFile {self.path}>"

    @property
    def lost(self) -> int:
        """How many lines could not be written."""
        return self._complaint.lost

    def open(self) -> None:
        """Open the file. Raises OSError."""
        self.fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        mode = os.fstat(self.fd).st_mode
        self._piece = 0 if stat.S_ISREG(mode) else _PIPE_BUF
        if stat.S_ISFIFO(mode):
            os.set_blocking(self.fd, False)

    def reopen(self) -> None:
        """Open the path anew (after a rotation); on failure the old file stays in use. Raises OSError."""
        self.write_out()
        old = self.fd
        self.open()
        if self._torn:  # the end of a line that begins in the old file
            self._rest = self._rest[self._rest.find(b"\n") + 1 :]
            self._torn = False
        if old >= 0:
            os.close(old)

    def use(self, loop: asyncio.AbstractEventLoop, log: ErrorLog) -> None:
        """The worker's loop, whose iterations gather lines, and its error log."""
        self._loop = loop
        self._complaint.tell(log)

    def write(self, line: bytes) -> None:
        """Take a line, with its line end."""
        lines = self._lines
        lines.append(line)
        if self.buffer:
            self._size += len(line)
            if self._size >= self.buffer:
                self.write_out()
            elif self._handle is None and self.flush_after and self._loop is not None:
                self._handle = self._loop.call_later(self.flush_after, self.write_out)
        elif self._handle is None and self._loop is not None:
            self._handle = self._loop.call_soon(self.write_out)

    def write_out(self) -> None:
        """Write what was collected, in one piece where the file takes it."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        lines = self._lines
        if self._rest:
            lines.insert(0, self._rest)
            self._rest = b""
        if not lines:
            return
        data = b"".join(lines)
        lines.clear()
        self._size = 0
        try:
            done = os.write(self.fd, data) if not self._piece else 0
        except OSError as error:
            self._keep(data, error)
            return
        if done != len(data):
            self._write_rest(data, done)
        elif self._torn or self._complaint.lost:
            self._complaint.withdraw()
            self._torn = False

    def _write_rest(self, data: bytes, done: int) -> None:
        """Go on after `done` bytes: to the error that explains why they were not all, or piece by piece."""
        try:
            while done < len(data):
                self._torn = self._torn if done == 0 else data[done - 1] != 10
                end = len(data)
                if self._piece and end - done > self._piece:
                    end = data.rfind(b"\n", done, done + self._piece) + 1 or data.find(b"\n", done) + 1
                done += os.write(self.fd, data[done:end])
        except OSError as error:
            self._torn = self._torn if done == 0 else data[done - 1] != 10
            self._keep(data[done:], error)
            return
        self._torn = False
        self._complaint.withdraw()

    def _keep(self, rest: bytes, error: OSError) -> None:
        """Of what could not be written keep the end of a line that was begun; for a pipe, more, and try again."""
        most = 0
        if isinstance(error, BlockingIOError) and self._loop is not None:
            most = _MOST_HELD
            self._handle = self._loop.call_later(_RETRY, self.write_out)
        end = rest.rfind(b"\n", 0, most) + 1
        if self._torn:
            end = max(end, rest.find(b"\n") + 1)
        self._rest = rest[:end]
        lines = rest.count(b"\n", end)
        if lines:
            self._complaint.make(failed("write() to", f'"{self.path}"', error), lines)
