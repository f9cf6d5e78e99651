"""Access-log files: lines collected and written once a loop iteration, or by the buffer and flush of the directive.

A file that cannot be written never stops traffic: what is lost is counted.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio


class AccessLogFile:
    """One access-log path, opened by the master and shared by all processes; `buffer` bytes, `flush` seconds (0:
    none).
    """

    __slots__ = ("_handle", "_lines", "_loop", "_size", "buffer", "fd", "flush_after", "lost", "path")

    def __init__(self, path: str, buffer: int = 0, flush: float = 0.0) -> None:
        self.path = path
        self.buffer = buffer
        self.flush_after = flush
        self.fd = -1
        self.lost = 0
        self._lines: list[bytes] = []
        self._size = 0
        self._handle: asyncio.Handle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<AccessLogFile {self.path}>"

    def open(self) -> None:
        """Open the file. Raises OSError."""
        self.fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def reopen(self) -> None:
        """Open the path anew (after a rotation); on failure the old file stays in use. Raises OSError."""
        self.write_out()
        old = self.fd
        self.open()
        if old >= 0:
            os.close(old)

    def use(self, loop: asyncio.AbstractEventLoop) -> None:
        """The worker's loop, whose iterations gather lines."""
        self._loop = loop

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
        """Write what was collected, in one piece."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        lines = self._lines
        if lines:
            data = b"".join(lines)
            count = len(lines)
            lines.clear()
            self._size = 0
            try:
                os.write(self.fd, data)
            except OSError:
                self.lost += count
