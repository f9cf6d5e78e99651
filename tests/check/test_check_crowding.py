"""Probes that wait for each other longer than their interval: it is said, and counted as lateness."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.check.probing import LIMIT, Probing
from upwell.check.probes.exec import AT_ONCE
from upwell.check.spec import PLUS, CheckSpec
from upwell.peers.peer import PeerSpec
from upwell.runtime.explain import detection, recovery
from upwell.zone.layout import CHECKER_LATENESS

COUNT = 6


@pytest.fixture
def p(tmp_path: Path) -> Iterator[Probing]:
    peers = [PeerSpec(f"127.0.0.1:{port}", ("127.0.0.1", port)) for port in range(1, COUNT + 1)]
    probing = Probing(tmp_path / "error.log", *peers)
    yield probing
    probing.close()


def test_a_check_that_cannot_keep_its_interval_says_so(p: Probing) -> None:
    p.check(type="exec", command=("sh", "-c", "sleep 1000"), interval=1.0, concurrency=2)
    p.until(lambda: sum(check.at > 0 for row in range(COUNT) for check in p.table.checks(row)) == 0)
    p.skew = 3.0
    p.until(lambda: any("cannot keep" in line for line in p.lines()))
    words = (
        'warn: healthcheck: check exec of upstream "u" cannot keep its interval of 1 s: 4 probe(s) wait, the longest'
    )
    assert [line.startswith(words) for line in p.lines() if "cannot keep" in line] == [True]
    assert p.lines()[-1].endswith("s, for there are 2 at once")
    assert p.table.words[CHECKER_LATENESS] > 2.9e6
    p.skew = 4.5
    p.until(lambda: p.table.words[CHECKER_LATENESS] > 4.4e6)  # it grows, and is not said again so soon
    assert sum("cannot keep" in line for line in p.lines()) == 1
    p.skew = 13.5
    p.until(lambda: sum("cannot keep" in line for line in p.lines()) == 2)


def test_it_is_over_when_nobody_waits_that_long(p: Probing, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    module = ModuleType("upwell_crowd_of_a_test")
    module.wait = lambda peer: None if gate.wait(LIMIT) else "late"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    p.check(type="python", function=f"{module.__name__}:wait", interval=1.0, concurrency=1)
    p.skew = 2.0
    p.until(lambda: any("cannot keep" in line for line in p.lines()))
    gate.set()
    p.until(lambda: all(p.state(row).passes for row in range(COUNT)))
    limit = time.monotonic() + LIMIT
    while not any("keeps its interval again" in line for line in p.lines()):
        assert time.monotonic() < limit
        p.skew += 0.3
        for _ in range(3 * COUNT):
            p.checker.step(0.001)
    assert p.table.words[CHECKER_LATENESS] < 20e6


def test_who_has_places_for_all_says_nothing(p: Probing) -> None:
    p.check(type="exec", command=("sh", "-c", "sleep 1000"), interval=1.0, concurrency=COUNT)
    p.until(lambda: True)
    p.skew = 3.0
    for _ in range(3):
        p.checker.step(0.01)
    assert p.lines() == []


def test_the_worst_case_counts_the_queue() -> None:
    spec = CheckSpec(
        "u", "exec", command=("x",), interval=1.0, timeout=0.8, fall=2, rise=1, concurrency=0, dialect=PLUS
    )
    assert detection(spec) == detection(spec, AT_ONCE // 2) == 1.0 + 1.0 + 0.8
    full = detection(spec, 10 * AT_ONCE)
    # Nine rounds of time-outs before the first failure, thirty-nine before the second.
    assert full == pytest.approx(1.0 + 9 * 0.8 + 1.0 + 39 * 0.8 + 1.0 + 0.8)
    assert recovery(spec, 10 * AT_ONCE) > recovery(spec)
    free = CheckSpec("u", "http", interval=1.0, timeout=0.8, concurrency=0, dialect=PLUS)
    assert detection(free, 100_000) == detection(free)
