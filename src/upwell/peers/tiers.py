"""Tiers of primaries (`server ... tier=0..9`): which of them get requests. Pure.

The first tier is always in use. The next one joins while too small a share of the peers of those in use is healthy, and
so on; by default only when none of them is, as backups do in nginx. Backups come after all tiers.
"""

from __future__ import annotations

from collections.abc import Iterable

from upwell.peers.live import Peer


def last_in_use(peers: Iterable[tuple[int, bool]], threshold: int) -> int:
    """The last tier in use, where each of `peers` is of a tier and fit for new requests or not. A further one joins
    while less than `threshold` percent of all peers up to there are fit."""
    members: dict[int, list[int]] = {}
    for tier, fit in peers:
        standing = members.setdefault(tier, [0, 0])
        standing[0] += fit
        standing[1] += 1
    fit_so_far = all_so_far = last = 0
    for last in sorted(members):
        fit_so_far += members[last][0]
        all_so_far += members[last][1]
        if fit_so_far * 100 >= threshold * all_so_far:
            break
    return last


def choice(peers: Iterable[Peer]) -> list[Peer]:
    """Those that get new requests. One that drains gets only those of sessions that are bound to it."""
    return [peer for peer in peers if peer.up and not peer.spec.drain]


def split(peers: Iterable[Peer], threshold: int) -> tuple[int, dict[int, list[Peer]]]:
    """The last tier in use, and the peers of each tier behind it, by tier in their order."""
    known = list(peers)
    last = last_in_use([(peer.spec.tier, peer.healthy and not peer.spec.drain) for peer in known], threshold)
    behind: dict[int, list[Peer]] = {}
    for tier in sorted({peer.spec.tier for peer in known if peer.spec.tier > last}):
        behind[tier] = [peer for peer in known if peer.spec.tier == tier]
    return last, behind
