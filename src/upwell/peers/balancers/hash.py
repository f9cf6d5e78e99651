"""`hash key`: the peer by a key's CRC32 (nginx's choice, which is Cache::Memcached's).

Who comes or goes moves nearly all keys; who is only down moves its own: each of its keys is hashed again, with the
number of the attempt in front.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import Final
from zlib import crc32

from upwell.peers.balancers.balancer import Chance, chosen, unfit
from upwell.peers.balancers.instead import Instead
from upwell.peers.live import Peer
from upwell.peers.peer import Method

_MOST_TRIES: Final = 20


class KeyHash:
    """Shares go by weight: the hash is a place among all units of weight, those of peers that are down included."""

    __slots__ = ("_ends", "_instead", "_peers", "_up", "watches")

    def __init__(self, method: Method, chance: Chance) -> None:
        self.watches = False
        self._instead = Instead(method, chance)
        self._peers: Sequence[Peer] = ()
        self._ends: list[int] = []  # sums of the weights up to each peer
        self._up: frozenset[Peer] = frozenset()

    def __repr__(self) -> str:
        return f"<KeyHash {len(self._up)} of {len(self._peers)} peers>"

    def rebuild(self, peers: Sequence[Peer], up: Sequence[Peer]) -> None:
        self._instead.rebuild(peers, up)
        self._up = frozenset(up)
        if peers is not self._peers:
            self._peers = peers
            self._ends = list(accumulate([peer.weight for peer in peers]))

    def pick(self, key: bytes | None, tried: Collection[Peer], now: float) -> Peer | None:
        ends = self._ends
        if not key or len(ends) < 2:
            return self._instead.pick(tried, now)
        place = (crc32(key) >> 16) & 0x7FFF
        peer = self._peers[bisect_right(ends, place % ends[-1])]
        if not tried and peer in self._up and not unfit(peer, now):
            return chosen(peer, now)
        return self._search(key, tried, now)

    def bound(self, peer: Peer, tried: Collection[Peer], now: float) -> None:
        chosen(peer, now)

    def settle(self) -> None:
        self._instead.settle()

    def released(self, peer: Peer) -> None: ...

    def answered(self, peer: Peer, header: float, last: float, now: float, well: bool) -> None: ...

    def _search(self, key: bytes, tried: Collection[Peer], now: float) -> Peer | None:
        """Hash again and again; after 20 attempts in vain round robin decides.

        nginx remembers for a request where it stopped. Here it begins anew for each try, and finds those that were
        tried where it chose them: these are no attempts in vain.
        """
        ends = self._ends
        met: set[Peer] = set()
        place = rehash = failed = 0
        while failed <= _MOST_TRIES:
            place += (crc32(b"%d%b" % (rehash, key) if rehash else key) >> 16) & 0x7FFF
            rehash += 1
            peer = self._peers[bisect_right(ends, place % ends[-1])]
            if peer in tried and peer not in met:
                met.add(peer)
            elif peer in tried or peer not in self._up or unfit(peer, now):
                failed += 1
            else:
                return chosen(peer, now)
        return self._instead.pick(tried, now)
