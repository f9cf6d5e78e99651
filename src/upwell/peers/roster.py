"""Who belongs to an upstream now: its configuration's peers, and what the checker changed of that since. Only reads.

Each process has a roster of its own for each upstream; what happened is in the zone (the list's owner writes it there:
peers/membership.py), so it is the same for all of them, and for those that begin later.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, fields
from typing import Any, Final, NamedTuple

from upwell.peers.peer import PeerKey, PeerSpec, UpstreamSpec, peer_keys
from upwell.zone.table import PeerTable


class Member(NamedTuple):
    """A peer that belongs to an upstream; `row` is its place in the zone. `serial` is another one after each change of
    `spec` at run time, 0: it is the configuration's. `joined` orders those that joined, 0 for the configuration's."""

    spec: PeerSpec
    key: PeerKey
    row: int
    serial: int = 0
    joined: int = 0


class Roster:
    """The members of one upstream: the configuration's in its order, then the others as they joined.

    Raises KeyError when `table` has no row for a peer of the configuration.
    """

    __slots__ = ("_by_row", "_members", "_table", "upstream")

    def __init__(self, spec: UpstreamSpec, table: PeerTable) -> None:
        self.upstream = spec.name
        self._table = table
        self._by_row: dict[int, Member] = {}  # in the order of the members
        for peer, key in zip(spec.peers, peer_keys(spec), strict=True):
            row = table.row_at_first(key)
            self._by_row[row] = Member(peer, key, row)
        self._members: tuple[Member, ...] | None = tuple(self._by_row.values())
        self.refresh()

    def __repr__(self) -> str:
        return f"<Roster {self.upstream} {len(self._by_row)} peers>"

    @property
    def members(self) -> tuple[Member, ...]:
        """All of them in their order."""
        members = self._members
        if members is None:
            members = self._members = tuple(self._by_row.values())
        return members

    def refresh(self, rows: Collection[int] | None = None) -> list[int]:
        """Read again what rows say (`rows`: those that changed, None: all). Returns the rows of this upstream whose
        member is another one now, or none any more, or has other settings."""
        table = self._table
        by_row = self._by_row
        if rows is None:
            rows = range(table.rows_used) if table.members_changed else ()
        joined: list[Member] = []
        found = []
        for row in rows:
            before = by_row.get(row)
            if table.member_serial(row) == (before.serial if before is not None else 0):
                continue
            text = table.member(row)
            if text.of == self.upstream:
                member = _read(text.text, row, text.serial, text.of)
                table.know(row, member.key)
                if before is not None and before.key == member.key:
                    by_row[row] = member
                else:
                    if before is not None:
                        del by_row[row]
                    joined.append(member)
            elif before is not None:
                del by_row[row]
                if table.keys[row] == before.key:
                    table.know(row, None)
            else:
                continue
            found.append(row)
        for member in sorted(joined, key=_order):
            by_row[member.row] = member
        if found:
            self._members = None
        return found

    def get(self, row: int) -> Member | None:
        """The member that has the row."""
        return self._by_row.get(row)

    def find(self, key: PeerKey) -> Member | None:
        """The member of that identity."""
        try:
            return self._by_row.get(self._table.row(key))
        except KeyError:
            return None


def _order(member: Member) -> tuple[int, int]:
    return member.joined, member.row


_FIELDS: Final = {one.name: one.default for one in fields(PeerSpec)}


def message_of(spec: PeerSpec) -> dict[str, Any]:
    """The spec for JSON: what is not as it is anyway."""
    return {name: value for name, value in asdict(spec).items() if value != _FIELDS[name]}


def describe(spec: PeerSpec, ordinal: int, joined: int) -> bytes:
    """A member as text for the zone."""
    return json.dumps({"ordinal": ordinal, "joined": joined, **message_of(spec)}, separators=(",", ":")).encode()


def spec_of(message: dict[str, Any]) -> PeerSpec:
    """The spec in a message. Raises TypeError or ValueError for one that makes no sense."""
    address = message["address"]
    return PeerSpec(**{**message, "address": address if isinstance(address, str) else (address[0], address[1])})


def _read(text: bytes, row: int, serial: int, upstream: str) -> Member:
    message = json.loads(text)
    ordinal, joined = message.pop("ordinal"), message.pop("joined")
    spec = spec_of(message)
    return Member(spec, PeerKey(upstream, spec.role, spec.name, ordinal), row, serial, joined)
