"""lua_shared_dict: expiry, eviction, lists on every kind of store; several real processes on LMDB."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from upwell.zone.shared_dict import SharedDict, make_directory, open_dicts, remove_directory
from upwell.zone.stores import STORES

SIZE = 65536


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=sorted(STORES))
def zone(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[SharedDict]:
    made = SharedDict("z", SIZE, STORES[request.param](str(tmp_path / "z"), SIZE), clock)
    yield made
    made.close()


def test_values_keep_their_types(zone: SharedDict) -> None:
    for value in (b"", b"x" * 1000, 0.0, -1.5, float("inf"), True, False):
        assert zone.store("set", b"k", value) == (True, None, False)
        (got,) = zone.get(b"k")
        assert got == value
        assert type(got) is type(value)


def test_keys_of_any_length_are_apart(zone: SharedDict) -> None:
    keys = [b"a" * length for length in (1, 479, 480, 481, 511, 512, 5000)]
    for index, key in enumerate(keys):
        zone.store("set", key, float(index))
    assert [zone.get(key)[0] for key in keys] == list(map(float, range(len(keys))))
    assert zone.keys(0) == keys


def test_expiry(zone: SharedDict, clock: Clock) -> None:
    zone.store("set", b"k", b"v", 1.0, 7)
    assert zone.ttl(b"k") == (1.0,)
    clock.now += 0.999
    assert zone.get(b"k") == (b"v", 7)
    clock.now += 0.001
    assert zone.get(b"k") == (None,)
    assert zone.get_stale(b"k") == (b"v", 7, True)
    assert zone.ttl(b"k") == (None, b"not found")
    assert zone.incr(b"k", 1) == (None, b"not found")
    assert zone.keys() == []
    assert zone.store("add", b"k", b"w", 5.0) == (True, None, False)
    assert zone.expire(b"k", 0.0) == (True,)
    clock.now += 1000
    assert zone.get(b"k") == (b"w",)


def test_incr_keeps_the_expiry_it_found(zone: SharedDict, clock: Clock) -> None:
    assert zone.incr(b"n", 1, 10.0, 2.0) == (11.0, None, False)
    clock.now += 1
    assert zone.incr(b"n", 1, 0.0, 50.0) == (12.0, None, False)
    assert zone.ttl(b"n") == (1.0,)


def test_flush_expired_counts_and_frees(zone: SharedDict, clock: Clock) -> None:
    for index in range(10):
        zone.store("set", b"%d" % index, b"x" * 5000, 1.0 if index < 6 else 0.0)
    before = zone.free_space()
    clock.now += 2
    assert zone.flush_expired(2) == 2
    assert zone.flush_expired() == 4
    assert zone.flush_expired() == 0
    assert zone.free_space() >= before + 6 * 5000 - 4096


def test_the_oldest_gives_way_and_reading_makes_young(zone: SharedDict) -> None:
    value = b"x" * 6000
    for index in range(10):
        assert zone.store("set", b"%d" % index, value) == (True, None, False)
    assert zone.get(b"0")[0] == value
    assert zone.store("set", b"new", value) == (True, None, True)
    assert zone.get(b"1") == (None,)
    assert zone.get(b"0")[0] == value


def test_expired_records_go_first_and_that_is_not_forcible(zone: SharedDict, clock: Clock) -> None:
    value = b"x" * 6000
    for index in range(10):
        zone.store("set", b"%d" % index, value, 1.0 if index == 9 else 0.0)
    clock.now += 2
    assert zone.store("set", b"new", value) == (True, None, False)
    assert zone.get(b"0")[0] == value


def test_safe_operations_never_make_others_give_way(zone: SharedDict, clock: Clock) -> None:
    value = b"x" * 6000
    for index in range(10):
        zone.store("safe_set", b"%d" % index, value, 10.0)
    assert zone.store("safe_set", b"new", value) == (False, b"no memory", False)
    assert zone.store("safe_add", b"new", value) == (False, b"no memory", False)
    assert zone.push(b"list", value, True) == (None, b"no memory")
    assert zone.store("safe_set", b"3", b"y" * 6000) == (True, None, False)
    clock.now += 11
    assert zone.store("safe_set", b"new", value) == (True, None, False)


def test_what_never_fits(zone: SharedDict) -> None:
    zone.store("set", b"k", b"v")
    assert zone.store("set", b"k", b"x" * SIZE) == (False, b"no memory", False)
    assert zone.get(b"k") == (b"v",)


def test_what_is_used_comes_back(zone: SharedDict) -> None:
    full = zone.free_space()
    for turn in range(3):
        for index in range(50):
            zone.store("set", b"%d" % index, b"x" * (index * 10 + turn))
            zone.incr(b"n%d" % index, 1, 0.0)
            zone.push(b"list", b"element", index % 2 == 0)
        for key in zone.keys(0):
            zone.store("set", key, None)
    assert zone.free_space() == full
    assert zone.keys(0) == []


def test_lists(zone: SharedDict, clock: Clock) -> None:
    for index in range(100):
        assert zone.push(b"l", float(index), False) == (index + 1,)
    assert zone.push(b"l", b"first", True) == (101,)
    assert [zone.pop(b"l", True)[0] for _ in range(3)] == [b"first", 0.0, 1.0]
    assert zone.pop(b"l", False) == (99.0,)
    assert zone.llen(b"l") == (97,)
    assert zone.expire(b"l", 1.0) == (True,)
    clock.now += 2
    assert zone.llen(b"l") == (0,)
    assert zone.pop(b"l", True) == (None,)
    assert zone.push(b"l", b"new", True) == (1,)
    assert zone.pop(b"l", False) == (b"new",)
    assert zone.keys() == []
    zone.store("set", b"v", b"value")
    assert zone.push(b"v", b"x", True) == (None, b"value not a list")
    assert zone.pop(b"v", True) == (None, b"value not a list")
    assert zone.llen(b"v") == (None, b"value not a list")


def test_flush_all(zone: SharedDict) -> None:
    zone.store("set", b"a", b"1")
    zone.push(b"l", b"x", True)
    zone.flush_all()
    assert zone.get(b"a") == (None,)
    assert zone.get_stale(b"a") == (b"1", None, True)
    assert zone.llen(b"l") == (0,)
    zone.store("set", b"b", b"2")
    assert zone.keys() == [b"b"]
    assert zone.flush_expired() == 2


def test_a_full_store_is_no_memory_and_changes_nothing(tmp_path: Path) -> None:
    # A store made for one byte has some 4 MiB, so it is full long before the zone is.
    zone = SharedDict("z", 1 << 30, STORES["lmdb"](str(tmp_path / "z"), 1), Clock())
    stored = 0
    while zone.store("set", b"%d" % stored, b"x" * 100_000)[0]:
        stored += 1
    assert 0 < stored < 1000
    assert zone.store("set", b"other", b"x" * 100_000) == (False, b"no memory", False)
    assert len(zone.keys(0)) == stored
    assert zone.store("set", b"0", None) == (True, None, False)
    zone.close()


# Several processes

fork = multiprocessing.get_context("fork")


@pytest.fixture
def directory() -> Iterator[str]:
    made = make_directory()
    yield made
    remove_directory(made)


def in_processes(count: int, task: Callable[[int], None]) -> None:
    """Run `task(number)` in `count` processes at once; all must end well."""
    processes = [fork.Process(target=task, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0


def test_the_directory_is_private(directory: str) -> None:
    assert os.stat(directory).st_mode & 0o777 == 0o700
    open_dicts(directory, {"z": SIZE})["z"].close()
    assert {os.stat(entry.path).st_mode & 0o777 for entry in os.scandir(directory)} == {0o600}


def test_remove_directory_twice() -> None:
    made = make_directory()
    remove_directory(made)
    remove_directory(made)
    assert not os.path.exists(made)


def test_processes_count_together_and_add_once(directory: str) -> None:
    def work(number: int) -> None:
        zone = open_dicts(directory, {"z": SIZE * 4})["z"]
        for turn in range(200):
            zone.incr(b"count", 1, 0.0)
            if zone.store("add", b"turn%d" % turn, float(number))[0]:
                zone.incr(b"won", 1, 0.0)
            zone.push(b"list", b"%d" % number, True)

    in_processes(4, work)
    zone = open_dicts(directory, {"z": SIZE * 4})["z"]
    assert zone.get(b"count") == (800.0,)
    assert zone.get(b"won") == (200.0,)
    assert zone.llen(b"list") == (800,)
    zone.close()


def test_a_killed_writer_leaves_a_zone_that_works(directory: str) -> None:
    def write() -> None:
        zone = open_dicts(directory, {"z": SIZE})["z"]
        while True:
            zone.store("set", b"k", os.urandom(2000))
            zone.incr(b"count", 1, 0.0)
            if not ready.is_set():
                ready.set()

    for _ in range(5):
        ready = fork.Event()  # a new one: the killed process may have died with the lock of its own
        process = fork.Process(target=write)
        process.start()
        assert ready.wait(20)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(20)
    zone = open_dicts(directory, {"z": SIZE})["z"]
    count = zone.get(b"count")[0]
    assert isinstance(count, float)
    assert count >= 5
    assert zone.incr(b"count", 1) == (count + 1,)
    value = zone.get(b"k")[0]
    assert isinstance(value, bytes)
    assert len(value) == 2000
    zone.close()


def test_content_stays_while_the_size_does(directory: str) -> None:
    def fill(number: int) -> None:
        open_dicts(directory, {"z": SIZE})["z"].store("set", b"k", b"v")

    in_processes(1, fill)
    same = open_dicts(directory, {"z": SIZE})["z"]
    other = open_dicts(directory, {"z": SIZE * 2})["z"]
    assert same.get(b"k") == (b"v",)
    assert other.get(b"k") == (None,)
    same.close()
    other.close()
