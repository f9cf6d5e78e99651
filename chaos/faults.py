"""What can happen to backends: how each fault begins and ends, and whom it is about. Knows peers, no load balancer."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chaos.peer import Peer


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the schedule. `spared`: nginx's default `proxy_next_upstream` can save every idempotent request."""

    name: str
    begin: Callable[[Peer], None]
    end: Callable[[Peer], None]
    spared: bool = True
    all_at_once: bool = False

    def strike(self, peers: Sequence[Peer]) -> None:
        for peer in self._struck(peers):
            self.begin(peer)

    def relent(self, peers: Sequence[Peer]) -> None:
        for peer in self._struck(peers):
            self.end(peer)

    def _struck(self, peers: Sequence[Peer]) -> Sequence[Peer]:
        return peers if self.all_at_once else peers[:1]


def _well(peer: Peer) -> None:
    peer.behave("well")


def _ordered(name: str, behaviour: str, spared: bool = True) -> Fault:
    return Fault(name, lambda peer: peer.behave(behaviour), _well, spared)


def _kill(peer: Peer) -> None:
    peer.stop(signal.SIGKILL)


def _start(peer: Peer) -> None:
    peer.start()


FAULTS = (
    Fault("killed", _kill, _start),
    Fault("stopped (SIGSTOP)", lambda peer: peer.send(signal.SIGSTOP), lambda peer: peer.send(signal.SIGCONT)),
    _ordered("refusing", "refuse"),
    _ordered("resetting", "reset"),
    _ordered("accepting and silent", "silent"),
    _ordered("closing kept connections at reuse", "reuse"),
    _ordered("half a head", "half head"),
    _ordered("half an answer", "half", spared=False),
    _ordered("500 for everything", "errors", spared=False),
    _ordered("slow by degrees", "slow"),
    Fault("all killed at once", _kill, _start, spared=False, all_at_once=True),
)
"""In the order of the schedule. An answer whose head has gone to the client, or a 500, is beyond saving for all."""
