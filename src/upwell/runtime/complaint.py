"""What is wrong with a log, said in the error log: once, and not again before it was well or a minute has passed."""

from __future__ import annotations

import time

from upwell.log import ALERT, NOTICE, ErrorLog

_AGAIN = 60.0


class Complaint:
    """One log's trouble. `lost` counts the lines that it has cost."""

    __slots__ = ("_last", "_log", "_since", "_what", "lost")

    def __init__(self, what: str) -> None:
        self._what = what
        self._log: ErrorLog | None = None
        self._last = -_AGAIN
        self._since = 0
        self.lost = 0

    def tell(self, log: ErrorLog) -> None:
        """Where to say it."""
        self._log = log

    def make(self, reason: str, lines: int, level: int = ALERT) -> None:
        """`lines` are lost for `reason`."""
        self.lost += lines
        self._since += lines
        now = time.monotonic()
        if self._log is not None and now - self._last >= _AGAIN:
            self._last = now
            self._log.write(level, reason)

    def withdraw(self) -> None:
        """All is well again."""
        if self._since:
            if self._log is not None:
                self._log.write(NOTICE, f"{self._what} takes lines again, {self._since} were lost")
            self._since = 0


def failed(call: str, what: str, error: OSError) -> str:
    """nginx's words for a system call that failed."""
    return f"{call} {what} failed ({error.errno}: {error.strerror})"
