"""How peers and their checks stand, read from the zone for whoever makes a page. Knows no page and no directive.

Times of day are milliseconds of the checker's clock (`time.monotonic`), durations microseconds, as in the zone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from struct import Struct
from typing import Final

from upwell.check.probe import KINDS
from upwell.check.spec import CheckSpec
from upwell.peers.peer import PeerKey, PeerSpec, UpstreamSpec
from upwell.peers.roster import Member, Roster
from upwell.peers.tiers import last_in_use
from upwell.zone.layout import (
    ADMIN_DOWN,
    ADMIN_UP,
    CHECK_WORDS,
    CHECKS_PER_PEER,
    CHECKS_UP,
    PEER_ADMIN,
    PEER_CHANGES,
    PEER_CHECKS,
    PEER_SINCE,
    PEER_WORDS,
    WORD_BYTES,
)
from upwell.zone.records import Record, read_check
from upwell.zone.resolvers import ResolverTable
from upwell.zone.table import Counts, PeerTable, may_serve

_ROW: Final = Struct(f"@{PEER_WORDS}q" + f"q{(CHECK_WORDS - 1) * WORD_BYTES}x" * CHECKS_PER_PEER).unpack_from
"""A peer's own words, and which check is in each slot."""

_COUNTED: Final = 1000  # peers at once

UP: Final = "up"
DOWN: Final = "down"
CHECKING: Final = "checking"


class CheckReport:
    """One check of one peer. `state` is UP, DOWN, or CHECKING: its first verdict is awaited, and till then there is no
    traffic. `since` is when it turned to that state, 0: it never turned. `at`, `status` and `latency` are the last
    probe's, 0 before the first; whether it passed is the sign of `record.streak`."""

    __slots__ = ("at", "fails", "latency", "passes", "record", "since", "spec", "state", "status")

    def __init__(
        self,
        spec: CheckSpec,
        state: str,
        since: int,
        at: int,
        status: int,
        latency: int,
        passes: int,
        fails: int,
        record: Record,
    ) -> None:
        self.spec = spec
        self.state = state
        self.since = since
        self.at = at
        self.status = status
        self.latency = latency
        self.passes = passes
        self.fails = fails
        self.record = record

    def __repr__(self) -> str:
        return f"<CheckReport {self.spec.title} {self.state}>"

    @property
    def passed(self) -> bool | None:
        """Whether the last probe passed, None before the first."""
        return self.record.streak > 0 if self.at else None

    @property
    def void(self) -> str:
        """Why the last probe got no verdict, for trouble of the checker's machine; "" if it got one."""
        record = self.record
        return record.void_why if record.void_at and record.void_at >= self.at else ""

    @property
    def kind(self) -> str:
        """The kind of the last failure, "" without one."""
        return KINDS[self.record.kind] if self.record.kind >= 0 else ""


class PeerReport:
    """One peer. `state` is UP when it may get traffic, else DOWN or CHECKING; `why` says what keeps it down. `admin` is
    what an operator said last: "", "down", "up". `since` is when its checks together last changed, 0: never. `label`
    is its name, told apart from others of the same name and role."""

    __slots__ = ("admin", "changes", "checks", "label", "row", "since", "spec", "state", "why")

    def __init__(
        self,
        spec: PeerSpec,
        label: str,
        row: int,
        state: str,
        why: str,
        admin: str,
        since: int,
        changes: int,
        checks: list[CheckReport],
    ) -> None:
        self.spec = spec
        self.label = label
        self.row = row
        self.state = state
        self.why = why
        self.admin = admin
        self.since = since
        self.changes = changes
        self.checks = checks

    def __repr__(self) -> str:
        return f"<PeerReport {self.label} {self.state}>"


class Report:
    """`sent` gives the checks that this worker had started (Lua), by identity; `named` are the configuration's.
    `lookups` is what was counted of names (zone/resolvers.py), `sticky` how sessions are bound in the upstreams of
    these names, as pages tell it."""

    __slots__ = ("_named", "_rosters", "_seen", "_sent", "lookups", "sticky", "table", "upstreams")

    def __init__(
        self,
        table: PeerTable,
        upstreams: Sequence[UpstreamSpec],
        named: Sequence[CheckSpec],
        sent: Callable[[], Mapping[int, CheckSpec]],
        lookups: ResolverTable | None = None,
        sticky: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        self.table = table
        self.sticky: Mapping[str, Mapping[str, object]] = {} if sticky is None else sticky
        self.lookups = ResolverTable((), 0) if lookups is None else lookups
        self.upstreams = tuple(upstreams)
        self._rosters = {spec.name: Roster(spec, table) for spec in upstreams}
        self._seen = table.changes
        self._named = {spec.identity: spec for spec in named}
        self._sent = sent

    def __repr__(self) -> str:
        return f"<Report {len(self.upstreams)} upstreams>"

    def checks(self) -> dict[int, CheckSpec]:
        """Every check that is known here, by identity."""
        return {**self._named, **self._sent()}

    def peers(
        self, upstream: UpstreamSpec, checks: dict[int, CheckSpec], wanted: Callable[[bool], bool] | None = None
    ) -> Iterator[PeerReport]:
        """The peers of `upstream` in the order of the configuration, with those of their checks that `checks` has; only
        those of which `wanted` says so, when told whether they may get traffic."""
        for spec, key, row, _, _ in self.members(upstream):
            if wanted is None or wanted(self.table.is_up(row, spec.down)):
                yield self._peer(spec, _label(key), row, checks)

    def up(self, upstream: UpstreamSpec) -> Iterator[int]:
        """How many of its peers may get traffic, so far: the last number is that of all. Counting thousands takes
        milliseconds."""
        words, layout, up = self.table.words, self.table.layout, 0
        first, step = layout.row(0), layout.row_words
        for number, member in enumerate(self.members(upstream)):
            if not number % _COUNTED:
                yield up
            at = first + member.row * step
            admin, summary = words[at + PEER_ADMIN] & 3, words[at + PEER_CHECKS]
            # What nearly all are is seen without a call.
            up += admin != ADMIN_DOWN if summary == CHECKS_UP else may_serve(admin, summary, member.spec.down)
        yield up

    def members(self, upstream: UpstreamSpec) -> tuple[Member, ...]:
        """Who belongs to `upstream` now."""
        if self.table.changes != self._seen:
            self._seen, entries = self.table.changed_since(self._seen)
            rows = None if entries is None else [-1 - entry for entry in entries if entry < 0]
            for roster in self._rosters.values():
                roster.refresh(rows)
        return self._rosters[upstream.name].members

    def tiers(self, upstream: UpstreamSpec) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """The tiers of `upstream` that are in use, and those that are not; None where there is only one."""
        primaries = [(spec, row) for spec, _, row, *_ in self.members(upstream) if not spec.backup]
        tiers = sorted({spec.tier for spec, _ in primaries})
        if len(tiers) < 2:
            return None
        fit = [(spec.tier, self.table.is_up(row, spec.down) and not spec.drain) for spec, row in primaries]
        last = last_in_use(fit, upstream.tier_threshold)
        return tuple([tier for tier in tiers if tier <= last]), tuple([tier for tier in tiers if tier > last])

    def counts(self, peer: PeerReport) -> Counts:
        """What all workers counted for `peer`."""
        return self.table.counts(peer.row)

    def _peer(self, spec: PeerSpec, label: str, row: int, checks: dict[int, CheckSpec]) -> PeerReport:
        table = self.table
        words = table.words
        start = table.layout.row(row)
        head = _ROW(words, start * WORD_BYTES)
        admin, summary, since, changes = head[PEER_ADMIN] & 3, head[PEER_CHECKS], head[PEER_SINCE], head[PEER_CHANGES]
        found: list[CheckReport] = []
        for slot, identity in enumerate(head[PEER_WORDS:]):
            check = checks.get(identity) if identity else None
            if check is not None:
                at = start + PEER_WORDS + slot * CHECK_WORDS
                told = read_check(words, at, table.record_at(row, slot))
                _, rise, health, last, status, latency, passes, fails, turned = told
                record = table.record(row, slot)
                if health >= rise:
                    state = UP
                elif not last and check.initial == "checking":
                    state = CHECKING
                else:
                    state = DOWN
                found.append(CheckReport(check, state, turned, last, status, latency, passes, fails, record))
        if may_serve(admin, summary, spec.down):
            state, why = UP, ""
        else:
            state, why = _why_not(admin, spec, found)
        said = _ADMIN.get(admin, "")
        return PeerReport(spec, label, row, state, why, said, since, changes, found)


def _label(key: PeerKey) -> str:
    return f"{key.name} #{key.ordinal + 1}" if key.ordinal else key.name


_ADMIN: Final = {ADMIN_DOWN: "down", ADMIN_UP: "up"}


def _why_not(admin: int, spec: PeerSpec, checks: Sequence[CheckReport]) -> tuple[str, str]:
    """The state of a peer that gets no traffic, and what keeps it so."""
    if admin == ADMIN_DOWN:
        return DOWN, "switched off by an operator"
    failing = [check for check in checks if check.state == DOWN]
    if failing:
        check = failing[0]
        return DOWN, check.record.why or "not passed yet"
    if any(check.state == CHECKING for check in checks):
        return CHECKING, "waits for its first check"
    return DOWN, "configured down" if spec.down else "down by a check that is not known here"
