"""Rates and counts in shared zones: buckets, what a full zone does, processes that die."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from upwell.zone.counts import Counts
from upwell.zone.keyed import KeyedTable
from upwell.zone.rates import Rates

MINUTE = 60_000
SMALL = 32 << 10


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "zone")


@pytest.fixture
def rates(path: str) -> Iterator[Rates]:
    """A request a second; room for 256 keys."""
    made = Rates("zone", path, SMALL, 1000)
    yield made
    made.close()


def test_a_bucket_leaks_with_its_rate(rates: Rates) -> None:
    assert [rates.take(b"a", 1000, 5000) for _ in range(3)] == [0, 1000, 2000]
    assert rates.take(b"b", 1000, 5000) == 0
    assert rates.take(b"a", 1500, 5000) == 2500
    assert rates.excess(b"a", 2000) == 3000
    assert rates.excess(b"a", 2000) == 3000  # only looked at
    assert rates.take(b"a", 9000, 5000) == 0


def test_one_request_too_many_is_not_counted(rates: Rates) -> None:
    assert [rates.take(b"a", 1000, 1000) for _ in range(4)] == [0, 1000, 2000, 2000]
    assert rates.take(b"a", 2000, 1000) == 1000


def test_a_clock_that_goes_back_leaks_nothing(rates: Rates) -> None:
    rates.take(b"a", 2000, 5000)
    assert rates.take(b"a", 1000, 5000) == 1000
    assert rates.take(b"a", 2000, 5000) == 2000  # since 2000, not since 1000


def test_a_full_zone_lets_the_longest_unused_go(rates: Rates) -> None:
    for number in range(256):
        rates.take(b"%d" % number, 1000, 0)
    assert rates.take(b"0", 1000, 0) == 1000  # it is used, so the next one is the oldest
    assert rates.take(b"new", 1000, 0) == 0
    assert rates.take(b"0", 1000, 0) == 1000
    assert rates.take(b"1", 1000, 0) == 0  # forgotten


def test_what_says_nothing_any_more_makes_room(path: str) -> None:
    rates = Rates("zone", path, SMALL, 1000)
    for number in range(256):
        rates.take(b"%d" % number, number, 0)
    rates.take(b"later", 2 * MINUTE, 0)
    table = KeyedTable(path, 256)
    with table:
        assert [bool(table.find(table.digest(b"%d" % number))) for number in range(4)] == [False, False, True, True]
    table.close()
    rates.close()


def test_two_processes_count_in_one_zone(rates: Rates, path: str) -> None:
    other = Rates("zone", path, SMALL, 1000)
    assert rates.take(b"a", 1000, 5000) == 0
    assert other.take(b"a", 1000, 5000) == 1000
    assert rates.take(b"a", 1000, 5000) == 2000
    other.close()


def test_a_zone_whose_writer_died_begins_anew(rates: Rates, path: str) -> None:
    rates.take(b"a", 1000, 5000)
    in_child(lambda: KeyedTable(path, 256).__enter__())
    assert rates.take(b"a", 1000, 5000) == 0
    assert rates.take(b"a", 1000, 5000) == 1000
    for number in range(300):
        rates.take(b"%d" % number, 1000, 0)


def test_a_zone_begins_anew_also_where_who_began_it_died_meanwhile(path: str) -> None:
    def die_at(last: int) -> None:
        """Go `last` lines far in what clears the table."""
        left = last

        def line(_: FrameType, event: str, __: Any) -> Callable[..., Any]:
            nonlocal left
            left -= event == "line"
            if not left:
                os._exit(1)
            return line

        def call(frame: FrameType, _: str, __: Any) -> Callable[..., Any] | None:
            return line if frame.f_code.co_name == "_begin_anew" else None

        sys.settrace(call)
        with KeyedTable(path, 256):
            pass

    for last in range(1, 12):
        rates = Rates("zone", path, SMALL, 1000)
        for key in (b"a", b"b"):
            rates.take(key, 1000, 5000)
        in_child(lambda: KeyedTable(path, 256).__enter__())
        in_child(partial(die_at, last))
        assert rates.take(b"b", 1000, 5000) == 0
        assert rates.take(b"a", 1000, 5000) == 0
        assert rates.take(b"b", 1000, 5000) == 1000
        rates.close()


def test_a_zone_whose_change_failed_begins_anew(rates: Rates, path: str) -> None:
    rates.take(b"a", 1000, 5000)
    table = KeyedTable(path, 256)
    with pytest.raises(MemoryError), table:
        raise MemoryError
    table.close()
    assert rates.take(b"a", 1000, 5000) == 0


def test_keys_come_and_go_without_loss(path: str) -> None:
    table = KeyedTable(path, 8)
    places: dict[bytes, int] = {}
    with table:
        for round_ in range(200):
            key = b"%d" % (round_ * 7 % 23)
            if key in places:
                table.remove(places.pop(key))
            elif len(places) < 8:
                places[key] = table.add(table.digest(key))
            assert {key: table.find(table.digest(key)) for key in places} == places
            assert len(set(places.values())) == len(places)
        assert 0 not in places.values()
        while table.add(table.digest(os.urandom(8))):
            pass
        while table.oldest:
            table.remove(table.oldest)
        assert not any(table.find(table.digest(key)) for key in places)
    table.close()


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
def counts(path: str, now: list[float]) -> Iterator[Counts]:
    made = Counts("zone", path, SMALL, lambda: now[0])
    yield made
    made.close()


def test_a_count_has_an_end(counts: Counts) -> None:
    held = [counts.enter(b"a", 2) for _ in range(3)]
    assert [one is not None for one in held] == [True, True, False]
    assert not counts.is_full(b"a")
    assert counts.enter(b"b", 2) is not None
    assert held[0] is not None
    counts.leave(held[0])
    assert counts.enter(b"a", 2) is not None
    assert counts.enter(b"a", 2) is None


def test_a_full_zone_takes_no_more_keys(counts: Counts) -> None:
    held = [counts.enter(b"%d" % number, 1) for number in range(513)]
    assert held.index(None) == 512
    assert counts.is_full(b"512")
    assert held[0] is not None
    counts.leave(held[0])
    assert counts.enter(b"512", 1) is not None


def test_processes_count_together_and_close_takes_back(counts: Counts, path: str) -> None:
    other = Counts("zone", path, SMALL)
    assert other.enter(b"a", 2) is not None
    assert counts.enter(b"a", 2) is not None
    assert other.enter(b"a", 2) is None
    other.close()
    assert counts.enter(b"a", 2) is not None
    assert counts.enter(b"a", 2) is None


def test_what_a_dead_process_has_counted_goes_when_somebody_needs_it(
    counts: Counts, path: str, now: list[float]
) -> None:
    kept = counts.enter(b"a", 3)
    in_child(lambda: [Counts("zone", path, SMALL).enter(b"a", 3) for _ in range(2)])
    assert counts.enter(b"a", 3) is None  # it has just looked
    now[0] = 2.0
    assert counts.enter(b"a", 3) is not None
    assert counts.enter(b"a", 3) is not None
    assert counts.enter(b"a", 3) is None
    assert kept is not None
    counts.leave(kept)
    assert counts.enter(b"a", 3) is not None


def test_a_process_that_starts_takes_the_place_of_a_dead_one(path: str, tmp_path: Path) -> None:
    for _ in range(3):
        in_child(lambda: Counts("zone", path, SMALL).enter(b"a", 1))
    counts = Counts("zone", path, SMALL)
    assert counts.enter(b"a", 1) is not None
    counts.close()
    assert sorted(os.listdir(tmp_path)) == ["zone", "zone.0"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to give up")
def test_files_are_those_of_the_folder_s_owner(path: str, tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    Rates("zone", f"{path}.rates", SMALL, 1000).close()
    Counts("zone", path, SMALL).close()
    assert {entry.stat().st_uid for entry in os.scandir(tmp_path)} == {65534}


def test_what_was_counted_before_a_zone_began_anew_is_not_taken_back(counts: Counts, path: str) -> None:
    held = counts.enter(b"a", 1)
    in_child(lambda: KeyedTable(path, SMALL // 64).__enter__())
    new = counts.enter(b"b", 1)
    assert held is not None
    assert new is not None
    counts.leave(held)
    assert counts.enter(b"b", 1) is None
    counts.leave(new)
    assert counts.enter(b"b", 1) is not None


def in_child(action: object) -> None:
    """Do `action` in a process that then is gone as one that was killed."""
    assert callable(action)
    pid = os.fork()
    if not pid:
        try:
            action()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
