"""`least_time`: the peer that is likely to be done first with what it has and one more request, as nginx reckons it."""

from __future__ import annotations

from collections.abc import Collection

from upwell.peers.balancers.answer_times import AnswerTimes
from upwell.peers.balancers.balancer import Chance
from upwell.peers.balancers.least import Least
from upwell.peers.live import Peer
from upwell.peers.peer import Method


class LeastTime(Least):
    __slots__ = ("_times",)

    def __init__(self, method: Method, chance: Chance) -> None:
        super().__init__(lapses=True, restless=method.inflight)
        self._times = AnswerTimes(method)

    def answered(self, peer: Peer, header: float, last: float, now: float, well: bool) -> None:
        self._times.answered(peer, header, last, now, well)

    def _ratio(self, peer: Peer, now: float) -> float:
        return self._times.cost(peer, now)

    def _ratio_at(self, peer: Peer, part: float, now: float) -> float:
        under_way = peer.connections + peer.elsewhere
        return self._times.cost(peer, now) * (1 + under_way / part) / (1 + under_way)


class LeastTimeInflight(LeastTime):
    """With the parameter `inflight`: requests that take longer than usual count before they are over."""

    __slots__ = ()

    def pick(self, key: bytes | None, tried: Collection[Peer], now: float) -> Peer | None:
        peer = Least.pick(self, key, tried, now)
        if peer is not None:
            self._times.picked(peer, now)
        return peer

    def bound(self, peer: Peer, key: bytes | None, tried: Collection[Peer], now: float) -> None:
        super().bound(peer, key, tried, now)
        self._times.picked(peer, now)

    def released(self, peer: Peer) -> None:
        self._times.released(peer)
        super().released(peer)
