"""What this worker's pages can tell of peers and their checks, read from the zone when somebody asks. Knows no page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from upwell.check.spec import TENGINE, CheckSpec
from upwell.modules.check_status import Line
from upwell.peers.peer import PeerSpec, UpstreamSpec, peer_keys
from upwell.zone.table import CheckState, PeerTable


class Row(NamedTuple):
    """One peer: its row in the zone, and what the configuration says of it."""

    row: int
    spec: PeerSpec


class Status:
    """`sent` gives the checks that this worker had started (Lua), by identity; `named` are the configuration's."""

    __slots__ = ("_named", "_sent", "peers", "table", "upstreams")

    def __init__(
        self,
        table: PeerTable,
        upstreams: Sequence[UpstreamSpec],
        named: Sequence[CheckSpec],
        sent: Callable[[], Mapping[int, CheckSpec]],
    ) -> None:
        self.table = table
        self.upstreams = tuple(upstreams)
        self.peers: dict[str, tuple[Row, ...]] = {
            spec.name: tuple(Row(table.row(key), peer) for peer, key in zip(spec.peers, peer_keys(spec), strict=True))
            for spec in upstreams
        }
        """By upstream, in the order of the configuration."""
        self._named = {spec.identity: spec for spec in named}
        self._sent = sent

    def __repr__(self) -> str:
        return f"<Status {len(self.upstreams)} upstreams>"

    def checks(self) -> dict[int, CheckSpec]:
        """Every check that is known here, by identity."""
        return {**self._named, **self._sent()}

    def states(self, row: int, checks: Mapping[int, CheckSpec]) -> Iterator[tuple[CheckSpec, CheckState]]:
        """The checks of the peer at `row` that are among `checks`, and how they stand."""
        for state in self.table.checks(row):
            spec = checks.get(state.identity)
            if spec is not None:
                yield spec, state


def check_lines(status: Status) -> list[Line]:
    """Tengine's list: the peers of upstreams with a `check`, primaries before backups, all numbered through."""
    named = {identity: spec for identity, spec in status.checks().items() if spec.dialect == TENGINE}
    checked = {spec.upstream for spec in named.values()}
    lines: list[Line] = []
    for upstream in status.upstreams:
        if upstream.name not in checked:
            continue
        for row, peer in sorted(status.peers[upstream.name], key=lambda one: one.spec.backup):
            for spec, state in status.states(row, named):
                streak = status.table.record(row, state.slot).streak
                lines.append(
                    Line(
                        len(lines),
                        upstream.name,
                        peer.name,
                        state.up,
                        max(streak, 0),
                        max(-streak, 0),
                        spec.type,
                        spec.port,
                    )
                )
    return lines
