"""What `hash` and `ip_hash` share: a hash is a place among all units of weight, and round robin decides in the end.

The units of peers that are down count too, so nobody else's keys move.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import Final

from upwell.peers.balancers.balancer import Chance, chosen
from upwell.peers.balancers.instead import Instead
from upwell.peers.live import Peer
from upwell.peers.peer import Method

MOST_TRIES: Final = 20
"""Attempts in vain (nginx), after which round robin decides."""


class Places:
    """The base of both; `pick` is theirs."""

    __slots__ = ("_ends", "_instead", "_peers", "_up", "watches")

    def __init__(self, method: Method, chance: Chance) -> None:
        self.watches = False
        self._instead = Instead(method, chance)
        self._peers: Sequence[Peer] = ()
        self._ends: list[int] = []  # sums of the weights up to each peer
        self._up: frozenset[Peer] = frozenset()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self._up)} of {len(self._peers)} peers>"

    def rebuild(self, peers: Sequence[Peer], up: Sequence[Peer]) -> None:
        self._instead.rebuild(peers, up)
        self._up = frozenset(up)
        if peers is not self._peers:
            self._peers = peers
            self._ends = list(accumulate([peer.weight for peer in peers]))

    def bound(self, peer: Peer, key: bytes | None, tried: Collection[Peer], now: float) -> None:
        if key:
            chosen(peer, now)
        else:
            self._instead.bound(peer, tried, now)

    def settle(self) -> None:
        self._instead.settle()

    def set_aside(self, peers: Collection[Peer]) -> None:
        self.settle()

    def released(self, peer: Peer) -> None: ...

    def answered(self, peer: Peer, header: float, last: float, now: float, well: bool) -> None: ...
