"""Round robin for an upstream whose peers have a `slow_start`; other methods that can have it see to it themselves."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from upwell.peers.balancers.balancer import Chance
from upwell.peers.balancers.round_robin import RoundRobin
from upwell.peers.live import Peer
from upwell.peers.passive import full, suspended
from upwell.peers.peer import Method
from upwell.peers.slow_start import share


class SlowStart:
    """A balancer: round robin, and while somebody begins a walk of its own with parts of weights.

    nginx's sequence rests meanwhile and goes on from where it was.
    """

    __slots__ = ("_credit", "_peers", "_starting", "_steady", "watches")

    def __init__(self, method: Method, chance: Chance) -> None:
        self.watches = False
        self._steady = RoundRobin(method, chance)
        self._peers: tuple[Peer, ...] = ()
        self._starting: list[Peer] = []
        self._credit: dict[Peer, float] = {}  # what `current_weight` is in the steady sequence

    def __repr__(self) -> str:
        return f"<SlowStart {len(self._starting)} of {len(self._peers)} peers begin>"

    def rebuild(self, peers: Sequence[Peer], up: Sequence[Peer]) -> None:
        self._steady.rebuild(peers, up)
        self._peers = tuple(up)
        self._starting = [peer for peer in up if peer.started and peer.spec.slow_start]
        self._credit = {peer: self._credit.get(peer, 0.0) for peer in up}
        whole = sum([peer.weight for peer in peers])
        most = max([abs(credit) for credit in self._credit.values()], default=0.0)
        if most > whole:  # balancer.moderate
            self._credit = {peer: credit * whole / most for peer, credit in self._credit.items()}

    def pick(self, key: bytes | None, tried: Collection[Peer], now: float) -> Peer | None:
        if not self._starting:
            return self._steady.pick(key, tried, now)
        self._starting = [peer for peer in self._starting if now - peer.started < peer.spec.slow_start]
        if not self._starting:
            self._credit = dict.fromkeys(self._peers, 0.0)
            return self._steady.pick(key, tried, now)
        return self._walk(tried, now)

    def bound(self, peer: Peer, key: bytes | None, tried: Collection[Peer], now: float) -> None:
        self._steady.bound(peer, key, tried, now)

    def settle(self) -> None:
        self._steady.settle()

    def set_aside(self, peers: Collection[Peer]) -> None:
        self._steady.set_aside(peers)

    def released(self, peer: Peer) -> None: ...

    def answered(self, peer: Peer, header: float, last: float, now: float, well: bool) -> None: ...

    def begin(self, peer: Peer) -> None:
        """`peer.started` was set: the peer begins anew."""
        if peer.spec.slow_start and peer in self._credit and peer not in self._starting:
            self._starting.append(peer)

    def _walk(self, tried: Collection[Peer], now: float) -> Peer | None:
        """nginx's walk (RoundRobin._walk) with the weights of this moment."""
        credit = self._credit
        best = None
        total = 0.0
        for peer in self._peers:
            if (tried and peer in tried) or (peer.max_conns and full(peer)):
                continue
            if peer.fails and suspended(peer, now):
                continue
            weight = peer.effective_weight * share(peer, now)
            credit[peer] += weight
            total += weight
            if peer.effective_weight < peer.weight:
                peer.effective_weight += 1
            if best is None or credit[peer] > credit[best]:
                best = peer
        if best is None:
            return None
        credit[best] -= total
        if now - best.checked > best.fail_timeout:
            best.checked = now
        return best
