"""`hash key consistent`: a key's peer stays its peer when others come and go (nginx's ketama, peer for peer).

As in nginx, who cannot have a request is passed over on the ring, and after 20 points in vain round robin decides.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from typing import Final
from zlib import crc32

from upwell.peers.balancers.balancer import Chance, chosen, unfit
from upwell.peers.balancers.ring import Ring, Server
from upwell.peers.balancers.round_robin import RoundRobin
from upwell.peers.live import Peer
from upwell.peers.peer import Method

_MOST_TRIES: Final = 20


class ConsistentHash:
    """Each peer has 160 points on the ring for each unit of its weight."""

    __slots__ = ("_instead", "_peers", "_ring", "_up", "watches")

    def __init__(self, method: Method, chance: Chance) -> None:
        self.watches = False
        self._instead = RoundRobin(method, chance)
        self._peers: Sequence[Peer] = ()
        self._ring = Ring()
        self._up: frozenset[Peer] = frozenset()

    def __repr__(self) -> str:
        return f"<ConsistentHash {len(self._up)} of {len(self._peers)} peers>"

    def rebuild(self, peers: Sequence[Peer], up: Sequence[Peer]) -> None:
        self._instead.rebuild(peers, up)
        self._up = frozenset(up)
        if peers is not self._peers:
            self._peers = peers
            self._ring.follow(peers)

    def pick(self, key: bytes | None, tried: Collection[Peer], now: float) -> Peer | None:
        if not key or len(self._peers) < 2:
            return self._instead.pick(None, tried, now)
        at = crc32(key)
        if not tried:
            server = self._ring.first(at)
            if server is not None and len(server.peers) == 1:
                peer = server.peers[0]
                if peer in self._up and not unfit(peer, now):
                    if peer.effective_weight < peer.weight:
                        peer.effective_weight += 1
                    return chosen(peer, now)
        # What came before the tried ones is gone through again, so that it is counted as it was.
        for server in islice(self._ring.after(at), _MOST_TRIES + 1):
            found = self._among(server, tried, now)
            if found is not None:
                return chosen(found, now)
        return self._instead.pick(None, tried, now)

    def settle(self) -> None:
        self._instead.settle()

    def released(self, peer: Peer) -> None: ...

    def answered(self, peer: Peer, header: float, last: float, now: float, well: bool) -> None: ...

    def _among(self, server: Server, tried: Collection[Peer], now: float) -> Peer | None:
        """The peer of `server` whose turn it is: nginx's smooth weighted walk, on the weights of the round robin."""
        fit = [peer for peer in server.peers if peer not in tried and peer in self._up and not unfit(peer, now)]
        if not fit:
            return None
        self._instead.settle()
        best = fit[0]
        total = 0
        for peer in fit:
            weight = peer.effective_weight
            peer.current_weight += weight
            total += weight
            if weight < peer.weight:
                peer.effective_weight = weight + 1
            if peer.current_weight > best.current_weight:
                best = peer
        best.current_weight -= total
        return best
