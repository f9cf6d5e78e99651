"""`random`: any peer, by weight; `random two`: the better one of two such (ngx_http_upstream_random_module.c)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import Final

from upwell.peers.balancers.answer_times import AnswerTimes
from upwell.peers.balancers.balancer import Chance, chosen, unfit
from upwell.peers.balancers.instead import Instead
from upwell.peers.live import Peer, look
from upwell.peers.peer import Method

_MOST_TRIES: Final = 20


class Random:
    """As in nginx, round robin decides after 20 draws in vain. Unlike there, none falls on a peer that is down."""

    __slots__ = ("_chance", "_ends", "_instead", "_times", "_two", "_up", "watches")

    def __init__(self, method: Method, chance: Chance) -> None:
        self._chance = chance
        self._two = method.two
        self._times = AnswerTimes(method) if method.measure not in ("", "least_conn") else None
        self.watches = self._times is not None
        self._instead = Instead(method, chance)
        self._up: Sequence[Peer] = ()
        self._ends: list[int] = []  # sums of the weights up to each peer

    def __repr__(self) -> str:
        return f"<Random {len(self._up)} peers>"

    def rebuild(self, peers: Sequence[Peer], up: Sequence[Peer]) -> None:
        self._instead.rebuild(peers, up)
        self._up = up
        self._ends = list(accumulate([peer.weight for peer in up]))

    def pick(self, key: bytes | None, tried: Collection[Peer], now: float) -> Peer | None:
        ends = self._ends
        times = self._times
        if times is not None:
            peer = self._draw(tried, now)
            if peer is not None and times.inflight:
                times.picked(peer, now)
            return peer
        if len(ends) < 2:
            return self._instead.pick(tried, now)
        if not self._two or tried:
            return self._draw(tried, now)
        total = ends[-1]
        one = self._up[bisect_right(ends, int(self._chance() * total))]
        two = self._up[bisect_right(ends, int(self._chance() * total))]
        if one is two or one.fails or two.fails or one.max_conns or two.max_conns:
            return self._draw(tried, now)
        return chosen(self._better(one, two, now), now)

    def bound(self, peer: Peer, key: bytes | None, tried: Collection[Peer], now: float) -> None:
        chosen(peer, now)
        if self._times is not None and self._times.inflight:
            self._times.picked(peer, now)

    def settle(self) -> None:
        self._instead.settle()

    def set_aside(self, peers: Collection[Peer]) -> None:
        self.settle()

    def released(self, peer: Peer) -> None:
        self._instead.settle()
        if self._times is not None and self._times.inflight:
            self._times.released(peer)

    def answered(self, peer: Peer, header: float, last: float, now: float, well: bool) -> None:
        if self._times is not None:
            self._times.answered(peer, header, last, now, well)

    def _better(self, one: Peer, two: Peer, now: float) -> Peer:
        """The one with fewer requests for its weight or that answers sooner; of equals the later one."""
        in_one = one.connections if one.everywhere is None else look(one)
        in_two = two.connections if two.everywhere is None else look(two)
        if self._times is not None:
            return one if self._times.cost(two, now) > self._times.cost(one, now) else two
        return one if in_two * one.weight > in_one * two.weight else two

    def _draw(self, tried: Collection[Peer], now: float) -> Peer | None:
        """Draw until there are as many as it takes."""
        if len(self._ends) < 2:
            return self._instead.pick(tried, now)
        up, ends, chance = self._up, self._ends, self._chance
        total = ends[-1]
        first: Peer | None = None
        for _ in range(_MOST_TRIES + 1):
            peer = up[bisect_right(ends, int(chance() * total))]
            if peer is first or (tried and peer in tried):
                continue
            if (peer.fails or peer.max_conns) and unfit(peer, now):
                continue
            if self._two:
                if first is None:
                    first = peer
                    continue
                peer = self._better(first, peer, now)
            if now - peer.checked > peer.fail_timeout:
                peer.checked = now
            return peer
        return self._instead.pick(tried, now)
