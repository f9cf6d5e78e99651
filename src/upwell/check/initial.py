"""How a check begins, and that peers which are to begin out of use are so before anybody can pick them.

The master sees to the latter before it forks; from then on only the checker writes. Knows the zone, no probe.
"""

from __future__ import annotations

from collections.abc import Sequence

from upwell.check.spec import CheckSpec
from upwell.peers.health import Thresholds
from upwell.peers.peer import PeerSpec, UpstreamSpec
from upwell.peers.roster import Roster
from upwell.zone.table import CheckState, PeerTable


def initial(spec: CheckSpec, thresholds: Thresholds, peer: PeerSpec, known: Sequence[CheckState]) -> int:
    """The word that a check begins with; `known` are this peer's checks that nobody asks for any more: its settings
    were changed, and what was known of the peer then is worth more than `spec.initial`."""
    if known:
        return thresholds.initial(all(state.up for state in known))
    if peer.down or spec.initial == "down":
        return thresholds.initial(False)
    if spec.initial == "checking":
        return thresholds.rise - 1  # one pass away from being up
    return thresholds.initial(True)


def prepare_checks(table: PeerTable, upstreams: Sequence[UpstreamSpec], checks: Sequence[CheckSpec], now: int) -> None:
    """Take the slots of those `checks` that do not begin "up", for the checker to find; `now` is in milliseconds."""
    by_name = {spec.name: spec for spec in upstreams}
    identities = {spec.identity for spec in checks}
    for spec in checks:
        upstream = by_name.get(spec.upstream)
        if spec.initial == "up" or upstream is None:
            continue
        identity = spec.identity
        thresholds = Thresholds(spec.rise, spec.fall)
        for peer, _, row, *_ in Roster(upstream, table).members:
            if (peer.down and not spec.revives_down) or table.find_check(row, identity) >= 0:
                continue
            known = [state for state in table.checks(row) if state.identity not in identities]
            try:
                table.add_check(row, identity, thresholds.rise, initial(spec, thresholds, peer, known))
            except LookupError:
                continue  # the checker says so
            table.summarise(row, now)
