"""The first moments of a check: who gets requests before its first pass, what a reload keeps, and thousands at once."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.check.test_check_checker import GOOD, LIMIT, Bench, Benches, Origins, bench, origin, refused
from upwell.check.checker import Checker
from upwell.check.spec import PLUS
from upwell.peers.peer import PeerSpec, UpstreamSpec
from upwell.peers.upstream import Upstream
from upwell.zone.layout import CHECKER_LATENESS
from upwell.zone.table import PeerTable

__all__ = ["bench", "origin", "refused"]

BAD = b"HTTP/1.0 500 Oops\r\n\r\n"


def reloaded(old: Bench, bench: Benches, *peers: PeerSpec) -> Bench:
    """Another generation with these peers, whose checker has its checks yet to come."""
    old.checker.close()
    new = bench(*peers)
    new.table.adopt(old.table, int(old.clock() * 1000))
    new.checker.close()
    new.checker = Checker(new.table, [new.spec], new.log, new.clock)
    return new


def test_no_request_before_the_first_pass(origin: Origins, bench: Benches) -> None:
    one = origin(b"")
    one.parts = (GOOD,)
    b = bench(one.spec)
    worker = Upstream(b.spec, b.table)
    assert worker.pick((), 1.0) is not None  # nobody checks it yet: the check is to come before the workers
    b.check(dialect=PLUS, initial="checking", rise=3, timeout=LIMIT, interval=60.0)
    assert worker.pick((), 1.0) is None
    b.until(lambda: one.requests != [])
    assert worker.pick((), 1.0) is None
    one.gate.release()
    b.until(lambda: b.table.checks(0)[0].passes == 1)
    assert worker.pick((), 1.0) is worker.peers[0]  # the first pass suffices


def test_a_check_of_the_configuration_is_there_before_any_worker(origin: Origins, bench: Benches) -> None:
    """Workers begin with the first generation that they see; the checker may still be on its way then."""
    b = bench(origin().spec)
    spec = b.check(dialect=PLUS, initial="checking")
    table = PeerTable.create(list(b.table.keys), 1)
    checker = Checker(table, [b.spec], b.log, b.clock, checks=[spec])
    assert Upstream(b.spec, table).pick((), 1.0) is None
    checker.close()


def test_the_first_failure_needs_all_passes_afterwards(origin: Origins, bench: Benches) -> None:
    one = origin(BAD)
    b = bench(one.spec)
    worker = Upstream(b.spec, b.table)
    b.check(dialect=PLUS, initial="checking", rise=3, fall=1)
    b.until(lambda: b.table.checks(0)[0].fails == 1)
    one.answer = GOOD
    b.until(lambda: b.table.checks(0)[0].passes == 2)
    assert worker.pick((), 1.0) is None
    b.until(lambda: b.table.checks(0)[0].passes == 3)
    assert worker.pick((), 1.0) is not None


@pytest.mark.parametrize("initial", ["up", "down", "checking"])
def test_a_reload_keeps_state_and_story_whatever_is_initial(
    origin: Origins, bench: Benches, refused: PeerSpec, initial: str
) -> None:
    good = origin()
    old = bench(good.spec, refused)
    old.check(dialect=PLUS, fall=2, rise=2)
    old.until(lambda: not old.up(1) and old.table.checks(0)[0].passes > 2)
    stories = [old.table.record(row, 0) for row in (0, 1)]
    new = reloaded(old, bench, refused, good.spec)  # in another order
    worker = Upstream(new.spec, new.table)
    assert worker.pick((), 1.0) is worker.peers[1]
    new.check(dialect=PLUS, fall=2, rise=2, initial=initial)
    assert worker.pick((), 1.0) is worker.peers[1]
    assert [new.table.record(row, 0)._replace(next=0) for row in (1, 0)] == [one._replace(next=0) for one in stories]


def test_who_is_new_after_a_reload_is_checked_first(origin: Origins, bench: Benches) -> None:
    known, stranger = origin(), origin(b"")
    stranger.parts = (GOOD,)
    old = bench(known.spec)
    old.check(dialect=PLUS, initial="checking")
    old.until(lambda: old.up(0))
    new = reloaded(old, bench, known.spec, stranger.spec)
    new.check(dialect=PLUS, initial="checking", timeout=LIMIT)
    worker = Upstream(new.spec, new.table)
    assert [peer.up for peer in worker.peers] == [True, False]
    stranger.gate.release()
    new.until(lambda: new.up(1))
    worker.refresh()
    assert [peer.up for peer in worker.peers] == [True, True]


def test_a_reload_in_the_middle_of_checking_goes_on_with_it(origin: Origins, bench: Benches) -> None:
    silent = origin(None)
    old = bench(silent.spec)
    old.check(dialect=PLUS, initial="checking", timeout=LIMIT)
    old.until(lambda: silent.requests != [])
    new = reloaded(old, bench, silent.spec)
    new.check(dialect=PLUS, initial="checking", timeout=LIMIT)
    worker = Upstream(new.spec, new.table)
    assert worker.pick((), 1.0) is None
    silent.answer = GOOD
    new.until(lambda: new.up(0))
    assert worker.pick((), 1.0) is not None


def test_thousands_of_first_probes_leave_room_for_answers(origin: Origins, bench: Benches, tmp_path: Path) -> None:
    """A round begins some of them, and looks for answers before it begins more."""
    count = 3000
    good = origin()
    missing = [PeerSpec(f"p{number}", str(tmp_path / "none.sock")) for number in range(count)]
    b = bench(good.spec, *missing)
    b.check(dialect=PLUS, fall=1, interval=600.0, concurrency=0)
    limit = time.monotonic() + LIMIT
    rounds = []
    done = 0
    while done <= count:
        assert time.monotonic() < limit
        b.checker.step(0.5)
        now = sum(check.at > 0 for row in range(count + 1) for check in b.table.checks(row))
        rounds.append(now - done)
        done = now
    assert max(rounds) <= 256 + 1
    assert b.table.checks(0)[0].passes == 1  # first in, and answered while the others began
    assert 0 < b.table.words[CHECKER_LATENESS] < LIMIT * 1e6  # the last of them began late, and it is not hidden


def test_all_peers_of_all_upstreams_get_their_turn(origin: Origins, bench: Benches, tmp_path: Path) -> None:
    """One check of many peers that fail at once does not keep another one from beginning."""
    log = bench(origin().spec).log
    many = UpstreamSpec("many", tuple(PeerSpec(f"p{n}", str(tmp_path / "none.sock")) for n in range(2000)))
    few = UpstreamSpec("few", (origin().spec,))
    keys = [(spec.name, "primary", peer.name, 0) for spec in (many, few) for peer in spec.peers]
    table = PeerTable.create(keys, 1)
    checker = Checker(table, [many, few], log)
    shape = bench(origin().spec).check(dialect=PLUS, interval=0.001, fall=1, concurrency=0)
    for name in ("many", "few"):
        checker.add(replace(shape, upstream=name))
    limit = time.monotonic() + LIMIT
    while not table.checks(2000)[0].passes:
        assert time.monotonic() < limit
        checker.step(0.05)
    first = [check.fails for row in range(2000) for check in table.checks(row)]
    assert max(first) <= 2  # it was not overtaken again and again
    checker.close()
