"""A reload that only says otherwise who belongs to upstreams: what the checker is to be told, so that no process has to
start anew. Knows specs and the zone's table, no file and no process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from upwell.peers.peer import Method, PeerKey, PeerSpec, UpstreamSpec, peer_keys
from upwell.peers.roster import Roster, describe
from upwell.peers.server_lines import senseless
from upwell.process.control import Message
from upwell.process.handover import settled
from upwell.zone.layout import ROOM_OF_MEMBER
from upwell.zone.table import PeerTable

_NAMED = 5  # upstreams in one line of the log


@dataclass(slots=True)
class Difference:
    """What to say (`handover.Orders.write`), and how many peers of which upstreams join, leave and change by that."""

    orders: list[Message] = field(default_factory=list)
    counts: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """For the log."""
        parts = [
            f'"{name}" ({", ".join(f"{count} {what}" for what, count in zip(_WHAT, counts, strict=True) if count)})'
            for name, counts in self.counts.items()
            if any(counts)
        ]
        if not parts:
            return "all peers are as the configuration says already"
        more = f" and {len(parts) - _NAMED} more" if len(parts) > _NAMED else ""
        return f"peers of {', '.join(parts[:_NAMED])}{more}"


_WHAT = ("joined", "left", "changed")


def difference(
    plan: Sequence[UpstreamSpec], table: PeerTable, before: Sequence[UpstreamSpec], now: Sequence[UpstreamSpec]
) -> Difference | None:
    """What has to happen in `table`, which was made for `plan`, when the configuration does not say `before` any more
    but `now`, with the same upstreams. None: that is a matter for new workers, or nothing differs."""
    found = Difference()
    differs = False
    room = table.layout.row_count - table.rows_used
    for made, old, new in zip(plan, before, now, strict=True):
        if old.peers == new.peers and not new.state:
            continue
        if not _compare(Roster(made, table), old, new, found):
            return None
        differs = differs or not new.state
        room -= found.counts[new.name][0]
    return found if differs and room >= 0 else None


def _compare(roster: Roster, old: UpstreamSpec, new: UpstreamSpec, found: Difference) -> bool:
    """Add what one upstream needs to `found`; false if workers cannot have it while they run."""
    lines = {line.server for line in new.lines}
    named = {member.key for member in roster.members if member.spec.server in lines}
    current = {member.key: member.spec for member in roster.members if member.key not in named}
    target = dict(zip(peer_keys(new), new.peers, strict=True))
    found.counts[new.name] = (0, 0, 0)
    if new.state:
        # A list in a file may be one that somebody wrote, with his words in it: it is only read.
        return list(target.items()) == list(current.items())
    joined = [key for key in target if key not in current]
    left = [key for key in current if key not in target]
    changed = [key for key, spec in target.items() if key in current and current[key] != spec]
    moved = [*(key for key in current if key in target), *joined] != list(target)
    if not named.isdisjoint(target) or any(_too_much(target[key], key) for key in joined + changed):
        return False
    if moved and (_goes_by_order(new.method) or not (joined or left or changed)):
        return False
    if named and joined and _goes_by_order(new.method):
        return False  # who is known by a name would come before them
    # Also what an order that is still under way may have made of it. First who comes: somebody is always there.
    was = dict(zip(peer_keys(old), old.peers, strict=True))
    found.orders += [settled(key, spec) for key, spec in target.items() if not current.get(key) == spec == was.get(key)]
    kept = named | target.keys()
    found.orders += [settled(key, None) for key in dict.fromkeys((*current, *was)) if key not in kept]
    found.counts[new.name] = (len(joined), len(left), len(changed))
    return True


def _goes_by_order(method: Method) -> bool:
    """Whether keys find their peers by the place in the list."""
    return method.name == "ip_hash" or (method.name == "hash" and not method.consistent)


def _too_much(spec: PeerSpec, key: PeerKey) -> bool:
    """Whether the zone cannot say of a peer what the configuration can."""
    return bool(senseless(spec)) or len(describe(spec, key.ordinal, 1 << 62)) > ROOM_OF_MEMBER
