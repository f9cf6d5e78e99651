"""What a balancer is: the choice among the peers of one role that may get traffic. It knows no zone and no I/O."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from upwell.peers.live import Peer


class Balancer(Protocol):
    """One balancer serves one role (primary or backup) of one upstream in one worker."""

    def rebuild(self, peers: Sequence[Peer]) -> None:
        """Choose among `peers` from now on: those of the role that are up, in configuration order."""
        ...

    def pick(self, key: bytes | None, tried: Collection[Peer], now: float) -> Peer | None:
        """The peer for a request, or None when there is none.

        `key` is what a hashing balancer hashes; `tried` are the peers that this request met already; a peer that is
        suspended (`passive.suspended`) or full (`max_conns`) is passed over, and the window of the chosen peer moves on
        as nginx's does (`checked`).
        """
        ...

    def settle(self) -> None:
        """Write into the peers what the balancer keeps to itself: someone is about to read or change them."""
        ...
