"""`slow_start`: a peer that comes back, or is new, gets its share little by little (NGINX Plus). Pure.

A peer begins anew when its checks find it up again, when a request finds it well again after a `fail_timeout`, when an
operator switches it on again, and when a reload adds it to an upstream that is there. Its weight then grows evenly
from nearly 0 to what it is, within its `slow_start`. What counts is the weight beside the others': where all of them
begin at the same time, or one is alone, nobody is held back. So nothing happens at a start.
"""

from __future__ import annotations

from typing import Final

from upwell.peers.live import Peer

_LEAST: Final = 0.01  # of its weight, so that one which began just now gets a request at all


def share(peer: Peer, now: float) -> float:
    """How much of its weight the peer has at `now`, up to 1.0."""
    period = peer.spec.slow_start
    passed = now - peer.started
    if period <= 0.0 or passed >= period or peer.started <= 0.0:
        return 1.0
    return max(passed / period, _LEAST)
