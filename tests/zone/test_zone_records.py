"""What is kept of a check beyond its state: exact counts, bounded history, sentences that are never another's."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from random import Random

import pytest

from upwell.zone.layout import (
    BUCKETS,
    CHECK_RECENT,
    HISTORY,
    KINDS_COUNTED,
    RECENT_MOST,
    RECENT_SHIFT,
    RECORD_NEXT,
    RECORD_PERIOD,
    RECORD_TIMED,
    SETTLING,
    TIMES,
)
from upwell.zone.phrases import FORGOTTEN, Phrases
from upwell.zone.records import (
    LONGEST,
    note_change,
    note_failure,
    note_pass,
    note_time,
    note_usual,
    read_check,
    read_record,
)
from upwell.zone.table import CheckState, PeerTable

KEYS = [("u", "primary", "127.0.0.1:81", 0), ("u", "primary", "127.0.0.1:82", 0)]


@pytest.fixture
def table() -> PeerTable:
    return PeerTable.create(KEYS, workers=1)


def test_a_new_record_says_that_nothing_happened(table: PeerTable) -> None:
    slot = table.add_check(0, 7, rise=1, health=1)
    record = table.record(0, slot)
    assert record.kind == -1
    assert (record.why, record.streak, record.timed, record.p99, record.history) == ("", 0, 0, 0, ())
    assert record.kinds == (0,) * KINDS_COUNTED


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.6, 2.5])
@pytest.mark.parametrize("outlier", [None, 0, (1 << 31) - 1, 1 << 31, 1 << 40])
def test_p99_is_the_largest_but_one_of_the_last_hundred(table: PeerTable, spread: float, outlier: int | None) -> None:
    at, source = table.record_at(0, table.add_check(0, 7, rise=1, health=1)), Random(1)
    times = [int(source.lognormvariate(7, spread)) for _ in range(4 * TIMES)]
    for number in range(3, len(times), 77):
        times[number] = times[number] if outlier is None else outlier
    for number, elapsed in enumerate(times, 1):
        note_time(table.words, table.halves, at, elapsed)
        last = sorted([min(time, LONGEST) for time in times[max(number - TIMES, 0) : number]])
        assert table.record(0, 0).p99 == last[-1 if number < TIMES else -2]


def _passed(table: PeerTable, row: int, at: int, elapsed: int) -> None:
    """A pass written out in full."""
    table.set_check(table.layout.check(row, 0), 1, at, 200, elapsed, True)
    note_pass(table.words, table.record_at(row, 0))
    note_time(table.words, table.halves, table.record_at(row, 0), elapsed)


def _noted(table: PeerTable, row: int, count: int, at: int, elapsed: int) -> None:
    """A pass noted in short, the recent one of number `count`."""
    slot, record = table.layout.check(row, 0), table.record_at(row, 0)
    turn = table.words[record + RECORD_TIMED] % TIMES + count - 1
    note_usual(table.words, table.halves, slot, record, (at << RECENT_SHIFT) + count, turn, elapsed)


@pytest.mark.parametrize("most", [1, 2, RECENT_MOST, TIMES])
def test_a_pass_noted_in_short_is_read_as_one_written_out(table: PeerTable, most: int) -> None:
    for row in (0, 1):
        table.add_check(row, 7, rise=1, health=1)
        _passed(table, row, 10, 70)
        table.words[table.record_at(row, 0) + RECORD_NEXT] = 1000
    table.words[table.record_at(0, 0) + RECORD_PERIOD] = 2_000_500
    slot, record = table.layout.check(0, 0), table.record_at(0, 0)
    times = [0, 1, *BUCKETS, *(bound + 1 for bound in BUCKETS), LONGEST] * 8  # more than TIMES: the ring turns
    assert len(times) > 2 * TIMES
    count = 0
    for number, elapsed in enumerate(times):
        if number == 7:
            table.settle(slot, record)
            count = 0
            for row in (0, 1):
                note_failure(table.words, table.record_at(row, 0), 5, table.phrases.keep("status 503"), 10)
        if count == most or (table.words[record + RECORD_TIMED] + count) % TIMES == 0:
            table.settle(slot, record)
            assert (table.check(0, 0), table.record(0, 0)._replace(next=1000)) == (
                table.check(1, 0),
                table.record(1, 0),
            )
            count = 0
        count += 1
        _noted(table, 0, count, 20 + number, elapsed)
        _passed(table, 1, 20 + number, elapsed)
        assert table.record(0, 0)._replace(next=1000) == table.record(1, 0)
        assert table.record(0, 0).next == pytest.approx(1000 + (number + 1) * 2000.5, abs=len(times))
        assert table.check(0, 0) == table.check(1, 0)


def test_the_next_probe_is_due_a_period_later_after_each_recent_pass(table: PeerTable) -> None:
    table.add_check(0, 7, rise=1, health=1)
    slot, record = table.layout.check(0, 0), table.record_at(0, 0)
    table.words[record + RECORD_NEXT] = 1000
    table.words[record + RECORD_PERIOD] = 2_000_500
    _noted(table, 0, 1, 5, 1)
    _noted(table, 0, 2, 6, 1)
    assert table.record(0, 0).next == 5001
    table.settle(slot, record)
    table.settle(slot, record)
    assert (table.record(0, 0).next, table.check(0, 0).passes, table.check(0, 0).at) == (5001, 2, 6)


def test_what_a_checker_left_half_settled_is_read_and_ended_by_its_successor(table: PeerTable) -> None:
    table.add_check(0, 7, rise=1, health=1)
    slot, record = table.layout.check(0, 0), table.record_at(0, 0)
    _passed(table, 0, 10, 70)
    _noted(table, 0, 1, 20, 80)
    table.words[slot + CHECK_RECENT] |= SETTLING
    assert table.check(0, 0).passes == 1
    assert table.record(0, 0).timed == 1
    table.settle(slot, record)
    assert (table.check(0, 0).at, table.check(0, 0).passes) == (20, 1)
    _noted(table, 0, 1, 30, 90)
    assert (table.check(0, 0).at, table.check(0, 0).passes, table.check(0, 0).latency) == (30, 2, 90)


def test_a_reload_takes_over_what_was_noted_in_short(table: PeerTable) -> None:
    table.add_check(0, 7, rise=1, health=1)
    _passed(table, 0, 10, 70)
    _noted(table, 0, 1, 20, 80)
    after = PeerTable.create([*KEYS[1:], KEYS[0]], workers=1)
    after.adopt(table)
    assert (after.check(1, 0), after.record(1, 0)) == (table.check(0, 0), table.record(0, 0))
    after.settle(after.layout.check(1, 0), after.record_at(1, 0))
    assert (after.check(1, 0), after.record(1, 0)) == (table.check(0, 0), table.record(0, 0))


def test_who_reads_while_passes_are_noted_and_settled_reads_no_half(table: PeerTable) -> None:
    """A writer in another process; each answer takes as long as the one before, so that all counts hang together."""
    slot, record = table.layout.check(0, table.add_check(0, 7, rise=1, health=1)), table.record_at(0, 0)
    child = os.fork()
    if not child:
        with suppress(BaseException):
            count = 0
            for number in range(1, 10_000):
                if count == RECENT_MOST or (number > 1 and number % TIMES == 1):
                    table.settle(slot, record)
                    count = 0
                count += 1
                _noted(table, 0, count, number, 3)
                sum(range(1000))  # answers are further apart than this
        os._exit(0)
    before = 0
    try:
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            # The writer may wait for a processor in the middle, for longer than a reader tries as a rule.
            state = CheckState(0, *read_check(table.words, slot, record, 1 << 30))
            kept = read_record(table.words, table.phrases, slot, record, 1 << 30)
            assert state.passes == state.at >= before
            assert (kept.timed, kept.time) == (kept.streak, kept.streak * 3)
            assert kept.timed >= state.passes
            assert (kept.buckets[0], kept.average) == (kept.timed, 3 if kept.timed else 0)
            before = kept.timed
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    assert table.check(0, 0).passes == 9_999


def test_streaks_turn_round(table: PeerTable) -> None:
    at = table.record_at(0, table.add_check(0, 7, rise=1, health=1))
    seen = []
    for passed in (True, True, False, False, True):
        if passed:
            note_pass(table.words, at)
        else:
            note_failure(table.words, at, 5, table.phrases.keep("status 503"), 10)
        seen.append(table.record(0, 0).streak)
    assert seen == [1, 2, -1, -2, 1]
    record = table.record(0, 0)
    assert (record.kind, record.why, record.failed_at) == (5, "status 503", 10)
    assert record.kinds[5] == 2
    assert sum(record.kinds) == 2


def test_times_are_averaged_counted_and_the_last_hundred_kept(table: PeerTable) -> None:
    at = table.record_at(0, table.add_check(0, 7, rise=1, health=1))
    for elapsed in (900, 1000, 1001, 20_000_000):
        note_time(table.words, table.halves, at, elapsed)
    record = table.record(0, 0)
    assert record.buckets[0] == 2
    assert record.buckets[1] == 1
    assert record.buckets[len(BUCKETS)] == 1
    assert record.time == 20_002_901
    for elapsed in range(TIMES):
        note_time(table.words, table.halves, at, elapsed)
    record = table.record(0, 0)
    assert sorted(record.times) == list(range(TIMES))
    assert record.p99 == TIMES - 2
    assert record.timed == TIMES + 4


def test_a_time_too_long_for_its_word_is_kept_as_the_longest(table: PeerTable) -> None:
    at = table.record_at(0, table.add_check(0, 7, rise=1, health=1))
    note_time(table.words, table.halves, at, 1 << 40)
    assert table.record(0, 0).times == ((1 << 32) - 1,)


def test_history_has_the_last_changes_oldest_first(table: PeerTable) -> None:
    at = table.record_at(0, table.add_check(0, 7, rise=1, health=1))
    for number in range(HISTORY + 5):
        note_change(table.words, at, number, number % 2 == 1, table.phrases.keep(f"reason {number}"))
    record = table.record(0, 0)
    assert record.changes == HISTORY + 5
    assert [change.at for change in record.history] == list(range(5, HISTORY + 5))
    assert record.history[0].up
    assert record.history[0].why == "reason 5"


def test_records_do_not_touch_each_other_and_come_back_empty(table: PeerTable) -> None:
    first = table.add_check(0, 7, rise=1, health=1)
    second = table.add_check(1, 7, rise=1, health=1)
    for row, slot in ((0, first), (1, second)):
        note_failure(table.words, table.record_at(row, slot), row, table.phrases.keep(f"row {row}"), 1)
    assert table.record(0, first).why == "row 0"
    assert table.record(1, second).why == "row 1"
    place = table.record_at(0, first)
    table.drop_check(0, first)
    again = table.add_check(0, 8, rise=1, health=1)
    assert table.record_at(0, again) == place
    assert table.record(0, again).kinds == (0,) * KINDS_COUNTED
    assert table.record(1, second).why == "row 1"


def test_as_many_records_as_slots_can_be_taken_given_back_and_taken_again(table: PeerTable) -> None:
    for _ in range(3):
        slots = [(row, table.add_check(row, 100 + number, rise=1, health=1)) for row in (0, 1) for number in range(8)]
        assert len({table.record_at(row, slot) for row, slot in slots}) == 16
        for row, slot in slots:
            table.drop_check(row, slot)


def test_a_reload_takes_records_and_sentences_along(table: PeerTable) -> None:
    slot = table.add_check(1, 7, rise=1, health=1)
    at = table.record_at(1, slot)
    note_failure(table.words, at, 3, table.phrases.keep("certificate expired 3 days ago"), 5)
    note_change(table.words, at, 5, False, table.phrases.keep("certificate expired 3 days ago"))
    after = PeerTable.create([("u", "primary", "127.0.0.1:99", 0), *reversed(KEYS)], workers=2)
    other = after.add_check(0, 9, rise=1, health=1)
    after.adopt(table)
    record = after.record(1, slot)
    assert record.why == "certificate expired 3 days ago"
    assert record.history[0].why == "certificate expired 3 days ago"
    assert after.record(0, other).kind == -1


def test_a_sentence_is_kept_once_and_read_by_its_reference() -> None:
    phrases = Phrases()
    assert phrases.keep("") == 0
    one = phrases.keep("connection refused")
    assert phrases.keep("connection refused") == one
    assert phrases.keep("timeout") != one
    assert phrases.read(one) == "connection refused"
    assert phrases.read(0) == ""


def test_an_old_sentence_is_forgotten_never_another_s() -> None:
    phrases = Phrases()
    one = phrases.keep("the first")
    for number in range(5000):
        phrases.keep(f"number {number}")
    assert phrases.read(one) == FORGOTTEN
    assert phrases.read(phrases.keep("the first")) == "the first"


def test_a_sentence_in_use_survives_many_others() -> None:
    phrases = Phrases()
    for number in range(20000):
        last = phrases.keep("always there")
        phrases.keep(f"number {number}", lambda: (last,))  # noqa: B023  # called at once
        assert phrases.read(last) == "always there"


def test_one_that_always_finds_new_words_wipes_out_nobody_else_s(table: PeerTable) -> None:
    quiet = table.record_at(0, table.add_check(0, 7, rise=1, health=1))
    loud = table.record_at(1, table.add_check(1, 7, rise=1, health=1))
    for number in range(HISTORY):
        note_change(table.words, quiet, number, number % 2 == 1, table.keep(f"quiet {number}"))
    note_failure(table.words, quiet, 0, table.keep("quiet at last"), 0)
    table.note_void(1, "no file", quiet)
    for number in range(10_000):
        why = table.keep(f"loud {number}")
        note_failure(table.words, loud, 0, why, number)
        if number % 7 == 0:
            note_change(table.words, loud, number, number % 2 == 1, why)
        if number == 5000:  # another checker goes on
            after = PeerTable.create(KEYS, workers=1)
            after.adopt(table)
            table.close()
            table = after
    record = table.record(0, 0)
    assert [change.why for change in record.history] == [f"quiet {number}" for number in range(HISTORY)]
    assert (record.why, record.void_why, table.voids.why) == ("quiet at last", "no file", "no file")
    record = table.record(1, 0)
    assert record.why == "loud 9999"
    last = 9999 // 7 * 7
    assert [change.why for change in record.history] == [
        f"loud {number}" for number in range(last - 7 * (HISTORY - 1), last + 1, 7)
    ]


def test_when_all_sentences_are_in_use_the_oldest_go() -> None:
    phrases = Phrases()
    kept: dict[str, int] = {}
    for number in range(5000):
        kept[f"number {number}"] = phrases.keep(f"number {number}", kept.values)
        kept["always there"] = phrases.keep("always there", kept.values)
    assert phrases.read(kept["always there"]) == "always there"
    assert phrases.read(kept["number 4999"]) == "number 4999"
    assert phrases.read(kept["number 0"]) == FORGOTTEN
    gone = [number for number in range(5000) if phrases.read(kept[f"number {number}"]) == FORGOTTEN]
    assert gone == list(range(len(gone)))
    assert 900 < len(gone) < 2000


def test_long_and_odd_sentences_are_cut_not_broken() -> None:
    phrases = Phrases()
    assert phrases.read(phrases.keep("x" * 1000)) == "x" * 246
    assert phrases.read(phrases.keep("\udcff \ud800 ä")) == "? ? ä"
