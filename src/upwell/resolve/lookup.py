"""All addresses behind one name: its A and AAAA records, behind whatever aliases, or those of its services. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from upwell.resolve.message import AAAA, SRV, A, Malformed, Name, parse_name
from upwell.resolve.query import Query, Server
from upwell.resolve.spec import (
    FORMAT_ERROR,
    FOUND,
    MOST_ADDRESSES,
    NOT_FOUND,
    SERVER_FAILURE,
    Answer,
    Found,
    Question,
    ResolverSpec,
)

_MOST_ALIASES: Final = 8  # names asked for one after the other
_MOST_TARGETS: Final = 200  # different names in the SRV records of one name
_SHORTEST: Final = 1.0  # seconds that an answer counts at least
_FOREVER: Final = float("inf")


class Lookup:
    """One look-up. `begin` gives the queries to run; `settled`, called when one is over, further ones. When none is
    left, `answer` says what was found. `before` is what was found last time: where one question fails, what it said
    then still counts."""

    __slots__ = (
        "_before",
        "_by_host",
        "_codes",
        "_denied",
        "_left_out",
        "_negative",
        "_number",
        "_owner",
        "_services",
        "_ttl",
        "pending",
        "question",
        "servers",
        "spec",
    )

    def __init__(
        self,
        spec: ResolverSpec,
        question: Question,
        servers: Sequence[Server],
        number: Callable[[], int],
        before: tuple[Found, ...] = (),
    ) -> None:
        """Raises ValueError for a name that cannot be."""
        self.spec = spec
        self.question = question
        self.servers = servers
        self.pending = 0
        self._owner = parse_name(question.owner)
        self._number = number
        self._before = before
        self._services: list[tuple[int, int, int, Name]] = []
        self._by_host: dict[Name, dict[int, list[str]]] = {}
        self._codes: list[int] = []
        self._denied = False  # a server said that there is no such name
        self._negative = _FOREVER
        self._ttl = _FOREVER
        self._left_out = 0

    def __repr__(self) -> str:
        return f"<Lookup {self.question} {self.pending} pending>"

    def begin(self) -> list[Query]:
        if self.question.service:
            self.pending = 1
            return [Query(self._owner, SRV, self.servers, self._number, self._owner)]
        return self._hosts([self._owner])

    def settled(self, query: Query) -> list[Query]:
        """`query` is over."""
        self.pending -= 1
        try:
            return self._services_of(query) if query.kind == SRV else self._addresses_of(query)
        except Malformed:
            self._fail(query, FORMAT_ERROR)
            return []

    def answer(self, now: float) -> Answer:
        """What was found. An answer that says nothing new for its failure expires at once: the caller knows better."""
        found = self._found()
        left_out = self._left_out + max(len(found) - MOST_ADDRESSES, 0)
        failure = next((code for code in self._codes if code not in (FOUND, NOT_FOUND)), FOUND)
        if FOUND in self._codes and found:
            return Answer(FOUND, tuple(found[:MOST_ADDRESSES]), now + self._counts(self._ttl), left_out)
        if failure and not self._denied:
            return Answer(failure, self._before, now)
        return Answer(NOT_FOUND, (), now + self._counts(self._negative))

    def _counts(self, seconds: float) -> float:
        if self.spec.valid is not None:
            return self.spec.valid
        return max(seconds, _SHORTEST) if seconds < _FOREVER else 10.0

    def _hosts(self, names: Sequence[Name]) -> list[Query]:
        kinds = [A] * self.spec.ipv4 + [AAAA] * self.spec.ipv6
        queries = [Query(name, kind, self.servers, self._number, name) for name in names for kind in kinds]
        for name in names:
            self._by_host[name] = {}
        self.pending += len(queries)
        return queries

    def _services_of(self, query: Query) -> list[Query]:
        reply = query.reply
        if reply is None:
            self._fail(query, query.code)
            return []
        end, ttl = reply.end_of(query.name)
        records = sorted(reply.services.get(end, ()), key=lambda record: record[0])
        self._left_out += reply.left_out
        if not records:
            return self._none(query, end)
        self._ttl = min(ttl, *(record[4] for record in records))
        targets: dict[Name, None] = {}
        for priority, weight, port, target, _ in records:
            if target not in targets and len(targets) >= _MOST_TARGETS:
                self._left_out += 1
                continue
            targets[target] = None
            self._services.append((priority, weight, port, target))
        return self._hosts(list(targets))

    def _addresses_of(self, query: Query) -> list[Query]:
        reply = query.reply
        if reply is None:
            self._fail(query, query.code)
            return []
        end, ttl = reply.end_of(query.name)
        addresses = reply.addresses.get(end, ())
        self._left_out += reply.left_out
        if not addresses:
            return self._none(query, end)
        self._codes.append(FOUND)
        self._ttl = min(self._ttl, ttl, *(seconds for _, seconds in addresses))
        self._by_host[query.host][query.kind] = list(dict.fromkeys(address for address, _ in addresses))
        return []

    def _none(self, query: Query, end: Name) -> list[Query]:
        """The reply has no record of the kind; its last alias may lead to one."""
        reply = query.reply
        assert reply is not None
        if end != query.name and reply.code == FOUND and not reply.denies and query.aliases < _MOST_ALIASES:
            self._ttl = min(self._ttl, reply.end_of(query.name)[1])
            self.pending += 1
            return [Query(end, query.kind, self.servers, self._number, query.host, query.aliases + 1)]
        self._codes.append(NOT_FOUND)
        self._negative = min(self._negative, reply.negative)
        if reply.code == NOT_FOUND and not self.question.service:
            self._denied = True
        return []

    def _fail(self, query: Query, code: int) -> None:
        """Nobody answered this one: of what it asks for, what was known before still counts."""
        self._codes.append(code or SERVER_FAILURE)
        if query.kind == SRV:
            return
        target = _text(query.host) if self.question.service else ""
        self._by_host[query.host][query.kind] = list(
            dict.fromkeys(
                one.address
                for one in self._before
                if one.target == target and (":" in one.address) == (query.kind == AAAA)
            )
        )

    def _found(self) -> list[Found]:
        if not self.question.service:
            return [Found(address) for address in self._addresses(self._owner)]
        found = []
        for priority, weight, port, target in self._services:
            text = _text(target)
            found += [Found(address, port, priority, weight, text) for address in self._addresses(target)]
            if len(found) > MOST_ADDRESSES:
                break
        return list(dict.fromkeys(found))

    def _addresses(self, host: Name) -> list[str]:
        by_kind = self._by_host.get(host, {})
        return [*by_kind.get(A, ()), *by_kind.get(AAAA, ())]


def _text(name: Name) -> str:
    return name.to_text(omit_final_dot=True)
