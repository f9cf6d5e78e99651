"""What a page shows of a report: which peers, and times of day for the milliseconds of the zone. Knows no format."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from operator import not_

from upwell.check.report import UP, PeerReport, Report
from upwell.check.spec import CheckSpec
from upwell.peers.panic import ignores_health
from upwell.peers.peer import UpstreamSpec
from upwell.zone.layout import GENERATION
from upwell.zone.table import Counts

_STUCK = 5.0  # seconds without a round after which a checker is said to be stuck


class View:
    """`upstream` names the only one to show, `state` the only state of peers; empty: all. Made for one page at one
    moment: `now` and `wall` are the two clocks' seconds then.
    """

    __slots__ = ("_minutes", "_offset", "checks", "now", "report", "state", "upstream", "wall")

    def __init__(
        self, report: Report, upstream: str = "", state: str = "", now: float | None = None, wall: float | None = None
    ) -> None:
        self.report = report
        self.upstream = upstream
        self.state = state
        self.now = time.monotonic() if now is None else now
        self.wall = time.time() if wall is None else wall
        self._offset = self.wall - self.now
        self._minutes: dict[int, str] = {}  # most moments are of the last few
        self.checks: dict[int, CheckSpec] = report.checks()

    @property
    def upstreams(self) -> Iterator[UpstreamSpec]:
        return (spec for spec in self.report.upstreams if not self.upstream or spec.name == self.upstream)

    def peers(self, upstream: UpstreamSpec, troubled: bool = False) -> Iterator[PeerReport]:
        """The peers of `upstream` to show; `troubled`: only those without traffic."""
        if self.state == UP:
            return self.report.peers(upstream, self.checks, bool)
        if not self.state and not troubled:
            return self.report.peers(upstream, self.checks)
        found = self.report.peers(upstream, self.checks, not_)
        return (peer for peer in found if not self.state or peer.state == self.state)

    def counts(self, peer: PeerReport) -> Counts:
        return self.report.counts(peer)

    def suspended(self, counts: Counts) -> tuple[int, float]:
        """How many workers keep a peer out of use for failed requests, and for how many seconds more at most."""
        now = self.now * 1000
        ends = [until for until in counts.suspended if until > now]
        return len(ends), max(ends) / 1000 - self.now if ends else 0.0

    def suspension(self, counts: Counts) -> str:
        """The same in words, "" if none does."""
        workers, seconds = self.suspended(counts)
        if not workers:
            return ""
        table = self.report.table
        serving = sum(1 for worker in range(table.workers) if table.ready(worker)) or table.workers
        of = f"{workers} of {serving} workers"
        return f"requests failed: out of use in {of} for {max(seconds, 0.1):.1f} s more"

    def panics(self, upstream: UpstreamSpec) -> bool:
        """Whether its `all_down` has health ignored now."""
        return ignores_health(upstream, self.report.members(upstream), self.report.table)

    # The checker

    @property
    def heartbeat_age(self) -> float | None:
        """Seconds since the checker last went round its loop, None: it never has."""
        beat = self.report.table.checker_heartbeat
        return max(self.now - beat / 1000, 0.0) if beat else None

    @property
    def lateness(self) -> float:
        """Seconds that the checker's last due work began too late."""
        return self.report.table.checker_lateness / 1e6

    @property
    def last_void(self) -> tuple[float, str] | None:
        """When (seconds ago) and why the last probe got no verdict, for trouble of the checker's machine."""
        probes, at, why = self.report.table.voids
        return (max(self.now - at / 1000, 0.0), why) if probes else None

    @property
    def checker_state(self) -> str:
        """ "running", "stuck" or "not started"."""
        age = self.heartbeat_age
        if age is None:
            return "not started"
        return "running" if age < _STUCK else "stuck"

    @property
    def generation(self) -> int:
        return self.report.table.words[GENERATION]

    # Times

    def age(self, millis: int) -> float:
        """Seconds since a moment in the zone."""
        return self.now - millis / 1000

    def unix(self, millis: int) -> float:
        """A moment in the zone as seconds since 1970."""
        return millis / 1000 + self._offset

    def moment(self, millis: int) -> str | None:
        """A moment in the zone as RFC 3339 says it, in UTC; None for 0, which is none."""
        if not millis:
            return None
        minute, part = divmod(round(millis + self._offset * 1000), 60_000)
        start = self._minutes.get(minute)
        if start is None:
            start = self._minutes[minute] = rfc3339(minute * 60)[:-7]
        return f"{start}{part // 1000:02d}.{part % 1000:03d}Z"


def rfc3339(seconds: float) -> str:
    """Seconds since 1970 as "2026-11-22T13:19:01.123Z"."""
    whole, part = divmod(round(seconds * 1000), 1000)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{part:03d}Z"


def node() -> str:
    """The name of this machine."""
    return os.uname().nodename
