"""Peers that are known by name (`server name resolve`): whose addresses they are is asked again and again, and what the
answers change of an upstream's members is done, a little in each round of the checker's loop.

An address that stays is the same peer, with its health and all that is known of it. Who the members are is in the zone,
so a checker that begins, and one after a reload, goes on with those that are there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from heapq import heappop, heappush
from secrets import randbelow
from typing import Final, Protocol

from upwell.check.named import NamedPeers
from upwell.log import ErrorLog
from upwell.peers.membership import NoRoom
from upwell.peers.peer import PeerKey, PeerSpec
from upwell.peers.roster import Member
from upwell.resolve.resolver import Resolver
from upwell.resolve.sockets import Epoll, Sockets
from upwell.resolve.spec import FOUND, NOT_FOUND, Answer, Found, ResolverSpec
from upwell.zone.resolvers import Words

_AT_ONCE: Final = 16  # names asked for, and peers that join, leave or change, in one round: no probe waits for them
_SLICE: Final = 0.002  # seconds that the latter may take of it, but for the last one
_SOON: Final = 1.0  # seconds until a name is asked for again that had no answer, at least
_IDS: Final = 65536


class Owner(Protocol):
    """The part of `check.checker.Checker` that has the lists."""

    def members(self, upstream: str) -> tuple[Member, ...]: ...
    def add_peer(self, upstream: str, spec: PeerSpec) -> Member: ...
    def remove_peer(self, key: PeerKey) -> None: ...
    def change_peer(self, key: PeerKey, **fields: object) -> object: ...


@dataclass(frozen=True, slots=True)
class _Change:
    """One peer joins (`spec` alone), leaves (`key` alone), or is to be what `spec` says."""

    key: PeerKey | None
    spec: PeerSpec | None


class _Group:
    """The lines of one upstream with one text, which have one question, and their peers."""

    __slots__ = (
        "changes",
        "found",
        "lines",
        "question",
        "resolver",
        "retries",
        "server",
        "told",
        "upstream",
        "wronged",
    )

    def __init__(self, line: NamedPeers, resolver: Resolver) -> None:
        self.upstream = line.upstream
        self.server = line.template.server
        self.question = line.question
        self.resolver = resolver
        self.lines = [line]
        self.changes: deque[_Change] = deque()
        self.found: Sequence[Found] = ()
        self.retries = False
        self.wronged = False  # something of the last answer was refused, which is said once
        self.told: dict[PeerKey, int] = {}
        """The weights that answers gave, so that one that was changed otherwise is left alone."""


class Names:
    """All peers that are known by name. `counts` gives this process's words of zone/resolvers.py by a resolver's name.
    Each name is asked for at once."""

    __slots__ = ("_again", "_busy", "_clock", "_due", "_epoll", "_log", "_order", "_owner", "_resolvers")

    def __init__(
        self,
        lines: Sequence[NamedPeers],
        owner: Owner,
        log: ErrorLog,
        counts: Callable[[str], Words],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._owner = owner
        self._log = log
        self._clock = clock
        self._epoll = Epoll()
        self._resolvers: dict[ResolverSpec, Resolver] = {}
        self._due: list[tuple[float, int, _Group]] = []  # a heap: when to ask again
        self._order = 0
        self._again: list[tuple[float, int, _Group]] = []  # a heap: when to compare again for which there was no room
        self._busy: deque[_Group] = deque()  # those with changes that are still to be made
        groups: dict[tuple[str, str], _Group] = {}
        for line in lines:
            group = groups.get((line.upstream, line.template.server))
            if group is not None:
                group.lines.append(line)
                continue
            resolver = self._resolvers.get(line.resolver)
            if resolver is None:
                sockets = Sockets(self._epoll)
                words = counts(line.resolver.name)
                resolver = Resolver(line.resolver, sockets, clock, _number, log, words, most=len(lines))
                sockets.serve(resolver)
                self._resolvers[line.resolver] = resolver
            group = groups[line.upstream, line.template.server] = _Group(line, resolver)
            self._ask_at(group, clock())

    def __repr__(self) -> str:
        return f"<Names {len(self._due)} at rest>"

    def fileno(self) -> int:
        """A descriptor that is readable when `ready` has something to do."""
        return self._epoll.fileno()

    def ready(self) -> None:
        """Something came for a resolver."""
        self._epoll.turn()

    def next_due(self) -> float | None:
        """When to call `step`."""
        if self._busy:
            return self._clock()
        dues = [due for resolver in self._resolvers.values() if (due := resolver.next_due()) is not None]
        if self._due:
            dues.append(self._due[0][0])
        if self._again:
            dues.append(self._again[0][0])
        return min(dues, default=None)

    def step(self) -> None:
        """Ask for what is due, and do some of what answers changed."""
        now = self._clock()
        for _ in range(_AT_ONCE):
            if not self._due or self._due[0][0] > now:
                break
            group = heappop(self._due)[2]
            group.resolver.ask(group.question, partial(self._answered, group))
        for resolver in self._resolvers.values():
            resolver.step()
        while self._again and self._again[0][0] <= now:
            group = heappop(self._again)[2]
            group.retries = False
            self._compare(group, group.found)
        began = self._clock()
        for _ in range(_AT_ONCE):
            if not self._busy or self._clock() - began > _SLICE:
                return
            group = self._busy[0]
            if group.changes:
                self._change(group, group.changes.popleft())
            if not group.changes:
                self._busy.popleft()

    def close(self) -> None:
        for resolver in self._resolvers.values():
            resolver.close()
        self._epoll.close()

    def _ask_at(self, group: _Group, due: float) -> None:
        self._order += 1
        heappush(self._due, (due, self._order, group))

    def _answered(self, group: _Group, answer: Answer) -> None:
        self._ask_at(group, max(answer.expires, self._clock() + _SOON))
        # After any other code `found` is what was known before: nothing that is there has to change.
        if answer.code in (FOUND, NOT_FOUND):
            group.wronged = False
            self._compare(group, answer.found)

    def _compare(self, group: _Group, found: Sequence[Found]) -> None:
        """Find out what has to change so that the group's peers are those that were found."""
        group.found = found
        wanted: dict[tuple[str, str], list[PeerSpec]] = {}
        for line in group.lines:
            for spec in sorted(peers_of(line, found), key=_in_order):
                wanted.setdefault((spec.role, spec.name), []).append(spec)
        there: dict[tuple[str, str], list[Member]] = {}
        for member in self._owner.members(group.upstream):
            if member.spec.server == group.server:
                there.setdefault((member.spec.role, member.spec.name), []).append(member)
        joining, changing, leaving = [], [], []
        for place, specs in wanted.items():
            members = there.get(place, [])
            for member, spec in zip(members, specs, strict=False):
                # An earlier checker told it; what an operator changed of other lines stays.
                before = group.told.get(member.key, member.spec.weight if group.question.service else spec.weight)
                if before != spec.weight:
                    changing.append(_Change(member.key, spec))
                group.told[member.key] = spec.weight
            joining += [_Change(None, spec) for spec in specs[len(members) :]]
        for place, members in there.items():
            leaving += [_Change(member.key, None) for member in members[len(wanted.get(place, ())) :]]
        group.changes = deque([*joining, *changing, *leaving])
        if group.changes:
            if group not in self._busy:
                self._busy.append(group)
            counts = ", ".join(
                f"{len(changes)} {words}"
                for changes, words in ((joining, "joined"), (changing, "changed"), (leaving, "left"))
                if changes
            )
            self._log.notice(f'{group.question} in upstream "{group.upstream}": {counts}')

    def _change(self, group: _Group, change: _Change) -> None:
        try:
            if change.key is None:
                assert change.spec is not None
                member = self._owner.add_peer(group.upstream, change.spec)
                group.told[member.key] = change.spec.weight
            elif change.spec is None:
                group.told.pop(change.key, None)
                self._owner.remove_peer(change.key)
            else:
                self._owner.change_peer(change.key, weight=change.spec.weight)
        except NoRoom as error:
            self._complain(group, error)
            # Half of those that are to leave make room, and when the workers have heard of it, others come: there is
            # always somebody.
            leaving = [one for one in group.changes if one.spec is None]
            group.changes = deque(leaving[: (len(leaving) + 1) // 2])
            if leaving and not group.retries:
                group.retries = True
                self._order += 1
                heappush(self._again, (self._clock() + _SOON, self._order, group))
        except ValueError as error:
            # Somebody else changed the list. The next answer is compared with what is there then.
            self._complain(group, error)

    def _complain(self, group: _Group, error: ValueError) -> None:
        if not group.wronged:
            group.wronged = True
            self._log.error(f'{group.question} in upstream "{group.upstream}": {error}')


def peers_of(line: NamedPeers, found: Sequence[Found]) -> list[PeerSpec]:
    """What the peers of a line are (nginx: ngx_http_upstream_zone_resolve_handler): of services, those of the lowest
    priority are primary ones and others backups; their weight counts unless the line has one."""
    first = min((one.priority for one in found), default=0)
    template = line.template
    specs = []
    for one in found:
        port = one.port or line.port
        spec = replace(
            template,
            name=f"[{one.address}]:{port}" if ":" in one.address else f"{one.address}:{port}",
            address=(one.address, port),
        )
        if one.port:
            weight = template.weight if template.weight != 1 else max(one.weight, 1)
            spec = replace(spec, backup=template.backup or one.priority != first, weight=weight)
        specs.append(spec)
    return specs


def _in_order(spec: PeerSpec) -> tuple[bool, str]:
    """Servers mix their answers; upwells of one configuration should agree on the order of peers."""
    return spec.backup, spec.name


def _number() -> int:
    return randbelow(_IDS)
