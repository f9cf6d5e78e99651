"""What a probe is: one side of a conversation on a connected byte stream, without the stream. No socket, no clock."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Verdict(NamedTuple):
    """The result of one probe of one peer; there is no third one.

    `reason` is the sentence for the error log, empty when it passed; `status` is the HTTP status or 0; `elapsed` is
    seconds from the start of the connection (0.0 until whoever holds the connection fills it in).
    """

    passed: bool
    reason: str = ""
    status: int = 0
    elapsed: float = 0.0


class Probe(Protocol):
    """The probes of one peer by one check, one after the other.

    `sending` and `receiving` are how lua-resty begins the sentence about an error or a time-out while what `open` or
    `feed` gave is being sent, and while an answer is awaited; the sentence goes on with the peer's name. A change of
    `receiving` says that another operation with its own time-out has begun. `finished` says, after a verdict, whether
    the peer has sent all it will.
    """

    sending: str
    receiving: str
    finished: bool

    def open(self) -> bytes | Verdict:
        """Begin anew: what to send first, or the verdict if the connection itself is all that was asked."""
        ...

    def feed(self, data: bytes) -> bytes | Verdict:
        """Take what arrived (b"": the peer closed): what to send next (b"": nothing, go on reading) or the verdict."""
        ...
