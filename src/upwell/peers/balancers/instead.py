"""Round robin for when a key or chance finds nobody: nginx's rule after 20 attempts in vain, and for an empty key."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from upwell.peers.balancers.balancer import Chance
from upwell.peers.balancers.round_robin import RoundRobin
from upwell.peers.live import Peer
from upwell.peers.peer import Method


class Instead:
    """A round robin that is made ready when it is asked: seldom, and peers may come and go often."""

    __slots__ = ("_peers", "_ready", "_turns", "_up")

    def __init__(self, method: Method, chance: Chance) -> None:
        self._turns = RoundRobin(method, chance)
        self._peers: Sequence[Peer] = ()
        self._up: Sequence[Peer] = ()
        self._ready = True

    def __repr__(self) -> str:
        return f"<Instead {len(self._up)} peers>"

    def rebuild(self, peers: Sequence[Peer], up: Sequence[Peer]) -> None:
        self._turns.settle()
        self._peers = peers
        self._up = up
        self._ready = False

    def pick(self, tried: Collection[Peer], now: float) -> Peer | None:
        self._prepare()
        return self._turns.pick(None, tried, now)

    def bound(self, peer: Peer, tried: Collection[Peer], now: float) -> None:
        """A request goes to `peer` that round robin would have decided on, had it no session (Balancer.bound)."""
        self._prepare()
        self._turns.bound(peer, None, tried, now)

    def settle(self) -> None:
        if self._ready:
            self._turns.settle()

    def _prepare(self) -> None:
        if not self._ready:
            self._ready = True
            self._turns.rebuild(self._peers, self._up)
