"""lua-resty's course (v0.08): cycles. The primaries in `concurrency` slices, then the backups; the next cycle begins
`interval` after the end of the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

from upwell.check.course import Starter
from upwell.check.events import Events
from upwell.check.schedule import slice_words, slices
from upwell.check.spec import CheckSpec
from upwell.check.target import Target
from upwell.peers.health import Thresholds
from upwell.zone.table import PeerTable


class Slice:
    """Some targets of one role, probed one after the other; `words` is lua-resty's debug line for its start, `probed`
    whose probe is under way."""

    __slots__ = ("at", "probed", "targets", "words")

    def __init__(self, targets: Sequence[Target], words: str) -> None:
        self.targets = targets
        self.words = words
        self.at = 0
        self.probed: Target | None = None


class Cycle:
    """`timetable` takes a time and this cycle, to have `run` called then; `clock` is the checker's."""

    __slots__ = (
        "_clock",
        "_events",
        "_members",
        "_open",
        "_roles",
        "_slices",
        "_stage",
        "_stale",
        "_starter",
        "_table",
        "_timetable",
        "_version",
        "changed",
        "spec",
        "thresholds",
    )

    def __init__(
        self,
        spec: CheckSpec,
        primaries: Sequence[Target],
        backups: Sequence[Target],
        starter: Starter,
        timetable: Callable[[float, Cycle], None],
        clock: Callable[[], float],
        events: Events,
        table: PeerTable,
    ) -> None:
        self.spec = spec
        self.thresholds = Thresholds(spec.rise, spec.fall)
        self.changed = False  # lua-resty's ctx.new_version: a peer turned up or down in this cycle
        self._members: tuple[list[Target], list[Target]] = ([*primaries], [*backups])
        self._roles: tuple[list[Slice], list[Slice]] = ([], [])
        self._slices: dict[Target, Slice] = {}
        self._stale = True  # somebody joined or left since the slices were cut
        self._stage = 0  # index of the role that is being probed
        self._open = 0  # its slices that are not through
        self._version = 0  # lua-resty's ctx.version: the last peers version known here
        self._starter = starter
        self._timetable = timetable
        self._clock = clock
        self._events = events
        self._table = table
        for target in self.targets:
            target.course = self

    def __repr__(self) -> str:
        return f"<Cycle {self.spec.type} of {self.spec.upstream}>"

    @property
    def targets(self) -> Sequence[Target]:
        return (*self._members[0], *self._members[1])

    @property
    def period(self) -> float:
        longest = sum(ceil(len(role) / max(self.spec.concurrency, 1)) for role in self._members)
        return self.spec.interval + longest * max(self.spec.timeout, 0.0)

    def begin(self, now: float) -> None:
        self._timetable(now, self)

    def run(self) -> None:
        """Begin a cycle."""
        if self._stale:
            self._cut()
        self._events.cycle()
        published = self._table.upstream_version(self.spec.upstream)
        if self._version < published:
            self._events.upgrading(published)
            self._version = published
        self._stage = -1
        self._next_role()

    def following(self, due: float) -> float:
        return 0.0

    def over(self, target: Target, health: int, now: float) -> None:
        self._advance(self._slices[target])

    def join(self, target: Target, backup: bool, now: float) -> None:
        target.course = self
        self._members[backup].append(target)
        self._stale = True

    def leave(self, target: Target) -> None:
        for role in self._members:
            if target in role:
                role.remove(target)
        self._stale = True

    def left(self, target: Target) -> None:
        part = self._slices.get(target)
        if part is not None and part.probed is target:
            self._advance(part)

    def _cut(self) -> None:
        self._stale = False
        primaries, backups = self._members
        self._roles = (_slices(primaries, "primary", self.spec), _slices(backups, "backup", self.spec))
        self._slices = {target: part for role in self._roles for part in role for target in part.targets}

    def suspect(self, target: Target, now: float) -> None:
        """A cycle keeps its step: lua-resty's checks know nothing of requests."""

    def _next_role(self) -> None:
        self._stage += 1
        if self._stage == len(self._roles):
            self._end()
            return
        parts = self._roles[self._stage]
        if not parts:
            self._next_role()
            return
        self._open = len(parts)
        for part in parts:
            part.at = 0
            self._events.slice(part.words)
            self._advance(part)

    def _advance(self, part: Slice) -> None:
        """Probe the next target of a slice, and those after it as long as verdicts come at once."""
        part.probed = None
        while part.at < len(part.targets):
            target = part.targets[part.at]
            part.at += 1
            if not target.gone and self._starter.start(target):
                part.probed = target
                return
        self._open -= 1
        if self._open == 0:
            self._next_role()

    def _end(self) -> None:
        if self.changed:
            self.changed = False
            upstream = self.spec.upstream
            self._events.publishing(self._version + 1)
            self._version = self._table.upstream_version(upstream) + 1
            self._table.set_upstream_version(upstream, self._version)
        self._timetable(self._clock() + self.spec.interval, self)


def _slices(targets: Sequence[Target], role: str, spec: CheckSpec) -> list[Slice]:
    parts = slices(len(targets), spec.concurrency)
    words = slice_words(parts, role, spec.concurrency)
    return [Slice(targets[part.start : part.stop], line) for part, line in zip(parts, words, strict=True)]
