"""Access logs whose paths have variables: opened for each write, or kept open as `open_log_file_cache` says.

Knows paths as bytes that requests may have had a part in; not where they come from.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING

from upwell.log import CRIT, printable
from upwell.runtime.complaint import Complaint, failed

if TYPE_CHECKING:
    import asyncio

    from upwell.log import ErrorLog
    from upwell.modules.access_log import LogFileCache

# O_NONBLOCK is for a FIFO that nobody reads: opening it must not stop the worker.
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK


class _File:
    __slots__ = ("checked", "fd", "used", "uses")

    def __init__(self) -> None:
        self.fd = -1
        self.uses = 0
        self.used = 0.0
        self.checked = 0.0


class LogPaths:
    """All such logs of one worker that share a cache; lines are gathered for one loop iteration."""

    __slots__ = ("_cache", "_complaint", "_files", "_handle", "_loop", "_waiting")

    def __init__(self, cache: LogFileCache, loop: asyncio.AbstractEventLoop, log: ErrorLog) -> None:
        self._cache = cache
        self._loop = loop
        self._files: OrderedDict[bytes, _File] = OrderedDict()
        self._waiting: dict[bytes, list[bytes]] = {}
        self._handle: asyncio.Handle | None = None
        self._complaint = Complaint("access_log")
        self._complaint.tell(log)

    def __repr__(self) -> str:
        return f"<LogPaths {len(self._files)} open>"

    @property
    def lost(self) -> int:
        """How many lines could not be written."""
        return self._complaint.lost

    def write(self, path: bytes, line: bytes) -> None:
        """Take a line, with its line end, for the file at `path`."""
        lines = self._waiting.get(path)
        if lines is None:
            self._waiting[path] = [line]
            if self._handle is None:
                self._handle = self._loop.call_soon(self.write_out)
        else:
            lines.append(line)

    def write_out(self) -> None:
        """Write what was collected."""
        self._handle = None
        waiting, self._waiting = self._waiting, {}
        now = self._loop.time()
        self._expire(now)
        for path, lines in waiting.items():
            if b"/../" in path or b"\0" in path:
                self._complaint.make(f"unsafe log path {path!r}", len(lines), CRIT)
                continue
            try:
                self._write(path, b"".join(lines), now)
            except OSError as error:
                shown = printable(path)
                self._complaint.make(failed("open() or write() of", f'"{shown}"', error), len(lines), CRIT)

    def close(self) -> None:
        """Write what was collected and close all files."""
        self.write_out()
        while self._files:
            self._forget(next(iter(self._files)))

    def _write(self, path: bytes, data: bytes, now: float) -> None:
        file = self._file(path, now)
        if file.fd < 0:
            file.fd = os.open(path, _FLAGS, 0o644)
            file.checked = now
        try:
            os.write(file.fd, data)
        finally:
            if path not in self._files or file.uses < self._cache.min_uses:
                os.close(file.fd)
                file.fd = -1

    def _file(self, path: bytes, now: float) -> _File:
        """The file for `path`, which may be open."""
        files = self._files
        file = files.get(path)
        if file is None:
            file = _File()
            if self._cache.most:
                if len(files) >= self._cache.most:
                    self._forget(next(iter(files)))
                files[path] = file
        else:
            files.move_to_end(path)
            if file.fd >= 0 and now - file.checked >= self._cache.valid:
                file.checked = now
                if not _is_still(file.fd, path):
                    os.close(file.fd)
                    file.fd = -1
        file.used = now
        file.uses += 1
        return file

    def _expire(self, now: float) -> None:
        files = self._files
        while files:
            path, file = next(iter(files.items()))
            if now - file.used < self._cache.inactive:
                break
            self._forget(path)

    def _forget(self, path: bytes) -> None:
        file = self._files.pop(path)
        if file.fd >= 0:
            os.close(file.fd)


def _is_still(fd: int, path: bytes) -> bool:
    """Whether the file at `path` is the open one."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False
