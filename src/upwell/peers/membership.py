"""The owner of each upstream's list of peers: they join, leave and change at run time. Only the checker has one.

It writes into the zone, from which every process reads it (peers/roster.py); nobody needs to be told. What it means for
checks is the checker's business, for requests each worker's. Pure: no clock, no I/O but the zone's memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from upwell.peers.peer import STREAM, PeerKey, PeerSpec, UpstreamSpec
from upwell.peers.roster import Member, Roster, describe
from upwell.peers.server_lines import objection, senseless
from upwell.zone.table import PeerTable

_LOOKS: Final = 64  # rows that are looked at, before a new one is taken, for one that no worker holds

SPARE: Final = 4096
"""Rows of the zone for peers that join, at least; one that nobody needed costs no memory."""


class Refused(ValueError):
    """The list cannot be changed so; the text is a sentence that says why."""


class NoRoom(Refused):
    """The zone has no row for one more peer now; there may be one once workers have heard of those that left."""


class Membership:
    """All upstreams. The caller publishes what it changed (`PeerTable.publish`), once for any number of changes."""

    __slots__ = ("_free", "_joined", "_listed", "_table", "rosters")

    def __init__(self, table: PeerTable, upstreams: Iterable[UpstreamSpec]) -> None:
        upstreams = tuple(upstreams)
        self._table = table
        self._listed = {spec.name: spec for spec in upstreams if spec.state}
        self.rosters = {spec.name: Roster(spec, table) for spec in upstreams}
        taken = {member.row for roster in self.rosters.values() for member in roster.members}
        if table.members_changed or table.checker_epoch:
            # The one before may have been killed between a change and its announcement.
            for row in range(table.rows_used):
                table.touch(row, True)
                table.touch(row)
            table.publish()
        free = [row for row in range(table.configured, table.rows_used) if row not in taken]
        self._free = deque((row, table.changes) for row in free)  # and with which change their last peer left
        self._joined = max((m.joined for roster in self.rosters.values() for m in roster.members), default=0)

    def __repr__(self) -> str:
        return f"<Membership {len(self.rosters)} upstreams>"

    def members(self, upstream: str) -> tuple[Member, ...]:
        """Raises Refused for an upstream that is not there."""
        return self._roster(upstream).members

    def find(self, key: PeerKey) -> Member:
        """Raises Refused for a peer that does not belong to its upstream."""
        member = self._roster(key.upstream).find(key)
        if member is None:
            raise Refused(f'no {key.role} peer "{key.name}" in upstream "{key.upstream}"')
        return member

    def row_for(self, upstream: str) -> int:
        """A clean row of the zone for a peer that is about to join. Raises NoRoom when all are in use."""
        self._roster(upstream)
        table = self._table
        for _ in range(min(len(self._free), _LOOKS)):
            row, left = self._free[0]
            if not table.is_held(row, left):
                self._free.popleft()
                table.clean_row(row)
                return row
            self._free.rotate(-1)
        if table.rows_used >= table.layout.row_count:
            spare = table.layout.row_count - table.configured
            raise NoRoom(f'no room for one more peer in upstream "{upstream}": {spare} joined since the last reload')
        table.clean_row(table.rows_used)  # the one before may have been killed before its peer joined
        return table.rows_used

    def key_for(self, upstream: str, spec: PeerSpec) -> PeerKey:
        """The identity that a peer which joins gets: of equal ones the first number that is free."""
        roster = self._roster(upstream)
        ordinal = 0
        while True:
            key = PeerKey(upstream, spec.role, spec.name, ordinal)
            if roster.find(key) is None:
                return key
            ordinal += 1

    def join(self, key: PeerKey, spec: PeerSpec, row: int) -> Member:
        """A peer begins to belong to its upstream, in a row of `row_for` where all that has to be known of it stands.
        Raises Refused when its description is too long."""
        self._joined += 1
        try:
            self._write(key, spec, row, self._joined)
        except Refused:
            self._table.clean_row(row)
            if self._table.configured <= row < self._table.rows_used:
                self._free.append((row, 0))
            raise
        return self.find(key)

    def leave(self, key: PeerKey) -> Member:
        """A peer ends to belong to its upstream. Raises Refused."""
        member = self.find(key)
        table = self._table
        self._note(key.upstream, member.spec, stays=False)
        table.set_member(member.row, "", b"")
        self.rosters[key.upstream].refresh((member.row,))
        if member.row >= table.configured:
            self._free.append((member.row, table.changes))
        return member

    def change(self, key: PeerKey, **fields: object) -> Member:
        """Other settings for a peer that stays. Raises Refused, also for a setting that makes it another peer."""
        member = self.find(key)
        if fields.keys() & {"name", "address", "backup"}:
            raise Refused("a peer with another address or role is another peer")
        try:
            spec = replace(member.spec, **fields)  # type: ignore[arg-type]  # whatever does not fit is refused below
        except TypeError as error:
            wrong = ", ".join(sorted(fields.keys() - PeerSpec.__dataclass_fields__.keys()))
            raise Refused(f"a peer has no setting {wrong}" if wrong else f"invalid setting: {error}") from None
        if spec == member.spec:
            return member
        self._write(key, spec, member.row, member.joined)
        return self.find(key)

    def _write(self, key: PeerKey, spec: PeerSpec, row: int, joined: int) -> None:
        table = self._table
        wrong = senseless(spec)
        if wrong:
            raise Refused(wrong)
        self._note(key.upstream, spec, stays=True)
        try:
            table.set_member(row, key.upstream, describe(spec, key.ordinal, joined))
        except ValueError as error:
            raise Refused(str(error)) from None
        self.rosters[key.upstream].refresh((row,))

    def _note(self, upstream: str, peer: PeerSpec, stays: bool) -> None:
        """`peer` is about to join, to leave or to change: if a file keeps the list, and it is not there as a line whose
        peers come and go, the file is behind from now on. Before the change, as its author may be killed in the middle
        of it. Raises Refused for a peer that the file could not say."""
        spec = self._listed.get(upstream)
        if spec is None or any(line.server == peer.server for line in spec.lines):
            return
        wrong = objection(peer, spec.method, spec.name.startswith(STREAM)) if stays else ""
        if wrong:
            raise Refused(wrong)
        self._table.note_list(upstream)

    def _roster(self, upstream: str) -> Roster:
        roster = self.rosters.get(upstream)
        if roster is None:
            raise Refused(f'no upstream "{upstream}"')
        return roster


def carry(table: PeerTable, upstreams: Iterable[UpstreamSpec], old: PeerTable, before: Iterable[UpstreamSpec]) -> None:
    """Let peers that joined for a line of the configuration (`UpstreamSpec.lines`) in the generation before stay in
    this one, if the line is still there. By the master, before it forks and before `table` adopts what `old` knows:
    it learns here whose rows there are, as the configuration may name who joined."""
    if not old.members_changed:
        return
    upstreams = tuple(upstreams)
    rosters = {spec.name: Roster(spec, old) for spec in before}
    membership = Membership(table, upstreams)
    for spec in upstreams:
        roster = rosters.get(spec.name)
        if roster is None or not spec.lines:
            continue
        for member in roster.members:
            now = _resumed(member.spec, [line for line in spec.lines if line.server == member.spec.server])
            if now is None or membership.rosters[spec.name].find(member.key) is not None:
                continue
            try:
                row = membership.row_for(spec.name)
                table.know(row, member.key)
                membership.join(member.key, now, row)
            except Refused:
                return  # the next answers say who else belongs here, and why it cannot


def _resumed(before: PeerSpec, lines: Sequence[PeerSpec]) -> PeerSpec | None:
    """What a peer of these lines is told to be now; None when it is none of theirs. Lines of services do not say which
    of their peers are backups and, unless they name one, which weight they have."""
    for line in lines:
        service = " service=" in line.server  # as modules/upstream.py writes it
        if line.backup == before.backup or (service and before.backup):
            weight = before.weight if service and line.weight == 1 else line.weight
            return replace(line, name=before.name, address=before.address, backup=before.backup, weight=weight)
    return None
