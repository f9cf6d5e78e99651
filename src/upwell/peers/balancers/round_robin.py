"""Smooth weighted round robin in nginx's exact sequence (ngx_http_upstream_round_robin.c), weights' decay included.

nginx walks over all peers at each pick. Here a walk is needed only while something is amiss. As long as no peer failed,
all peers of one weight gain the same at each pick, so the first of them stays the first until it is chosen: one heap
for each weight finds who is next. And the sequence repeats after sum(weights) / gcd(weights) picks, so it is written
down during its first round and read from then on; with one weight for all it is known before (measured with 200 peers:
0.3 us a pick instead of 26). What the walks would have left in `current_weight` is worked out by `settle()` when
somebody needs it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from heapq import heapify, heapreplace
from math import gcd
from typing import Final

from upwell.peers.balancers.balancer import Chance
from upwell.peers.live import Peer
from upwell.peers.passive import full, suspended
from upwell.peers.peer import Method

_MAX_ROUND: Final = 1 << 16  # picks; a longer round is not worth its memory

_Entry = tuple[int, int, Peer]
"""Of a peer: what it had at walk 0, with the sign turned; its place among all; itself."""


def _owed(peer: Peer) -> int:
    return peer.current_weight


class RoundRobin:
    """The default balancer of nginx's `upstream` block. One for each role, so two with backups."""

    __slots__ = (
        "_at",
        "_bounded",
        "_heaps",
        "_order",
        "_owed",
        "_peers",
        "_period",
        "_round",
        "_start",
        "_total",
        "_whole",
        "watches",
    )

    def __init__(self, method: Method, chance: Chance) -> None:
        self.watches = False
        self._whole = 0  # sum of the weights of all peers, also of those that are not up
        self._owed: dict[Peer, int] | None = None  # what the entries of the heaps say, of late
        self._peers: tuple[Peer, ...] = ()
        self._bounded = False  # by max_conns: who is full drops out at any time
        self._period = 0  # picks in a round
        self._total = 0  # sum of all weights
        self._heaps: list[tuple[int, list[_Entry]]] | None = None  # by weight, while nothing is amiss
        self._round: list[Peer] = []  # the round that is being written down
        self._start: list[int] = []  # current weights at the start of that round
        self._order: list[Peer] | None = None  # a whole round, when it is known to repeat
        self._at = 0  # next place in _order, or how many picks the heaps made

    def __repr__(self) -> str:
        return f"<RoundRobin {len(self._peers)} peers>"

    def rebuild(self, peers: Sequence[Peer], up: Sequence[Peer]) -> None:
        self.settle()
        self._whole = sum([peer.weight for peer in peers])
        self._peers = tuple(up)
        weights = [peer.weight for peer in up]
        self._total = sum(weights)
        self._period = self._total // gcd(*weights) if up else 0
        self._bounded = max([peer.max_conns for peer in up], default=0) > 0

    def pick(self, key: bytes | None, tried: Collection[Peer], now: float) -> Peer | None:
        order = self._order
        if order is None or tried:
            if tried or self._bounded or not self._is_steady():
                return self._walk(tried, now)
            order = self._order
            if order is None:
                return self._from_heaps(now)
        at = self._at
        peer = order[at]
        at += 1
        self._at = at if at < len(order) else 0
        if now - peer.checked > peer.fail_timeout:
            peer.checked = now
        return peer

    def bound(self, peer: Peer, tried: Collection[Peer], now: float) -> None:
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
        order, heaps, owed_now = self._order, self._heaps, self._owed
        self._order = None
        self._heaps = None
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
        elif heaps is not None:
            for weight, heap in heaps:
                for owed, _, peer in heap:
                    peer.current_weight = walks * weight - owed

    def _is_steady(self) -> bool:
        """Whether no peer is failing, so that the sequence follows from the weights alone; then it is prepared."""
        if self._heaps is not None:
            return True
        peers = self._peers
        if not self._is_well():
            return False
        self._at = 0
        self._start = start = [peer.current_weight for peer in peers]
        alike = self._period == len(peers)
        if alike and max(start) - min(start) < self._total:
            # One weight for all: each is chosen once in a round, first those that are owed most.
            self._order = sorted(peers, key=_owed, reverse=True) if any(start) else list(peers)
            return True
        self._heap()
        return True

    def _is_well(self) -> bool:
        # Until its failures are forgotten a peer can drop out at any time.
        return self._peers != () and not [p for p in self._peers if p.fails or p.effective_weight < p.weight]

    def _is_kept(self) -> bool:
        """The same, where what each peer is owed is kept besides: some requests do not go to who is next."""
        if self._owed is not None:
            return True
        if self._heaps is None:
            self.settle()
            if not self._is_well():
                return False
            self._at = 0
            self._heap()
        heaps = self._heaps
        assert heaps is not None
        self._round = []
        self._owed = {peer: owed for _, heap in heaps for owed, _, peer in heap}
        return True

    def _heap(self) -> None:
        """Put the peers into heaps, as they stand."""
        by_weight: dict[int, list[_Entry]] = {}
        for place, peer in enumerate(self._peers):
            by_weight.setdefault(peer.weight, []).append((-peer.current_weight, place, peer))
        for heap in by_weight.values():
            heapify(heap)
        self._heaps = list(by_weight.items())

    def _from_heaps(self, now: float) -> Peer:
        heaps = self._heaps
        assert heaps is not None
        self._at += 1
        walks = self._at
        best: list[_Entry] = []
        most = place = 0
        kept = self._owed
        for weight, heap in heaps:
            owed, at, first = heap[0]
            if kept is not None:
                while kept[first] != owed:  # it got requests of its sessions meanwhile
                    heapreplace(heap, (kept[first], at, first))
                    owed, at, first = heap[0]
            value = walks * weight - owed
            if not best or value > most or (value == most and at < place):
                best, most, place = heap, value, at
        owed, place, peer = best[0]
        heapreplace(best, (owed + self._total, place, peer))
        if now - peer.checked > peer.fail_timeout:
            peer.checked = now
        if kept is not None:
            kept[peer] = owed + self._total
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
