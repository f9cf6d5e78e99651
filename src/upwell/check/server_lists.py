"""The lists of peers that upstreams keep in files (`state`): written anew whenever somebody joined, left or changed.

What the zone says counts. It also says which changes a file has, so a checker that is killed leaves the rest to its
successor, and the master knows before a reload what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from upwell.check.listener import Listener
from upwell.check.replaced import NotOurs, Replaced, alone, read_file, replace_file
from upwell.log import ErrorLog
from upwell.peers.peer import UpstreamSpec
from upwell.peers.roster import Member, Roster
from upwell.peers.server_lines import text_of
from upwell.zone.table import PeerTable

_DELAY: Final = 0.02  # seconds; whoever changes one peer often changes a few


class ServerLists(Listener):
    """The files of those of `upstreams` that have one."""

    __slots__ = ("_files", "_specs", "_table")

    def __init__(self, table: PeerTable, upstreams: Iterable[UpstreamSpec], log: ErrorLog) -> None:
        super().__init__(log)
        self._table = table
        self._specs = {spec.name: spec for spec in upstreams if spec.state}
        self._files = {name: Replaced(spec.state, "state", self.say, _DELAY) for name, spec in self._specs.items()}

    def __repr__(self) -> str:
        return f"<ServerLists {len(self._files)} files>"

    def moved(self, upstream: str, members: Sequence[Member]) -> None:
        if upstream in self._files and not self._table.is_kept(upstream):
            listed = self._table.listed(upstream)
            self._files[upstream].write_soon(partial(_keep, self._table, self._specs[upstream], members, listed))

    def end(self, deadline: float) -> None:
        for file in self._files.values():
            file.end(deadline)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        super().close()


def keep_lists(table: PeerTable, upstreams: Iterable[UpstreamSpec], owner: tuple[int, int] | None) -> None:
    """Have all files say what the zone does, at once, and be `owner`'s. Raises OSError with the file's name."""
    for spec in upstreams:
        if spec.state and not table.is_kept(spec.name):
            listed = table.listed(spec.name)
            try:
                _keep(table, spec, Roster(spec, table).members, listed, owner)
            except OSError as error:
                raise OSError(error.errno, error.strerror, spec.state) from error


def _keep(
    table: PeerTable,
    spec: UpstreamSpec,
    members: Sequence[Member],
    listed: int,
    owner: tuple[int, int] | None = None,
) -> None:
    content = text_of([member.spec for member in members], spec.lines)
    with alone(spec.state):
        if table.has_kept(spec.name, listed):
            return  # a later list than this
        if not _says(spec.state, content):
            replace_file(spec.state, content, owner)
        table.kept(spec.name, listed)


def _says(path: str, content: bytes) -> bool:
    with suppress(OSError, NotOurs):
        return read_file(path) == content
    return False
