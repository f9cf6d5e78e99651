"""A jump of the wall clock changes nothing: who decides knows it not, and who shows it to people decides nothing."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest

from tests.check.test_check_checker import Bench, Benches, Origin, Origins, bench, origin, refused
from upwell.check.spec import PLUS
from upwell.peers.peer import PeerSpec

__all__ = ["bench", "origin", "refused"]

SOURCE = Path(__file__).parents[2] / "src" / "upwell"
DECIDES = ("check", "peers", "zone", "process")
TELLS_TIME = {
    "check/certificate.py",  # until when a certificate is valid
    "check/secure.py",
    "check/listener.py",  # when a transition was, for people
    "check/notify.py",
    "check/state.py",  # how old a state is that outlived a boot, where no other clock does
    "check/pages",
    "zone/shared_dict.py",  # ngx.shared's expiry times are shared with whoever starts again
}
WALL = {"time", "time_ns", "localtime", "gmtime", "ctime", "now", "utcnow", "today"}


def wall_clock(tree: ast.Module) -> list[int]:
    """The lines that read the time of day."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if (owner in ("time", "datetime", "date") and node.attr in WALL) or node.attr == "CLOCK_REALTIME":
                found.append(node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            found += [node.lineno for alias in node.names if alias.name in WALL]
    return found


def test_nothing_that_decides_reads_the_time_of_day() -> None:
    read = {}
    for package in DECIDES:
        for path in sorted((SOURCE / package).rglob("*.py")):
            name = path.relative_to(SOURCE).as_posix()
            if name not in TELLS_TIME and path.parent.relative_to(SOURCE).as_posix() not in TELLS_TIME:
                lines = wall_clock(ast.parse(path.read_text()))
                if lines:
                    read[name] = lines
    assert read == {}


@pytest.mark.parametrize(
    "code",
    ["import time\ntime.time()", "from time import time", "datetime.now()", "time.clock_gettime(time.CLOCK_REALTIME)"],
)
def test_the_rule_bites(code: str) -> None:
    assert wall_clock(ast.parse(code))
    assert not wall_clock(ast.parse("import time\ntime.monotonic()\ntime.sleep(1)"))


@pytest.mark.parametrize("jump", [86400.0, -86400.0, 3600.0 * 24 * 365 * 20])
def test_a_jump_changes_nothing(
    origin: Origins, bench: Benches, refused: PeerSpec, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    one: Origin = origin()
    b: Bench = bench(one.spec, refused)
    b.check(dialect=PLUS, fall=2, interval=0.02)
    b.until(lambda: b.table.checks(0)[0].passes > 2 and not b.up(1))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    before = b.table.checks(0)[0]
    started = time.monotonic()
    b.until(lambda: b.table.checks(0)[0].passes > before.passes + 10)
    # As many as before in that time, not a flood and no pause.
    assert time.monotonic() - started >= 10 * 0.02
    assert b.table.checks(0)[0].fails == 0
    assert b.up(0)
    assert not b.up(1)
    assert 0 <= b.table.checks(0)[0].at - int(started * 1000) < 20_000
