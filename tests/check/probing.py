"""A real checker over a real table, for tests of what it starts: commands, functions, notifications, files."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from upwell.check.checker import Checker
from upwell.check.listener import Listener
from upwell.check.spec import PLUS, CheckSpec
from upwell.log import INFO, ErrorLog
from upwell.peers.peer import PeerSpec, UpstreamSpec, peer_keys
from upwell.zone.records import Record
from upwell.zone.table import CheckState, PeerTable

LIMIT = 20.0  # seconds that a condition may take before a test gives up


class Probing:
    """One checker of upstream "u" with `peers`; its log is a file."""

    def __init__(
        self,
        path: Path,
        *peers: PeerSpec,
        level: int = INFO,
        listeners: Callable[[ErrorLog], Sequence[Listener]] = lambda log: (),
    ) -> None:
        self.path = path
        self.log = ErrorLog(str(path), level)
        self.log.open()
        self.spec = UpstreamSpec("u", peers)
        self.table = PeerTable.create(peer_keys(self.spec), 1)
        self.skew = 0.0
        self.listeners = listeners
        self.checker = self.make()

    def make(self) -> Checker:
        return Checker(self.table, [self.spec], self.log, self.clock, listeners=self.listeners(self.log))

    def clock(self) -> float:
        return time.monotonic() + self.skew

    def check(self, **changes: object) -> CheckSpec:
        settings: dict[str, object] = {
            "interval": 0.02,
            "timeout": LIMIT,
            "fall": 1,
            "rise": 1,
            "concurrency": 0,
            "dialect": PLUS,
        }
        spec = CheckSpec("u", **{**settings, **changes})  # type: ignore[arg-type]  # keywords by name, checked at run time
        self.checker.add(spec)
        return spec

    def until(self, condition: Callable[[], bool]) -> None:
        limit = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < limit, self.lines()
            self.checker.step(0.05)

    def state(self, row: int = 0) -> CheckState:
        return self.table.checks(row)[0]

    def record(self, row: int = 0) -> Record:
        return self.table.record(row, self.state(row).slot)

    def up(self, row: int = 0) -> bool:
        return self.table.is_up(row, False)

    def why(self, row: int = 0) -> str:
        """Wait for a verdict, and say why it is a failure; "": it is none."""
        before = self.state(row)
        self.until(lambda: self.state(row).passes + self.state(row).fails > before.passes + before.fails)
        return self.record(row).why if self.state(row).fails > before.fails else ""

    def lines(self) -> list[str]:
        """The log so far as "level: words"."""
        pattern = re.compile(r"\S+ \S+ \[(\w+)\] \d+#\d+: (.*)")
        return [pattern.sub(r"\1: \2", line) for line in self.path.read_text().splitlines()]

    def close(self) -> None:
        self.checker.close()
        os.close(self.log.fd)


Make = Callable[..., Probing]


@contextmanager
def probings(folder: Path, peer: PeerSpec) -> Iterator[Make]:
    """Makes as many as a test wants, of `peer` if it names none, and closes them."""
    made: list[Probing] = []

    def make(*peers: PeerSpec) -> Probing:
        made.append(Probing(folder / f"error{len(made)}.log", *(peers or (peer,))))
        return made[-1]

    yield make
    for one in made:
        one.close()
