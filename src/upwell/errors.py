"""The exceptions of upwell: each carries what its catcher needs, and nothing else is known here."""

from __future__ import annotations

from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM
from typing import Final, NamedTuple

SHORTAGES: Final = frozenset((EMFILE, ENFILE, ENOBUFS, ENOMEM))
"""Numbers of an OSError for want of descriptors or memory: whoever was to be reached has nothing to do with it."""


class Position(NamedTuple):
    """A place in a configuration file; line and column count from 1, column 0 means the whole line."""

    file: str
    line: int
    column: int = 0

    def __str__(self) -> str:
        if self.line == 0:
            return self.file
        return f"{self.file}:{self.line}:{self.column}" if self.column else f"{self.file}:{self.line}"


class ConfigError(Exception):
    """One thing wrong in a configuration: nginx's message and the place of it."""

    def __init__(self, message: str, position: Position | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.position = position

    def __str__(self) -> str:
        return f"{self.message} in {self.position}" if self.position else self.message


class ConfigErrors(Exception):
    """Every error found in one reading of a configuration, in the order of the file; never empty. `without_effect`:
    the directives besides that change nothing, as written, and where."""

    def __init__(self, errors: list[ConfigError], without_effect: tuple[tuple[str, Position], ...] = ()) -> None:
        super().__init__("; ".join(str(error) for error in errors))
        self.errors = errors
        self.without_effect = without_effect


class MessageError(Exception):
    """A client's message that must be refused: the status to answer with and the reason for the error log."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class RequestLineError(MessageError):
    """The mistake is in the request line: what comes behind it, the host too, is not looked at (nginx)."""


class UpstreamError(Exception):
    """A try at one peer that failed.

    `outcome` is the word of nginx's `proxy_next_upstream` ("error", "timeout", "invalid_header", "http_502", ...);
    `reason` is nginx's sentence for the error log; `sent` says that a part of the request may have reached the peer;
    `critical`, that the fault is not in the network: a path that is not there, an address that cannot be taken.
    """

    def __init__(self, outcome: str, reason: str, sent: bool = False, critical: bool = False) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason
        self.sent = sent
        self.critical = critical


class ClientClosed(Exception):
    """The client went away (or was timed out) while its request was being answered; nobody is left to tell.

    `status` is what nginx logs for it: 499, or 408 for a client that did not send its content in time.
    """

    def __init__(self, status: int = 499) -> None:
        super().__init__(status)
        self.status = status
