"""`hash key consistent bounded=1.25`: a key's peer, as long as it has not much more to do than its share.

Consistent hashing with bounded loads (V. Mirrokni, M. Thorup, M. Zadimoghaddam, 2016): a peer takes at most `bounded`
times its share, by weight, of the requests that are under way in this worker. What is too much goes on to the next ones
on the ring, so that a key that everybody asks for spreads over as few peers as it can. nginx has nothing like it; where
a `server` line means several addresses, each has keys of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from math import ceil
from typing import Final
from zlib import crc32

from upwell.peers.balancers.balancer import Chance, chosen, unfit
from upwell.peers.balancers.instead import Instead
from upwell.peers.balancers.ring import Ring
from upwell.peers.live import Peer
from upwell.peers.peer import Method

_MOST_POINTS: Final = 1024  # that are looked at for one request: a ring may have a million


class BoundedHash:
    """It counts the requests under way itself, as only some of the upstream's peers may be up."""

    __slots__ = ("_factor", "_instead", "_peers", "_ring", "_under_way", "_up", "_weight", "watches")

    def __init__(self, method: Method, chance: Chance) -> None:
        self.watches = True
        self._factor = method.bounded
        self._instead = Instead(method, chance)
        self._peers: Sequence[Peer] = ()
        self._ring = Ring(by_address=True)
        self._up: frozenset[Peer] = frozenset()
        self._under_way = 0
        self._weight = 0

    def __repr__(self) -> str:
        return f"<BoundedHash {len(self._up)} of {len(self._peers)} peers, {self._under_way} requests>"

    def rebuild(self, peers: Sequence[Peer], up: Sequence[Peer]) -> None:
        self._instead.rebuild(peers, up)
        self._up = frozenset(up)
        self._under_way = sum([peer.connections for peer in up])
        self._weight = sum([peer.weight for peer in up])
        if peers is not self._peers:
            self._peers = peers
            self._ring.follow(peers)

    def pick(self, key: bytes | None, tried: Collection[Peer], now: float) -> Peer | None:
        peer = self._search(crc32(key), tried, now) if key else self._instead.pick(tried, now)
        if peer is not None:
            self._under_way += 1
        return peer

    def bound(self, peer: Peer, key: bytes | None, tried: Collection[Peer], now: float) -> None:
        if key:
            chosen(peer, now)
        else:
            self._instead.bound(peer, tried, now)
        if peer in self._up:
            self._under_way += 1

    def settle(self) -> None:
        self._instead.settle()

    def set_aside(self, peers: Collection[Peer]) -> None:
        self.settle()

    def released(self, peer: Peer) -> None:
        self._instead.settle()
        if peer in self._up:
            self._under_way -= 1

    def answered(self, peer: Peer, header: float, last: float, now: float, well: bool) -> None: ...

    def _search(self, at: int, tried: Collection[Peer], now: float) -> Peer | None:
        if not self._weight:
            return None
        up = self._up
        each = self._factor * (self._under_way + 1) / self._weight  # for a unit of weight
        server = self._ring.first(at)
        if server is not None and len(server.peers) == 1 and not tried:
            peer = server.peers[0]
            if peer in up and peer.connections < ceil(each * peer.weight) and not unfit(peer, now):
                return chosen(peer, now)
        for server in islice(self._ring.after(at), _MOST_POINTS):
            best: Peer | None = None
            for peer in server.peers:
                if peer in tried or peer not in up or unfit(peer, now):
                    continue
                if peer.connections < ceil(each * peer.weight) and (best is None or _less_busy(peer, best)):
                    best = peer
            if best is not None:
                return chosen(best, now)
        return self._least_busy(tried, now)

    def _least_busy(self, tried: Collection[Peer], now: float) -> Peer | None:
        """Who could have it without regard to the key: those with room were tried, or are suspended."""
        best: Peer | None = None
        for peer in self._peers:
            if peer in tried or peer not in self._up or unfit(peer, now):
                continue
            if best is None or _less_busy(peer, best):
                best = peer
        return None if best is None else chosen(best, now)


def _less_busy(one: Peer, other: Peer) -> bool:
    """Whether `one` has fewer requests for its weight."""
    return one.connections * other.weight < other.connections * one.weight
