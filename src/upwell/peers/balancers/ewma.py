"""`ewma`: of two peers that chance names, the one with the lower peak EWMA of its answer times, as in Finagle.

A slower answer counts at once, faster ones and the absence of any as time passes. That is multiplied by the requests
under way and one more. What is measured is the time to the answer's head: how long the rest takes lies in what was
asked for. [Why](../../../../docs/decisions/0019-balancers.md).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import accumulate
from math import exp
from typing import Final

from upwell.peers.balancers.answer_times import blame
from upwell.peers.balancers.balancer import Chance, chosen, unfit
from upwell.peers.live import Peer, look
from upwell.peers.peer import Method
from upwell.peers.slow_start import share

DECAY: Final = 10.0  # seconds in which what was counts for 1/e of itself (Finagle's default)
_SMOOTHING: Final = 0.05
_UNMEASURED: Final = 1e6  # seconds: what a peer counts for whose first answer is still under way
_MOST_TRIES: Final = 20


class Ewma:
    __slots__ = ("_chance", "_ends", "_up", "_usual", "watches")

    def __init__(self, method: Method, chance: Chance) -> None:
        self.watches = True
        self._chance = chance
        self._up: Sequence[Peer] = ()
        self._ends: list[int] = []  # sums of the weights up to each peer
        self._usual = 0.0  # the moving average over all peers

    def __repr__(self) -> str:
        return f"<Ewma {len(self._up)} peers, usually {self._usual:.6f} s>"

    def rebuild(self, peers: Sequence[Peer], up: Sequence[Peer]) -> None:
        self._up = up
        self._ends = list(accumulate([peer.weight for peer in up]))

    def pick(self, key: bytes | None, tried: Collection[Peer], now: float) -> Peer | None:
        ends = self._ends
        if not ends:
            return None
        up = self._up
        chance = self._chance
        total = ends[-1]
        first: Peer | None = None
        for _ in range(_MOST_TRIES):
            peer = up[bisect_right(ends, int(chance() * total))]
            if peer is first or (tried and peer in tried):
                continue
            if (peer.fails or peer.max_conns) and unfit(peer, now):
                continue
            if first is not None:
                if self._cost(peer, now) < self._cost(first, now):
                    first, peer = peer, first
                if first.started > 0.0 and first.spec.slow_start > 0.0:
                    first = self._held_back(first, peer, now)
                if now - first.checked > first.fail_timeout:
                    first.checked = now
                return first
            first = peer
        return self._best(tried, now)

    def bound(self, peer: Peer, key: bytes | None, tried: Collection[Peer], now: float) -> None:
        chosen(peer, now)

    def settle(self) -> None: ...

    def set_aside(self, peers: Collection[Peer]) -> None:
        self.settle()

    def released(self, peer: Peer) -> None: ...

    def answered(self, peer: Peer, header: float, last: float, now: float, well: bool) -> None:
        if header < 1e-6:
            header = 1e-6
        passed = now - peer.answer_at
        peer.answer_at = now
        if not well:
            blame(peer, header, self._usual)
            return
        usual = self._usual
        self._usual = usual + _SMOOTHING * (header - usual) if usual > 0.0 else header
        known = peer.answer_time
        if header < known:
            kept = exp(-passed / DECAY) if passed > 0.0 else 1.0
            peer.answer_time = known * kept + header * (1.0 - kept)
        else:
            peer.answer_time = header

    def _cost(self, peer: Peer, now: float) -> float:
        """What one more request costs there, in seconds of waiting.

        A peer that nothing is known of costs nothing while it has no requests, so it is tried first; one that has its
        first request costs more than any other. One of whom nothing was heard for long gets a request the same way,
        and costs what is usual until it has answered that.
        """
        under_way = peer.connections if peer.everywhere is None else look(peer)
        known = peer.answer_time
        under = under_way / share(peer, now) if peer.started > 0.0 else float(under_way)
        if known > 0.0:
            time = known * exp((peer.answer_at - now) / DECAY)
            if under_way and time < self._usual:
                time = known if known < self._usual else self._usual
        elif under_way:
            time = _UNMEASURED
        else:
            return 0.0
        return time * (under / peer.weight + 1.0)

    def _held_back(self, better: Peer, other: Peer, now: float) -> Peer:
        """Between two, of whom `better` may have begun: one that has nothing to do looks better than any other, and it
        gets only a part of that."""
        part = share(better, now)
        beside = share(other, now)
        return better if part >= beside or self._chance() * beside < part else other

    def _best(self, tried: Collection[Peer], now: float) -> Peer | None:
        """Chance found no two of them: the best of all that are left."""
        best: Peer | None = None
        least = 0.0
        for peer in self._up:
            if peer in tried or unfit(peer, now):
                continue
            cost = self._cost(peer, now)
            if best is None or cost < least:
                best = peer
                least = cost
        return None if best is None else chosen(best, now)
