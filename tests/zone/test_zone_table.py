"""The shared peer table: identity of rows over a reload, slots of checks, counters, and what another process sees."""

from __future__ import annotations

import os

import pytest

from upwell.peers.peer import PeerKey
from upwell.zone.layout import (
    ADMIN_DOWN,
    ADMIN_UP,
    CHECKS_DOWN,
    CHECKS_NONE,
    CHECKS_PER_PEER,
    CHECKS_UP,
    COUNT_WORDS,
    MEMBER_WORDS,
    PEER_WORDS,
    RECORD_WORDS,
    RING,
    RING_WORDS,
)
from upwell.zone.table import Counts, PeerTable, growth_of


def key(name: str, upstream: str = "u", role: str = "primary", ordinal: int = 0) -> PeerKey:
    return PeerKey(upstream, role, name, ordinal)


KEYS = [key("a:1"), key("b:1"), key("c:1", role="backup"), key("a:1", upstream="v")]
COUNTS = Counts(3, 10, 2, (0, 7, 0, 1, 2), 1000, 2000)


def test_a_new_table_is_empty() -> None:
    table = PeerTable.create(KEYS, workers=2)
    assert [table.row(k) for k in KEYS] == [0, 1, 2, 3]
    assert (table.generation, table.checker_epoch, table.checker_pid, table.checker_heartbeat) == (0, 0, 0, 0)
    assert not table.all_ready
    for row in range(4):
        assert table.checks(row) == []
        assert table.summary(row) == CHECKS_NONE
        assert table.counts(row) == Counts(0, 0, 0, (0, 0, 0, 0, 0), 0, 0)


def test_unknown_peers_workers_and_upstreams_are_refused() -> None:
    table = PeerTable.create(KEYS, workers=1)
    with pytest.raises(KeyError):
        table.row(key("nobody:1"))
    with pytest.raises(KeyError):
        table.upstream_version("nobody")
    for worker in (-1, 1):
        with pytest.raises(IndexError):
            table.set_ready(worker, 1)
        with pytest.raises(IndexError):
            table.set_counts(0, worker, COUNTS)
    with pytest.raises(ValueError, match="two peers"):
        PeerTable.create([KEYS[0], KEYS[0]], workers=1)


def test_no_word_is_written_by_two() -> None:
    table = PeerTable.create(KEYS, workers=3)
    layout = table.layout
    blocks = [range(layout.worker(w), layout.worker(w) + 4) for w in range(3)]
    blocks += [range(layout.upstream(u), layout.upstream(u) + 2) for u in range(2)]
    for row in range(len(KEYS)):
        blocks.append(range(layout.row(row), layout.row(row) + PEER_WORDS))
        blocks += [range(layout.check(row, s), layout.check(row, s) + 10) for s in range(CHECKS_PER_PEER)]
        blocks += [range(layout.count(row, w), layout.count(row, w) + COUNT_WORDS) for w in range(-1, 3)]
    records = [layout.record(row, slot) for row in range(len(KEYS)) for slot in range(CHECKS_PER_PEER)]
    blocks += [range(at, at + RECORD_WORDS) for at in records]
    blocks.append(range(RING, RING + RING_WORDS))
    blocks += [range(layout.member(row), layout.member(row) + MEMBER_WORDS) for row in range(len(KEYS))]
    words = [word for block in blocks for word in block]
    assert len(words) == len(set(words))
    assert min(words) == 16
    assert max(words) == layout.size - 1 == len(table.words) - 1


def test_the_summary_is_up_only_while_all_checks_are() -> None:
    table = PeerTable.create(KEYS, workers=1)
    first = table.add_check(0, 101, rise=2, health=4)
    assert table.summarise(0, 5)
    assert table.summary(0) == CHECKS_UP
    second = table.add_check(0, 102, rise=1, health=0)
    assert table.summarise(0, 6)
    assert table.summary(0) == CHECKS_DOWN
    assert not table.summarise(0, 7)
    table.drop_check(0, second)
    assert table.summarise(0, 8)
    assert table.summary(0) == CHECKS_UP
    table.drop_check(0, first)
    table.summarise(0, 9)
    assert table.summary(0) == CHECKS_NONE


def test_slots_are_found_by_identity_and_run_out() -> None:
    table = PeerTable.create(KEYS, workers=1)
    slots = [table.add_check(1, 1000 + n, rise=1, health=1) for n in range(CHECKS_PER_PEER)]
    assert slots == list(range(CHECKS_PER_PEER))
    assert table.find_check(1, 1003) == 3
    assert table.find_check(1, 7) == -1
    assert table.find_check(0, 1003) == -1
    with pytest.raises(LookupError):
        table.add_check(1, 7, rise=1, health=1)
    table.drop_check(1, 3)
    assert table.add_check(1, 7, rise=1, health=1) == 3


def test_a_slot_that_is_taken_again_starts_clean() -> None:
    table = PeerTable.create(KEYS, workers=1)
    slot = table.add_check(0, 1, rise=2, health=3)
    table.set_check(table.layout.check(0, slot), 2, 50, 500, 1234, passed=False)
    state = table.check(0, slot)
    assert (state.health, state.at, state.status, state.latency, state.passes, state.fails) == (2, 50, 500, 1234, 0, 1)
    assert state.up
    table.drop_check(0, slot)
    assert table.add_check(0, 2, rise=2, health=0) == slot
    state = table.check(0, slot)
    assert (state.identity, state.at, state.status, state.fails, state.up) == (2, 0, 0, 0, False)


@pytest.mark.parametrize(
    ("admin", "checks", "configured_down", "up"),
    [
        (None, None, False, True),
        (None, None, True, False),
        (None, "up", True, True),
        (None, "down", False, False),
        (ADMIN_DOWN, None, False, False),
        (ADMIN_DOWN, "up", False, False),
        (ADMIN_UP, None, True, True),
        (ADMIN_UP, "down", False, False),
        (ADMIN_UP, "up", True, True),
    ],
)
def test_who_may_get_traffic(admin: int | None, checks: str | None, configured_down: bool, up: bool) -> None:
    table = PeerTable.create(KEYS, workers=1)
    if admin is not None:
        table.set_admin(0, admin)
    if checks is not None:
        table.add_check(0, 1, rise=1, health=1 if checks == "up" else 0)
        table.summarise(0, 1)
    assert table.is_up(0, configured_down) is up
    assert table.is_up(1, False) is True


def test_each_word_of_an_operator_has_its_own_serial() -> None:
    table = PeerTable.create(KEYS, workers=1)
    seen = [table.admin(0)]
    for state in (ADMIN_DOWN, ADMIN_DOWN, ADMIN_UP):
        table.set_admin(0, state)
        seen.append(table.admin(0))
        assert seen[-1] & 3 == state
    assert len(set(seen)) == 4


def test_a_reload_carries_rows_by_identity_not_by_index() -> None:
    old = PeerTable.create(KEYS, workers=2)
    slot = old.add_check(1, 77, rise=2, health=1)
    old.summarise(1, 9)
    old.set_check(old.layout.check(1, slot), 1, 10, 503, 99, passed=True)
    old.set_admin(2, ADMIN_DOWN)
    old.set_counts(1, 0, COUNTS)
    old.set_counts(1, 1, COUNTS)
    old.set_upstream_version("v", 4)
    old.start_checker(12)
    old.publish()

    new = PeerTable.create([key("x:1"), *reversed(KEYS), key("b:1", ordinal=1)], workers=1)
    new.adopt(old)
    row = new.row(KEYS[1])
    assert new.checks(row) == old.checks(1)
    assert new.summary(row) == CHECKS_DOWN
    assert new.admin(new.row(KEYS[2])) == old.admin(2)
    # What the old workers counted is told by the master, also what they go on counting.
    assert new.counts(row) == Counts(0, 0, 0, (0, 0, 0, 0, 0), 0, 0)
    new.count_elsewhere(row, new.tenant(row), growth_of(0, old.counted(1)))
    assert new.counts(row) == old.counts(1) == Counts(2 * COUNTS.connections, 20, 4, (0, 14, 0, 2, 4), 2000, 4000)
    assert new.upstream_version("v") == 4
    assert new.upstream_version("u") == 0
    assert (new.generation, new.checker_epoch) == (old.generation, 1)
    for stranger in (key("x:1"), key("b:1", ordinal=1), KEYS[0]):
        assert new.checks(new.row(stranger)) == []
        assert new.is_up(new.row(stranger), False)
    # And once more: nothing is counted twice.
    third = PeerTable.create(KEYS, workers=1)
    third.adopt(new)
    assert third.counts(1) == new.counts(row)


def test_another_process_sees_what_was_written() -> None:
    table = PeerTable.create(KEYS, workers=1)
    pid = os.fork()
    if pid == 0:
        table.add_check(0, 5, rise=1, health=0)
        table.summarise(0, 1)
        table.publish()
        table.set_ready(0, os.getpid())
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert table.generation == 1
    assert not table.is_up(0, False)
    assert table.ready(0) == pid
    assert table.all_ready


def test_heartbeats_are_kept_per_worker() -> None:
    table = PeerTable.create(KEYS, workers=2)
    table.beat(1, 12.5)
    assert (table.heartbeat(0), table.heartbeat(1)) == (0, 12500)
    table.close()
    with pytest.raises(ValueError, match="released"):
        table.words[0]


def test_when_a_peer_begins_anew() -> None:
    table = PeerTable.create(KEYS, workers=1)
    table.add_check(0, 7, rise=1, health=1)
    table.summarise(0, 1000)
    assert table.started(0) == 0  # up from the first moment
    at = table.layout.check(0, 0)
    table.set_check(at, 0, 2000, 0, 0, passed=False)
    table.summarise(0, 2000)
    assert table.started(0) == 0
    table.set_check(at, 1, 3000, 200, 0, passed=True)
    table.summarise(0, 3000)
    assert table.started(0) == 3000
    table.start(1, 4000)
    after = PeerTable.create([*KEYS, key("d:1"), key("d:1", upstream="w")], workers=1)
    after.adopt(table, now=9000)
    assert [after.started(row) for row in range(6)] == [3000, 4000, 0, 0, 9000, 0]


def test_a_check_without_a_verdict_holds_its_peer_back_untried() -> None:
    table = PeerTable.create(KEYS, workers=1)
    assert not table.untried(0)
    table.add_check(0, 7, rise=2, health=1)
    table.add_check(1, 7, rise=2, health=2)
    assert [table.untried(row) for row in (0, 1)] == [True, False]
    table.add_check(0, 9, rise=1, health=0)
    table.set_check(table.layout.check(0, 0), 0, 5, 0, 0, passed=False)
    assert table.untried(0)
    table.set_check(table.layout.check(0, 1), 0, 5, 0, 0, passed=False)
    assert not table.untried(0)


def test_each_clear_is_another_one() -> None:
    table = PeerTable.create(KEYS, workers=1)
    seen = {table.cleared(0)}
    for now in (1000, 1000, 1000, 500, 2000):
        table.clear(0, now)
        seen.add(table.cleared(0))
    assert len(seen) == 6
    assert table.cleared(0) == 2000


def test_probes_without_a_verdict_are_counted_over_a_reload() -> None:
    table = PeerTable.create(KEYS, workers=1)
    assert table.voids == (0, 0, "")
    table.note_void(100, "no file")
    table.note_void(200, "no port")
    after = PeerTable.create(KEYS, workers=1)
    after.adopt(table)
    assert after.voids == table.voids == (2, 200, "no port")
