"""The error log: nginx's levels and line format on a file descriptor. A log that cannot be written never stops
traffic.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Final

LEVELS: Final = ("stderr", "emerg", "alert", "crit", "error", "warn", "notice", "info", "debug")
"""nginx's level names; the index is the value of ngx.STDERR (0) ... ngx.DEBUG (8)."""
STDERR: Final = 0
EMERG: Final = 1
ALERT: Final = 2
CRIT: Final = 3
ERROR: Final = 4
WARN: Final = 5
NOTICE: Final = 6
INFO: Final = 7
DEBUG: Final = 8

_UNPRINTABLE: Final = re.compile('[\x00-\x1f\x7f-\xff"\\\\]')
_MAX_LINE: Final = 2048  # nginx cuts an error-log line at NGX_MAX_ERROR_STR


class ErrorLog:
    """One `error_log` destination: a path (or "stderr") and the least severe level it takes.

    The file is opened by `open()` and again by `reopen()` (nginx's USR1). Lines are written with one `os.write` on an
    O_APPEND descriptor, so that processes share the file without tearing lines. Errors while writing are counted in
    `lost`, never raised: a full disk does not stop traffic. `wanted` differs from `path` where standard error stands in
    for a file that could not be opened.
    """

    __slots__ = ("_second", "_stamp", "fd", "level", "lost", "path", "wanted")

    def __init__(self, path: str, level: int = ERROR) -> None:
        self.path = path
        self.level = level
        self.fd = -1
        self.lost = 0
        self.wanted = path
        self._second = 0
        self._stamp = ""

    def __repr__(self) -> str:
        return f"<ErrorLog {self.path} {LEVELS[self.level]}>"

    def open(self) -> None:
        """Open the destination. Raises OSError when the file cannot be opened."""
        if self.path == "stderr":
            self.fd = sys.__stderr__.fileno() if sys.__stderr__ is not None else 2
        else:
            self.fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def reopen(self) -> None:
        """Open the path anew (after a rotation) and let go of the old file; on failure the old one stays in use."""
        if self.path == "stderr":
            return
        old = self.fd
        self.open()
        if old >= 0:
            os.close(old)

    def write(self, level: int, message: str, connection: int = 0) -> None:
        """Write one line at `level` (an index of LEVELS) if the log takes it; `connection` is nginx's *number."""
        if level > self.level:
            return
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._stamp = time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(now))
        pid = os.getpid()
        serial = f" *{connection}" if connection else ""
        line = f"{self._stamp} [{LEVELS[level]}] {pid}#{pid}:{serial} {message}"
        try:
            os.write(self.fd, line.encode("utf-8", "surrogateescape")[:_MAX_LINE] + b"\n")
        except OSError:
            self.lost += 1

    def debug(self, message: str, connection: int = 0) -> None:
        self.write(DEBUG, message, connection)

    def info(self, message: str, connection: int = 0) -> None:
        self.write(INFO, message, connection)

    def notice(self, message: str, connection: int = 0) -> None:
        self.write(NOTICE, message, connection)

    def warn(self, message: str, connection: int = 0) -> None:
        self.write(WARN, message, connection)

    def error(self, message: str, connection: int = 0) -> None:
        self.write(ERROR, message, connection)

    def crit(self, message: str, connection: int = 0) -> None:
        self.write(CRIT, message, connection)

    def alert(self, message: str, connection: int = 0) -> None:
        self.write(ALERT, message, connection)

    def emerg(self, message: str, connection: int = 0) -> None:
        self.write(EMERG, message, connection)


class ErrorLogs(ErrorLog):
    """Several logs as one: a message goes to each destination that takes it. Opening them is their owner's."""

    __slots__ = ("destinations",)

    def __init__(self, destinations: Sequence[ErrorLog]) -> None:
        super().__init__("")
        self.direct(destinations)

    def direct(self, destinations: Sequence[ErrorLog]) -> None:
        """Write to these opened destinations from now on; `level` is the most talkative one's."""
        self.destinations: tuple[ErrorLog, ...] = tuple(destinations)
        self.path = ", ".join(log.path for log in self.destinations)
        self.level = max((log.level for log in self.destinations), default=ERROR)

    def write(self, level: int, message: str, connection: int = 0) -> None:
        for log in self.destinations:
            log.write(level, message, connection)


def printable(value: bytes) -> str:
    """`value` for a log line, which it cannot end."""
    return _UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]):02X}", value.decode("latin-1"))
