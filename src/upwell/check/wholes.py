"""What the checker says of upstreams as a whole: that many peers turned down at once, that health is ignored now.

What is done about it is each worker's business (peers/upstream.py); this only sees to it that it is said, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from upwell.check.events import Events
from upwell.check.mass import Mass
from upwell.peers.panic import FAIL, in_force, standing_of, words
from upwell.peers.peer import UpstreamSpec
from upwell.peers.roster import Member
from upwell.zone.layout import CHECKS_DOWN
from upwell.zone.table import PeerTable

_PAUSE = 0.1  # seconds between two looks at all peers of upstreams that changed


class Wholes:
    """All upstreams of one checker; `members` gives the peers of one."""

    __slots__ = ("_changed", "_events", "_ignored", "_looked", "_masses", "_members", "_specs", "_table")

    def __init__(
        self,
        specs: Mapping[str, UpstreamSpec],
        members: Callable[[str], Sequence[Member]],
        table: PeerTable,
        events: Events,
    ) -> None:
        self._specs = specs
        self._members = members
        self._table = table
        self._events = events
        self._masses = {name: Mass(name, spec.mass_down) for name, spec in specs.items()}
        self._changed: set[str] = set()
        self._ignored: set[str] = set()
        self._looked = float("-inf")

    def watch(self, upstream: str, rows: Iterable[int]) -> None:
        """Peers that are checked from now on."""
        rows = list(rows)
        down = [row for row in rows if self._table.summary(row) == CHECKS_DOWN]
        self._masses[upstream].watch(rows, down)
        self.changed(upstream)

    def turned(self, upstream: str, row: int, why: str, window: float, now: float) -> None:
        """The checks of a peer together say something else than before."""
        mass = self._masses[upstream]
        if self._table.summary(row) == CHECKS_DOWN:
            said = mass.turned_down(row, why, window, now)
            if said:
                self._events.mass(said)
        else:
            said = mass.turned_up(row)
            if said:
                self._events.mass_over(said)
        self.changed(upstream)

    def pruned(self, upstream: str, row: int) -> None:
        """A check of a peer is forgotten."""
        if upstream in self._specs and self._table.summary(row) != CHECKS_DOWN:
            self._masses[upstream].turned_up(row)
            self.changed(upstream)

    def left(self, upstream: str, row: int) -> None:
        """A peer left."""
        said = self._masses[upstream].left(row)
        if said:
            self._events.mass_over(said)
        self.changed(upstream)

    def changed(self, upstream: str) -> None:
        """Something changed that its policy may look at."""
        if self._specs[upstream].all_down != FAIL:
            self._changed.add(upstream)

    def settle(self, now: float) -> None:
        """Say which policies came into force and which ended; to be called in each round."""
        if not self._changed or now - self._looked < _PAUSE:
            return
        self._looked = now
        for name in sorted(self._changed):
            spec = self._specs[name]
            standing = standing_of(self._members(name), self._table)
            ignored = in_force(spec, standing)
            if ignored and name not in self._ignored:
                self._ignored.add(name)
                self._events.health_ignored(name, words(spec), standing.up, standing.counted)
            elif not ignored and name in self._ignored:
                self._ignored.discard(name)
                self._events.health_counts(name, standing.up, standing.counted)
        self._changed.clear()
