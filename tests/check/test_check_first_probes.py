"""The first moments of a check: who gets requests before its first pass, what a reload keeps, and thousands at once."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.check.test_check_checker import GOOD, LIMIT, Bench, Benches, Origins, bench, origin, refused
from upwell.check.checker import Checker
from upwell.check.initial import prepare_checks
from upwell.check.spec import PLUS, CheckSpec
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
    b.check(dialect=PLUS, initial="checking", rise=3, timeout=LIMIT, interval=60.0)
    assert worker.pick((), 1.0) is None
    b.until(lambda: one.requests != [])
    assert worker.pick((), 1.0) is None
    one.gate.release()
    b.until(lambda: b.table.checks(0)[0].passes == 1)
    assert worker.pick((), 1.0) is worker.peers[0]  # the first pass suffices


@pytest.mark.parametrize(("initial", "served"), [("checking", False), ("down", False), ("up", True)])
def test_the_master_sees_to_it_before_any_worker_begins(
    origin: Origins, bench: Benches, initial: str, served: bool
) -> None:
    """Which of checker and workers begins first is chance."""
    b = bench(origin().spec)
    spec = CheckSpec("u", request=b"GET / HTTP/1.0\r\n\r\n", dialect=PLUS, initial=initial, rise=1, interval=0.01)
    prepare_checks(b.table, [b.spec], [spec, CheckSpec("stranger", initial="down")], 1000)
    worker = Upstream(b.spec, b.table)
    assert (worker.pick((), 1.0) is not None) is served
    b.checker.add(spec)  # and the checker goes on from there
    assert len(b.table.checks(0)) == 1
    b.until(b.up)
    assert worker.pick((), 1.0) is not None


def test_the_master_leaves_alone_what_is_known(origin: Origins, bench: Benches, refused: PeerSpec) -> None:
    old = bench(origin().spec, refused)
    spec = old.check(dialect=PLUS, initial="checking", fall=1)
    old.until(lambda: old.up(0) and old.table.checks(1)[0].fails > 0)
    before = [old.table.check(row, 0) for row in (0, 1)]
    prepare_checks(old.table, [old.spec], [spec], 1000)
    assert [old.table.check(row, 0) for row in (0, 1)] == before
    assert all(len(old.table.checks(row)) == 1 for row in (0, 1))
    # Another check instead: what was known of each peer holds until it has been probed.
    prepare_checks(old.table, [old.spec], [replace(spec, request=b"HEAD / HTTP/1.0\r\n\r\n")], 1000)
    assert [old.table.check(row, 1).up for row in (0, 1)] == [True, False]


def test_the_master_takes_no_slot_that_is_not_there(bench: Benches, refused: PeerSpec) -> None:
    b = bench(refused, PeerSpec("off", ("127.0.0.1", 9), down=True))
    checks = [CheckSpec("u", request=b"%d" % number, dialect=PLUS, initial="checking") for number in range(9)]
    prepare_checks(b.table, [b.spec], checks, 1000)
    assert [len(b.table.checks(row)) for row in (0, 1)] == [8, 0]


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
