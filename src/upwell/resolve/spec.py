"""Who is asked (`resolver`), what is asked, and what came of it. Knows no DNS message and no socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

MOST_ADDRESSES: Final = 1000
"""Of one name; what an answer has beyond that is left out."""

# The codes of answers, as nginx's log has them: RCODEs (RFC 1035, 4.1.1), and ETIMEDOUT for no answer at all.
FOUND: Final = 0
FORMAT_ERROR: Final = 1
SERVER_FAILURE: Final = 2
NOT_FOUND: Final = 3
NOT_IMPLEMENTED: Final = 4
REFUSED: Final = 5
TIMED_OUT: Final = 110
WORDS: Final = {
    FOUND: "Success",
    FORMAT_ERROR: "Format error",
    SERVER_FAILURE: "Server failure",
    NOT_FOUND: "Host not found",
    NOT_IMPLEMENTED: "Unimplemented",
    REFUSED: "Operation refused",
    TIMED_OUT: "Operation timed out",
}


@dataclass(frozen=True, slots=True)
class ResolverSpec:
    """One `resolver` directive. `servers` are (IP address, port), asked in turn. `valid` is how long an answer counts,
    in seconds, None: as long as it says itself. `ipv4` and `ipv6` say which addresses are wanted. `name` is what it is
    called on pages (`status_zone`). A look-up takes `timeout` seconds at most."""

    servers: tuple[tuple[str, int], ...]
    valid: float | None = None
    ipv4: bool = True
    ipv6: bool = True
    name: str = ""
    timeout: float = 30.0


class Question(NamedTuple):
    """A host name; with `service`, the place of its SRV records (RFC 2782)."""

    name: str
    service: str = ""

    @property
    def owner(self) -> str:
        """The name that is looked up (nginx: `service=http` is _http._tcp, one with dots stands in front as it is)."""
        if not self.service:
            return self.name
        if "." in self.service:
            return f"{self.service}.{self.name}"
        return f"_{self.service}._tcp.{self.name}"

    def __str__(self) -> str:
        return f"service {self.service} of {self.name}" if self.service else self.name


class Found(NamedTuple):
    """One address behind a name. `port`, `priority` and `weight` are those of a SRV record, `target` the name in it."""

    address: str
    port: int = 0
    priority: int = 0
    weight: int = 0
    target: str = ""


class Answer(NamedTuple):
    """What a look-up came to at last. With a `code` other than FOUND, `found` is what was known before (nothing, after
    NOT_FOUND). `expires` is when to ask again. `left_out`: how many addresses more there were than are taken."""

    code: int
    found: tuple[Found, ...]
    expires: float
    left_out: int = 0

    @property
    def words(self) -> str:
        """nginx's: "(2: Server failure)"."""
        return f"({self.code}: {WORDS.get(self.code, 'Unknown error')})"
