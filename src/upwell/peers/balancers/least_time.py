"""`least_time`: the peer that is likely to be done first with what it has and one more request."""

from __future__ import annotations

from collections.abc import Collection

from upwell.peers.balancers.answer_times import AnswerTimes
from upwell.peers.balancers.balancer import Chance
from upwell.peers.balancers.least import Least
from upwell.peers.live import Peer
from upwell.peers.peer import Method


class LeastTime(Least):
    __slots__ = ("_inflight", "_times")

    def __init__(self, method: Method, chance: Chance) -> None:
        super().__init__(unsure=True)
        self._times = AnswerTimes(method)
        self._inflight = method.inflight

    def pick(self, key: bytes | None, tried: Collection[Peer], now: float) -> Peer | None:
        peer = super().pick(key, tried, now)
        if self._inflight and peer is not None:
            self._times.picked(peer, now)
        return peer

    def released(self, peer: Peer) -> None:
        if self._inflight:
            self._times.released(peer)
        super().released(peer)

    def answered(self, peer: Peer, header: float, last: float, now: float, well: bool) -> None:
        self._times.answered(peer, header, last, now, well)

    def _ratio(self, peer: Peer, now: float) -> float:
        return self._times.cost(peer, now)

    def _lapsed(self, peer: Peer, now: float) -> bool:
        return self._inflight or now - peer.checked > peer.fail_timeout
