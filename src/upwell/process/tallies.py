"""What the workers of each generation count, told to the others: old workers serve on after a reload, and a page has to
say what all did. Knows tables, no process; used by the master alone, which writes what a table says of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from upwell.peers.peer import PeerKey, UpstreamSpec
from upwell.peers.roster import Roster
from upwell.zone.table import PeerTable, growth_of

SHARE: Final = 20
"""Looking at all counters takes at most one of so many parts of the master's time, however many peers there are."""

_Place = tuple[int, int]  # a row, and which of its tenants


class Tally:
    """What the workers of one generation counted, as far as it was told."""

    __slots__ = ("_changed", "_places", "_table", "_told", "_upstreams")

    def __init__(self, upstreams: Sequence[UpstreamSpec], table: PeerTable) -> None:
        self._upstreams = upstreams
        self._table = table
        self._told: dict[_Place, int] = {}
        self._changed = -1
        self._places: dict[PeerKey, _Place] = {}

    def __repr__(self) -> str:
        return f"<Tally of {len(self._told)} peers>"

    def growth(self) -> dict[PeerKey, tuple[int, ...]]:
        """What they counted since the last call, peers without anything left out."""
        table, told = self._table, self._told
        found = {}
        for key, place in self._located().items():
            counted = table.counted(place[0])
            before = told.get(place, 0)
            if counted != before:
                told[place] = counted
                found[key] = growth_of(before, counted)
        return found

    def hand(self, tally: Tally) -> None:
        """Tell another generation, which is made of this one and has what this one was told, what was counted here."""
        told = self._told
        tally.hear({key: growth_of(0, told[place]) for key, place in self._located().items() if place in told})

    def hear(self, growth: dict[PeerKey, tuple[int, ...]]) -> None:
        """Be told of another generation. A peer that this one does not have is nobody's."""
        if not growth:
            return
        places = self._located()
        for key, words in growth.items():
            place = places.get(key)
            if place is not None:
                self._table.count_elsewhere(*place, words)

    def _located(self) -> dict[PeerKey, _Place]:
        """Where each member's counters are."""
        table = self._table
        changed = table.members_changed
        if changed != self._changed:
            # The tenants first: should a row go to somebody else now, what is written there will not count.
            tenants = [table.tenant(row) for row in range(table.rows_used)]
            self._places = {
                member.key: (member.row, tenants[member.row])
                for spec in self._upstreams
                for member in Roster(spec, table).members
                if member.row < len(tenants)
            }
            self._changed = changed
        return self._places


class Tallies:
    """The tallies of all generations, by their numbers. A table says of the others what was counted in all generations
    that were there with it or before; so whichever of them is asked, and in whatever order they end, sums are right."""

    __slots__ = ("_next", "_tallies")

    def __init__(self) -> None:
        self._tallies: dict[int, Tally] = {}
        self._next = 0.0

    def __repr__(self) -> str:
        return f"<Tallies {sorted(self._tallies)}>"

    def begin(self, number: int, upstreams: Sequence[UpstreamSpec], table: PeerTable, old: int = 0) -> None:
        """A generation is made of the one with the number `old`, whose table its table has adopted after `tell`."""
        tally = self._tallies[number] = Tally(upstreams, table)
        if old:
            self._tallies[old].hand(tally)

    def tell(self, hearers: Iterable[int]) -> None:
        """Have the generations with these numbers know what the workers of all others counted."""
        heard = [(number, self._tallies[number]) for number in hearers]
        for number, tally in self._tallies.items():
            growth = tally.growth()
            for hearer, other in heard:
                if hearer != number:
                    other.hear(growth)

    def end(self, number: int) -> None:
        """A generation has no worker any more, and all was told."""
        del self._tallies[number]

    def is_due(self, now: float) -> bool:
        """Whether, at `now` in seconds, workers of another generation may have counted what is to be told."""
        return len(self._tallies) > 1 and now >= self._next

    def took(self, began: float, ended: float, pause: float) -> None:
        """`tell` was called between these moments; it is due again after `pause`, or later where it took long."""
        self._next = ended + max(pause, SHARE * (ended - began))
