"""`hash key consistent`: a key's peer stays its peer when others come and go (nginx's ketama, peer for peer).

As in nginx, who cannot have a request is passed over on the ring, and after 20 points in vain round robin decides.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from typing import Final
from zlib import crc32

from upwell.peers.balancers.balancer import Chance, chosen, unfit
from upwell.peers.balancers.instead import Instead
from upwell.peers.balancers.ring import Ring, Server
from upwell.peers.balancers.round_robin import RoundRobin
from upwell.peers.live import Peer
from upwell.peers.peer import Method

_MOST_TRIES: Final = 20


class ConsistentHash:
    """Each peer has 160 points on the ring for each unit of its weight."""

    __slots__ = ("_chance", "_instead", "_method", "_peers", "_ring", "_turns", "_up", "watches")

    def __init__(self, method: Method, chance: Chance) -> None:
        self.watches = False
        self._method = method
        self._chance = chance
        self._instead = Instead(method, chance)
        self._peers: Sequence[Peer] = ()
        self._ring = Ring()
        self._up: frozenset[Peer] = frozenset()
        self._turns: dict[str, RoundRobin] = {}  # of the servers with several addresses

    def __repr__(self) -> str:
        return f"<ConsistentHash {len(self._up)} of {len(self._peers)} peers>"

    def rebuild(self, peers: Sequence[Peer], up: Sequence[Peer]) -> None:
        self.settle()
        self._turns = {}
        self._instead.rebuild(peers, up)
        self._up = frozenset(up)
        if peers is not self._peers:
            self._peers = peers
            self._ring.follow(peers)

    def pick(self, key: bytes | None, tried: Collection[Peer], now: float) -> Peer | None:
        if not key or len(self._peers) < 2:
            return self._in_turn(tried, now)
        at = crc32(key)
        if not tried:
            server = self._ring.first(at)
            if server is not None:
                peer = self._of(server, tried, now)
                if peer is not None:
                    return peer
        # What came before the tried ones is gone through again, so that it is counted as it was.
        for server in islice(self._ring.after(at), _MOST_TRIES + 1):
            peer = self._of(server, tried, now)
            if peer is not None:
                return peer
        return self._in_turn(tried, now)

    def bound(self, peer: Peer, key: bytes | None, tried: Collection[Peer], now: float) -> None:
        if key:
            chosen(peer, now)
            return
        if self._turns:
            self.settle()
        self._instead.bound(peer, tried, now)

    def settle(self) -> None:
        self._instead.settle()
        for turns in self._turns.values():
            turns.settle()

    def set_aside(self, peers: Collection[Peer]) -> None:
        self.settle()

    def released(self, peer: Peer) -> None: ...

    def answered(self, peer: Peer, header: float, last: float, now: float, well: bool) -> None: ...

    def _of(self, server: Server, tried: Collection[Peer], now: float) -> Peer | None:
        """The peer of `server` whose turn it is; None: it has none who can have the request."""
        if len(server.peers) > 1:
            return self._among(server, tried, now)
        peer = server.peers[0]
        if peer in tried or peer not in self._up or unfit(peer, now):
            return None
        if peer.effective_weight < peer.weight:
            peer.effective_weight += 1
        return chosen(peer, now)

    def _among(self, server: Server, tried: Collection[Peer], now: float) -> Peer | None:
        """One of several addresses, by nginx's smooth weighted round robin; its weights are those of all peers'."""
        self._instead.settle()
        turns = self._turns.get(server.name)
        if turns is None:
            turns = self._turns[server.name] = RoundRobin(self._method, self._chance)
            turns.rebuild(server.peers, [peer for peer in server.peers if peer in self._up])
        return turns.pick(None, tried, now)

    def _in_turn(self, tried: Collection[Peer], now: float) -> Peer | None:
        if self._turns:
            self.settle()
        return self._instead.pick(tried, now)
