"""What a balancer is: the choice among the peers of one role that may get traffic. It knows no zone and no I/O."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from upwell.peers.live import Peer
from upwell.peers.passive import full, suspended

Chance = Callable[[], float]
"""Gives a number from 0.0 up to 1.0, without it, each as likely as the others."""


class Balancer(Protocol):
    """One balancer serves one role (primary or backup) of one upstream in one worker.

    It is made with the upstream's Method, and with a Chance for what is left to it.
    """

    watches: bool
    """Whether it is to be told of connections given back (`released`) and of answers' times (`answered`)."""

    def rebuild(self, peers: Sequence[Peer], up: Sequence[Peer]) -> None:
        """Choose among `up` from now on: those of `peers`, in their order, that may get requests.

        `peers` are all of the role. It is the same object as at the last call as long as nobody joined, left or
        changed its weight: what is costly to make of them (a ring of hashes) can be kept then.
        """
        ...

    def pick(self, key: bytes | None, tried: Collection[Peer], now: float) -> Peer | None:
        """The peer for a request, or None when there is none.

        `key` is what a hashing balancer hashes; `tried` are the peers that this request met already; a peer that is
        suspended or full (`passive.suspended`, `passive.full`) is passed over, and the window of the chosen peer moves
        on as nginx's does (`checked`). The caller counts the request in `peer.connections` afterwards.
        """
        ...

    def bound(self, peer: Peer, key: bytes | None, tried: Collection[Peer], now: float) -> None:
        """A request goes to `peer` that was not picked here: its session is bound to it. It may be one that is up and
        yet not among those to choose from, because it drains. What `pick` does to the peer that it gives is done here,
        and the caller counts the request in `peer.connections` afterwards too. `key` is what `pick` would be given.
        """
        ...

    def settle(self) -> None:
        """Write into the peers what the balancer keeps to itself: someone is about to read or change them."""
        ...

    def set_aside(self, peers: Collection[Peer]) -> None:
        """The same where only `peers` are about to change; `rebuild` is next. Not called where it `watches`."""
        ...

    def released(self, peer: Peer) -> None:
        """A request at `peer` ended: its `connections` are one less now. Only called where it `watches`.

        Afterwards the caller may count a failure of it: what `settle` does has been done for this one peer.
        """
        ...

    def answered(self, peer: Peer, header: float, last: float, now: float, well: bool) -> None:
        """A request at `peer` was answered: `header` seconds after it was sent there the answer's head had come,
        `last` seconds after it the last byte. Not `well`: it failed then, or its status was 5xx; that says nothing of
        how fast the peer is. Only called where it `watches`, and before `released`."""
        ...


def unfit(peer: Peer, now: float) -> bool:
    """Whether `peer` is passed over at `now`, though it may get requests: it is full, or failed too often of late."""
    if peer.max_conns and full(peer):
        return True
    return peer.fails > 0 and suspended(peer, now)


def moderate(peers: Sequence[Peer], whole: int) -> None:
    """Have nobody be owed more than a round of all weights, `whole` of `peers`, and nobody owe more.

    No walk ever makes it more. Where weights are less than before it is, and one peer would have all requests until
    what the others owe by weights that are gone is paid back.
    """
    most = max([abs(peer.current_weight) for peer in peers], default=0)
    if most > whole:
        for peer in peers:
            peer.current_weight = int(peer.current_weight * whole / most)


def chosen(peer: Peer, now: float) -> Peer:
    """`peer`, whose window of `fail_timeout` moves on if it is over."""
    if now - peer.checked > peer.fail_timeout:
        peer.checked = now
    return peer
