"""Smooth weighted round robin in nginx's exact sequence (ngx_http_upstream_round_robin.c), weights' decay included.

nginx walks over all peers at each pick. Here a walk is needed only while something is amiss. As long as no peer failed,
all peers of one weight gain the same at each pick, so the first of them stays the first until it is chosen: they stand
in one line for each weight, and who was chosen goes to its end. And the sequence repeats after sum(weights) /
gcd(weights) picks, so where that is soon it is written down during its first round and read from then on; with one
weight for all it is known before (measured with 200 peers: 0.3 us a pick instead of 26). What the walks would have left
in `current_weight` is worked out by `settle()` when somebody needs it.

Among many peers the lines stay when somebody comes or goes: all that changes is what a pick costs the one chosen.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterable, Sequence
from itertools import count
from math import gcd
from operator import attrgetter, itemgetter
from typing import Final

from upwell.peers.balancers.balancer import Chance, moderate
from upwell.peers.live import Peer
from upwell.peers.passive import full, suspended
from upwell.peers.peer import Method

_MAX_ROUND: Final = 1 << 12  # picks; a longer round is not written down, so that it need not be undone at a change
_SPENT: Final = 64  # entries in front of a line that are chosen already
_STRANGERS: Final = 64  # that left, and still have a place

_Entry = tuple[int, int, Peer]
"""Of a peer: what it had at walk 0, with the sign turned; its place among all; itself."""

_credit: Final = attrgetter("current_weight")
_weight: Final = attrgetter("weight")
_peer: Final = itemgetter(2)


class _Line:
    """The peers of one weight as they will be chosen, from `at` on: sorted entries."""

    __slots__ = ("at", "entries", "weight")

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.entries: list[_Entry] = []
        self.at = 0


class RoundRobin:
    """The default balancer of nginx's `upstream` block. One for each role, so two with backups."""

    __slots__ = (
        "_all",
        "_at",
        "_bounded",
        "_here",
        "_lines",
        "_next_place",
        "_order",
        "_owed",
        "_peers",
        "_period",
        "_place",
        "_reach",
        "_round",
        "_start",
        "_total",
        "_whole",
        "watches",
    )

    def __init__(self, method: Method, chance: Chance) -> None:
        self.watches = False
        self._all: Sequence[Peer] = ()  # also those that are not up
        self._whole = 0  # sum of the weights of all peers, also of those that are not up
        self._reach = 0  # the most that it was since they were moderated
        self._owed: dict[Peer, int] | None = None  # what the entries of the lines say, of late
        self._peers: tuple[Peer, ...] = ()
        # The places of all peers grow as their order does; where lines are to stay, and empty elsewhere.
        self._place: dict[Peer, int] = {}
        self._next_place = 0
        self._here: frozenset[Peer] = frozenset()  # the same as _peers, where lines are to stay
        self._bounded = False  # by max_conns: who is full drops out at any time
        self._period = 0  # picks in a round
        self._total = 0  # sum of all weights
        self._lines: list[_Line] | None = None  # by weight, while nothing is amiss
        self._round: list[Peer] = []  # the round that is being written down
        self._start: list[int] = []  # current weights at the start of that round
        self._order: list[Peer] | None = None  # a whole round, when it is known to repeat
        self._at = 0  # next place in _order, or how many picks the lines made

    def __repr__(self) -> str:
        return f"<RoundRobin {len(self._peers)} peers>"

    def rebuild(self, peers: Sequence[Peer], up: Sequence[Peer]) -> None:
        if self._lines is not None and self._here and self._follow(peers, up):
            return
        self.settle()
        weights = list(map(_weight, up))
        if peers is not self._all:
            self._all = peers
            self._whole = sum(map(_weight, peers))
            if self._whole * 2 < self._reach:
                moderate(peers, self._whole)
                self._reach = 0
            self._reach = max(self._reach, self._whole)
        self._peers = tuple(up)
        self._total = sum(weights)
        self._period = self._total // gcd(*set(weights)) if up else 0
        self._bounded = max([peer.max_conns for peer in up], default=0) > 0
        self._here = frozenset()
        self._place = {}

    def _follow(self, peers: Sequence[Peer], up: Sequence[Peer]) -> bool:
        """Have the lines be those of `up`, if that can be done: who stays has what it had."""
        here = frozenset(up)
        joined = here - self._here
        for peer in joined:
            if peer.fails or peer.effective_weight < peer.weight or peer.max_conns:
                return False
        if not here or not self._locate(peers):
            return False
        left = self._here - here
        if left:
            self._take_out(left)
        lines, walks, kept, place = self._lines, self._at, self._owed, self._place
        assert lines is not None
        if joined:
            by_weight = {line.weight: line for line in lines}
            for peer in joined:
                weight = peer.weight
                known = by_weight.get(weight)
                if known is None:
                    known = by_weight[weight] = _Line(weight)
                    lines.append(known)
                owed = walks * weight - peer.current_weight
                known.entries.append((owed, place[peer], peer))
                if kept is not None:
                    kept[peer] = owed
                self._total += weight
            for weight in {peer.weight for peer in joined}:
                line = by_weight[weight]
                del line.entries[: line.at]
                line.at = 0
                line.entries.sort()
        self._round = []
        self._start = []  # nobody knows it: a round that is now short begins anew after it
        self._lines = lines = [line for line in lines if line.entries]
        self._period = self._total // gcd(*[line.weight for line in lines])
        self._peers = tuple(up)
        self._here = here
        return True

    def _take_out(self, left: frozenset[Peer]) -> None:
        """Have `left` stand in no line; what they were owed is in their `current_weight` again."""
        lines, walks, kept = self._lines, self._at, self._owed
        assert lines is not None
        leaving = {peer.weight for peer in left}
        for line in [line for line in lines if line.weight in leaving]:
            entries = line.entries
            del entries[: line.at]
            line.at = 0
            # The others stay the objects they are: compiled, a loop over entries would make each anew.
            places = [at for at, peer in enumerate(map(_peer, entries)) if peer in left]
            for at in reversed(places):
                owed, _, peer = entries.pop(at)
                peer.current_weight = walks * line.weight - (owed if kept is None else kept.pop(peer))
                self._total -= line.weight

    def _locate(self, peers: Sequence[Peer]) -> bool:
        """Give those who joined their places. False: others have to have other ones, or are owed too much."""
        if peers is self._all:
            return True
        whole = sum(map(_weight, peers))
        if whole * 2 < self._reach:
            return False
        place = self._place
        for peer in peers:
            if peer not in place:
                place[peer] = self._next_place
                self._next_place += 1
        places = list(map(place.__getitem__, peers))
        if places != sorted(places):
            return False
        if len(place) > len(places) + _STRANGERS:
            self._place = dict(zip(peers, places, strict=True))
        self._all = peers
        self._whole = whole
        self._reach = max(self._reach, whole)
        return True

    def pick(self, key: bytes | None, tried: Collection[Peer], now: float) -> Peer | None:
        order = self._order
        if order is None or tried:
            if tried or self._bounded or (self._lines is None and not self._is_steady()):
                return self._walk(tried, now)
            order = self._order
            if order is None:
                return self._from_lines(now)
        at = self._at
        peer = order[at]
        at += 1
        self._at = at if at < len(order) else 0
        if now - peer.checked > peer.fail_timeout:
            peer.checked = now
        return peer

    def bound(self, peer: Peer, key: bytes | None, tried: Collection[Peer], now: float) -> None:
        # nginx keeps account of one such request in a row; of more, what the peer got beyond its share is forgotten.
        least = peer.weight - self._whole
        if tried or self._bounded or not self._is_kept():
            self.settle()
            if peer.current_weight > least:
                total = self._step(tried, now)
                peer.current_weight -= total
        else:
            owed = self._owed
            assert owed is not None
            known = owed.get(peer)
            if known is None:  # it drains, so that no walk adds to it
                if peer.current_weight > least:
                    self._at += 1
                    peer.current_weight -= self._total
            elif self._at * peer.weight - known > least:
                self._at += 1
                owed[peer] = known + self._total
        if now - peer.checked > peer.fail_timeout:
            peer.checked = now

    def settle(self) -> None:
        order, lines, owed_now = self._order, self._lines, self._owed
        self._order = None
        self._lines = None
        self._owed = None
        self._round = []
        walks = self._at
        if order is not None:
            # Each walk adds a peer's weight to it and takes the sum of all weights from the chosen one.
            for peer, weight in zip(self._peers, self._start, strict=True):
                peer.current_weight = weight + walks * peer.weight
            for peer in order[:walks]:
                peer.current_weight -= self._total
        elif owed_now is not None:
            for peer, owed in owed_now.items():
                peer.current_weight = walks * peer.weight - owed
        elif lines is not None:
            for line in lines:
                gained = walks * line.weight
                for owed, _, peer in line.entries[line.at :]:
                    peer.current_weight = gained - owed

    def set_aside(self, peers: Collection[Peer]) -> None:
        if self._lines is None or not self._here:
            self.settle()
            return
        left = self._here.intersection(peers)
        if left:
            self._take_out(left)
            self._here -= left

    def _is_steady(self) -> bool:
        """Whether no peer is failing, so that the sequence follows from the weights alone; then it is prepared."""
        peers = self._peers
        if not self._is_well():
            return False
        self._at = 0
        if self._period <= _MAX_ROUND:
            self._start = start = list(map(_credit, peers))
            if self._period == len(peers) and max(start) - min(start) < self._total:
                # One weight for all: each is chosen once in a round, first those that are owed most.
                self._order = sorted(peers, key=_credit, reverse=True) if any(start) else list(peers)
                return True
        self._line_up()
        return True

    def _is_well(self) -> bool:
        # Until its failures are forgotten a peer can drop out at any time.
        return self._peers != () and not [p for p in self._peers if p.fails or p.effective_weight < p.weight]

    def _is_kept(self) -> bool:
        """The same, where what each peer is owed is kept besides: some requests do not go to who is next."""
        if self._owed is not None:
            return True
        if self._lines is None:
            self.settle()
            if not self._is_well():
                return False
            self._at = 0
            self._line_up()
        lines = self._lines
        assert lines is not None
        self._round = []
        self._owed = {peer: owed for line in lines for owed, _, peer in line.entries[line.at :]}
        return True

    def _line_up(self) -> None:
        """Put the peers into lines, as they stand."""
        peers = self._peers
        places: Iterable[int] = count()
        if self._period <= _MAX_ROUND:
            self._here = frozenset()  # places are others than before
            self._place = {}
        else:
            if not self._place:
                self._place = dict(zip(self._all, count(), strict=False))
                self._next_place = len(self._place)
            self._here = frozenset(peers)
            places = map(self._place.__getitem__, peers)
        by_weight: dict[int, list[_Entry]] = {}
        weights = set(map(_weight, peers))
        if len(weights) == 1:
            by_weight[peers[0].weight] = [
                (-peer.current_weight, at, peer) for at, peer in zip(places, peers, strict=False)
            ]
        else:
            for weight in weights:
                by_weight[weight] = []
            for at, peer in zip(places, peers, strict=False):
                by_weight[peer.weight].append((-peer.current_weight, at, peer))
        self._lines = []
        for weight, entries in by_weight.items():
            entries.sort()
            line = _Line(weight)
            line.entries = entries
            self._lines.append(line)

    def _from_lines(self, now: float) -> Peer:
        lines = self._lines
        assert lines is not None
        self._at += 1
        walks = self._at
        best = lines[0]
        most = place = 0
        kept = self._owed
        if len(lines) > 1 or kept is not None:
            found = False
            for line in lines:
                owed, at, first = line.entries[line.at]
                if kept is not None:
                    while kept[first] != owed:  # it got requests of its sessions meanwhile
                        line.at += 1
                        insort(line.entries, (kept[first], at, first), line.at)
                        owed, at, first = line.entries[line.at]
                value = walks * line.weight - owed
                if not found or value > most or (value == most and at < place):
                    best, most, place = line, value, at
                    found = True
        entries = best.entries
        next_at = best.at
        owed, place, peer = entries[next_at]
        next_at += 1
        owed += self._total
        entry = (owed, place, peer)
        if entries[-1][0] < owed:
            entries.append(entry)
        else:
            insort(entries, entry, next_at)
        if next_at > _SPENT and next_at * 2 > len(entries):
            del entries[:next_at]
            next_at = 0
        best.at = next_at
        if now - peer.checked > peer.fail_timeout:
            peer.checked = now
        if kept is not None:
            kept[peer] = owed
        elif self._period <= _MAX_ROUND:
            self._remember(peer)
        return peer

    def released(self, peer: Peer) -> None: ...

    def answered(self, peer: Peer, header: float, last: float, now: float, well: bool) -> None: ...

    def _walk(self, tried: Collection[Peer], now: float) -> Peer | None:
        self.settle()
        best = None
        total = 0
        for peer in self._peers:
            if (tried and peer in tried) or (peer.max_conns and full(peer)):
                continue
            if peer.fails and suspended(peer, now):
                continue
            weight = peer.effective_weight
            peer.current_weight += weight
            total += weight
            if weight < peer.weight:
                peer.effective_weight = weight + 1
            if best is None or peer.current_weight > best.current_weight:
                best = peer
        if best is None:
            return None
        best.current_weight -= total
        if now - best.checked > best.fail_timeout:
            best.checked = now
        return best

    def _step(self, tried: Collection[Peer], now: float) -> int:
        """What a walk does to all peers before one of them is chosen; the weights that took part."""
        total = 0
        for peer in self._peers:
            if (tried and peer in tried) or (peer.max_conns and full(peer)) or (peer.fails and suspended(peer, now)):
                continue
            peer.current_weight += peer.effective_weight
            total += peer.effective_weight
            if peer.effective_weight < peer.weight:
                peer.effective_weight += 1
        return total

    def _remember(self, peer: Peer) -> None:
        self._round.append(peer)
        if len(self._round) < self._period:
            return
        found = self._round
        start = self._start
        self.settle()
        if start == [peer.current_weight for peer in self._peers]:
            self._start = start
            self._order = found
        self._at = 0
