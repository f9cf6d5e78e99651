"""The error log as a process keeps it: the compiled-in one from the first moment, then those of the configuration.

Knows destinations and the terminal of a starting master. Must not know who writes or why.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from upwell.log import LEVELS, NOTICE, WARN, ErrorLog, ErrorLogs


class Journal(ErrorLogs):
    """Writes each line to every destination; offers the same methods as `ErrorLog`.

    Until `detach()` a line of `warn` or worse also goes to standard error as `nginx: [emerg] ...`, unless a destination
    is standard error already (nginx does so while it starts, with `-t` and with `-s`).
    """

    __slots__ = ("_echo",)

    def __init__(self, destinations: Sequence[ErrorLog], echo: bool = True) -> None:
        super().__init__(destinations)
        self._echo = echo

    def __repr__(self) -> str:
        return f"<Journal {self.path}>"

    def detach(self) -> None:
        """The terminal belongs to somebody else now: no more copies to standard error."""
        self._echo = False

    def write(self, level: int, message: str, connection: int = 0) -> None:
        """One line at `level` (an index of `log.LEVELS`) to each destination that takes it. Never raises."""
        shown = not self._echo or level > WARN
        for log in self.destinations:
            log.write(level, message, connection)
            shown = shown or (log.path == "stderr" and level <= log.level)
        if not shown:
            say(f"[{LEVELS[level]}] {message}")


def say(message: str) -> None:
    """A line of nginx's own on standard error: `nginx: ...`. A closed standard error is nobody's problem."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"nginx: {message}\n")
        sys.stderr.flush()


def failure(error: OSError) -> str:
    """nginx's tail for a failed system call: `failed (98: Address already in use)`."""
    number = error.errno or 0
    return f"failed ({number}: {os.strerror(number)})"


def open_boot_log(path: str, level: int = NOTICE) -> ErrorLog:
    """The log of the first moment: `-e` or the compiled-in path (or "stderr"), opened.

    A missing `logs` folder in an existing prefix is made, which nginx leaves to its installer. When the file cannot be
    opened, standard error takes its place and says so (nginx's `could not open error log file` alert).
    """
    log = ErrorLog(path, level)
    try:
        make_folder_of(path)
        log.open()
    except OSError as error:
        say(f'[alert] could not open error log file: open() "{path}" {failure(error)}')
        log = ErrorLog("stderr", level)
        log.open()
        log.wanted = path
    return log


def make_folder_of(path: str) -> None:
    """Make the folder of `path` when it is the `logs` of a prefix that exists; any other one is the operator's."""
    folder = os.path.dirname(path)
    if os.path.basename(folder) == "logs" and os.path.isdir(os.path.dirname(folder)):
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o755)
