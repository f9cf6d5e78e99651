"""`least_conn`: the peer with the fewest requests under way for its weight, those of all workers together."""

from __future__ import annotations

from upwell.peers.balancers.balancer import Chance
from upwell.peers.balancers.least import Least
from upwell.peers.live import Peer
from upwell.peers.peer import Method


class LeastConn(Least):
    __slots__ = ()

    def __init__(self, method: Method, chance: Chance) -> None:
        super().__init__()

    def _ratio(self, peer: Peer, now: float) -> float:
        return (peer.connections + peer.elsewhere) / peer.weight

    def _ratio_at(self, peer: Peer, part: float, now: float) -> float:
        return self._ratio(peer, now) / part
