"""One question for records of one type, put to the servers in turn until one answers. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from upwell.resolve.message import Malformed, Name, Reading, Reply, answers, query
from upwell.resolve.spec import FOUND, NOT_FOUND, TIMED_OUT

_FIRST_WAIT: Final = 1.0  # seconds for an answer by UDP in the first round of servers; twice as long in the next
_LONGEST_WAIT: Final = 5.0  # nginx: resend_timeout, tcp_timeout
_MOST_JUNK: Final = 64  # datagrams that are no answer, from one server: somebody guesses

Server = tuple[str, int]


class Send(NamedTuple):
    """What is to be sent now, from a port that nobody knows (RFC 5452)."""

    server: Server
    stream: bool
    content: bytes


class Query:
    """`send` is what is to be sent, None while there is nothing; `due` is when to call `expired`. When `over`, `code`
    and `reply` say what came of it; a reply has the code FOUND or NOT_FOUND. `junk` counts what was no answer."""

    __slots__ = (
        "_deadline",
        "_failed",
        "_junk",
        "_number",
        "_place",
        "_round",
        "_servers",
        "_tried",
        "aliases",
        "code",
        "due",
        "family",
        "host",
        "junk",
        "kind",
        "name",
        "over",
        "reply",
        "send",
    )

    def __init__(
        self, name: Name, kind: int, servers: Sequence[Server], number: Callable[[], int], host: Name, aliases: int = 0
    ) -> None:
        """`number` gives the numbers of messages. `host` is whose addresses are looked for, `aliases` how many names
        were asked for before this one."""
        self.name = name
        self.kind = kind
        self.host = host
        self.aliases = aliases
        self.send: Send | None = None
        self.due = 0.0
        self.over = False
        self.code = TIMED_OUT
        self.reply: Reply | None = None
        self.junk = 0
        self._junk = 0
        self._servers = servers
        self._number = number
        self._place = 0
        self._round = 0
        self._tried: set[int] = set()
        self._failed = False
        self._deadline = 0.0

    def __repr__(self) -> str:
        return f"<Query {self.name} {self.kind} {'over' if self.over else 'under way'}>"

    def begin(self, now: float, timeout: float) -> None:
        self._deadline = now + timeout
        self._ask(now)

    def read(self, wire: bytes) -> Reading | None:
        """A message came from the server that was asked. None: it is no answer to the question. Raises Malformed."""
        if self.send is None or not answers(wire, self.send.content):
            self.junk += 1
            self._junk += 1
            if self._junk >= _MOST_JUNK:
                raise Malformed("too many messages that answer nothing")
            return None
        return Reading(wire, self.kind)

    def replied(self, reply: Reply, now: float) -> None:
        """The answer has been read."""
        assert self.send is not None
        if reply.truncated and not self.send.stream:
            self._put(now, stream=True)
        elif reply.truncated or reply.code not in (FOUND, NOT_FOUND):
            self.code = reply.code
            self._failed = True
            self._next(now)
        else:
            self.code, self.reply = reply.code, reply
            self._end()

    def failed(self, now: float) -> None:
        """The server could not be asked, or its answer not be read."""
        self._next(now)

    def expired(self, now: float) -> None:
        """The server did not answer in time."""
        if now >= self._deadline:
            self._end()
        elif self.send is None:
            self._ask(now)
        else:
            self._next(now)

    def _next(self, now: float) -> None:
        self._tried.add(self._place)
        if now >= self._deadline or (self._failed and len(self._tried) == len(self._servers)):
            self._end()
            return
        self._place = (self._place + 1) % len(self._servers)
        if self._place:
            self._ask(now)
            return
        self._round += 1
        early = self.due - now
        self.send = None
        if early > 0:
            return  # all servers failed at once: ask again when the last one's time is over
        self._ask(now)

    def _ask(self, now: float) -> None:
        self._junk = 0
        self._put(now, stream=False)

    def _put(self, now: float, stream: bool) -> None:
        content = query(self.name, self.kind, self._number())
        self.send = Send(self._servers[self._place], stream, content)
        wait = _LONGEST_WAIT if stream else min(_FIRST_WAIT * 2**self._round, _LONGEST_WAIT)
        self.due = min(now + wait, self._deadline)

    def _end(self) -> None:
        self.over = True
        self.send = None
