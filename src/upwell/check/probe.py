"""What a probe is: one side of a conversation on a connected byte stream, without the stream. No socket, no clock."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol, runtime_checkable

KINDS: Final = (
    "connect",
    "timeout",
    "closed",
    "tls",
    "protocol",
    "status",
    "header",
    "body",
    "require",
    "command",
    "function",
    "other",
)
"""How a probe can fail, in few words: what metrics are told apart by. The zone counts them in this order."""


class Verdict(NamedTuple):
    """The result of one probe of one peer; there is no third one.

    A failure has a `kind` (one of KINDS) and says `why` in words for people, without the peer's name: "connection
    refused", "status 503, want 200-399". `status` is the HTTP status or 0. `sentence` is lua-resty's, with the peer's
    name, for the probes that it has. `farewell` is what the protocol wants sent before the connection is closed (or
    kept): no answer to it is awaited, and it is lost if it cannot be written at once.
    """

    passed: bool
    kind: str = ""
    why: str = ""
    status: int = 0
    sentence: str = ""
    farewell: bytes = b""


class Probe(Protocol):
    """The probes of one peer by one check, one after the other.

    `sending` and `receiving` are how lua-resty begins the sentence about an error or a time-out while what `open` or
    `feed` gave is being sent, and while an answer is awaited; the sentence goes on with the peer's name. A change of
    `receiving` says that another operation (with its own time-out, for lua-resty) has begun. `doing` says the same to
    people, as the end of "timeout after 1.0 s ...": "reading the status line".
    `finished` says, after a verdict, whether the peer has sent all it will; `reusable` whether the next probe may
    be made on the same connection (`again`).
    """

    sending: str
    receiving: str
    doing: str
    finished: bool
    reusable: bool

    def open(self) -> bytes | Verdict:
        """Begin anew: what to send first, or the verdict if the connection itself is all that was asked."""
        ...

    def again(self) -> bytes:
        """Begin anew on the connection of the last probe, which left it `reusable`: what to send first."""
        ...

    def feed(self, data: bytes) -> bytes | Verdict:
        """Take what arrived (b"": the peer closed): what to send next (b"": nothing, go on reading) or the verdict.

        After a verdict with `finished` false, further bytes are read and thrown away by the caller for a while (or
        given to `drain`, if the probe is Draining).
        """
        ...


@runtime_checkable
class Draining(Protocol):
    """A probe that wants to see what comes after a verdict with `finished` false: when it says `finished` then, the
    connection is closed, or kept if it is `reusable`. What `drain` gives is sent, like the farewell of a verdict."""

    def drain(self, data: bytes) -> bytes: ...


@runtime_checkable
class Idling(Protocol):
    """A probe whose peer may speak on a kept connection while nothing is asked of it (HTTP/2's PING, WINDOW_UPDATE).

    `idle` takes that, and says what to answer; None: the connection is of no more use. Without it the first byte ends
    the connection.
    """

    def idle(self, data: bytes) -> bytes | None: ...
