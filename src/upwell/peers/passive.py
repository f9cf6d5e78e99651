"""What real requests tell of a peer (nginx: `max_fails`, `fail_timeout`, `max_conns`). Pure changes of a Peer.

Times are seconds of any one clock. nginx counts whole seconds; with whole seconds the sequence here is nginx's.
"""

from __future__ import annotations

from upwell.peers.live import Peer, look


def suspended(peer: Peer, now: float) -> bool:
    """Whether `peer` failed too often of late to be picked: `max_fails` reached and its window not over yet."""
    return 0 < peer.max_fails <= peer.fails and now - peer.checked <= peer.fail_timeout


def full(peer: Peer) -> bool:
    """Whether `peer` has as many requests under way as it may (`max_conns`), those of all workers together."""
    return 0 < peer.max_conns <= look(peer)


def failed(peer: Peer, now: float) -> bool:
    """A request at `peer` failed. True when it has now used up `max_fails` (nginx warns then, each time again)."""
    peer.failures += 1
    peer.fails += 1
    peer.accessed = now
    peer.checked = now
    if not peer.max_fails:
        return False
    peer.effective_weight = max(peer.effective_weight - peer.weight // peer.max_fails, 0)
    return peer.fails >= peer.max_fails


def forgotten(peer: Peer) -> None:
    """The peer is up again, and its checks say so: what requests met before that says nothing any more.

    Without checks it is as in nginx, where a peer keeps its failures while it is `down`. Else each worker would give it
    one request on trial first; and were the other peers to fail during that one, answer 502 while a peer is well.
    """
    peer.fails = 0
    peer.effective_weight = peer.weight


def passed(peer: Peer) -> None:
    """A request at `peer` went well; if it was the trial after a window, the failures are forgotten."""
    if peer.accessed < peer.checked:
        peer.fails = 0
