"""What an upstream does when the checks say that too few of its peers are up: `all_down`. Pure.

Primaries and backups are counted together: while a backup is up, the upstream has somebody to serve. A peer counts that
nobody switched off (in the configuration or as an operator), unless a check of it has had no verdict yet: of such a
peer nothing is known, and `mandatory` promises that it gets no request before its first pass.

`serve_all` holds while none of those that count is up, `panic` while less than the given share of them is. Then all
that count get requests, as if there were no checks. What requests hold against a peer (`max_fails`) counts as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from upwell.peers.peer import UpstreamSpec
from upwell.peers.roster import Member
from upwell.zone.layout import ADMIN_DOWN, CHECKS_NONE
from upwell.zone.table import PeerTable, may_serve

FAIL: Final = "fail"
SERVE_ALL: Final = "serve_all"
PANIC: Final = "panic"


class Standing(NamedTuple):
    """How many peers count, and how many of them are up."""

    up: int
    counted: int


def in_force(spec: UpstreamSpec, standing: Standing) -> bool:
    """Whether health is ignored."""
    up, counted = standing
    if spec.all_down == SERVE_ALL:
        return up == 0 < counted
    if spec.all_down == PANIC:
        return up * 100 < spec.panic * counted
    return False


def may_count(table: PeerTable, row: int, admin: int, configured_down: bool) -> bool:
    """Whether the peer at `row` counts; `admin` is what an operator said of it last (ADMIN_*)."""
    if admin == ADMIN_DOWN:
        return False
    if may_serve(admin, table.summary(row), configured_down):
        return True
    return may_serve(admin, CHECKS_NONE, configured_down) and not table.untried(row)


def standing_of(members: Sequence[Member], table: PeerTable) -> Standing:
    """The standing of an upstream with these members as the zone has it."""
    up = counted = 0
    for peer, _, row, *_ in members:
        admin = table.admin(row) & 3
        up += may_serve(admin, table.summary(row), peer.down)
        counted += may_count(table, row, admin, peer.down)
    return Standing(up, counted)


def ignores_health(spec: UpstreamSpec, members: Sequence[Member], table: PeerTable) -> bool:
    """Whether all peers that count get requests now, whatever their checks say: what pages tell."""
    return spec.all_down != FAIL and in_force(spec, standing_of(members, table))


def words(spec: UpstreamSpec) -> str:
    """The policy as it is configured."""
    return f"panic={spec.panic}%" if spec.all_down == PANIC else spec.all_down
