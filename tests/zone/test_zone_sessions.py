"""Sessions that were learnt: who begins one, how long it lives, and that a full zone lets the oldest go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.zone.test_zone_shared_dict import Clock
from upwell.zone.sessions import Sessions
from upwell.zone.shared_dict import SharedDict
from upwell.zone.stores import STORES

SIZE = 32768


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=sorted(STORES))
def zone(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[SharedDict]:
    made = SharedDict("z", SIZE, STORES[request.param](str(tmp_path / "z"), SIZE), clock)
    yield made
    made.close()


def test_a_session_begins_goes_on_and_changes(zone: SharedDict) -> None:
    sessions = Sessions(zone, 60.0)
    assert sessions.bind(b"s", b"a", False) == ""
    assert sessions.find(b"s") == b""  # nobody said that it begins
    assert sessions.bind(b"s", b"a", True) == ""
    assert sessions.find(b"s") == b"a"
    assert sessions.bind(b"s", b"b", False) == ""
    assert sessions.find(b"s") == b"b"
    assert sessions.find(b"S") == b""


def test_a_session_lives_for_its_time_after_the_last_use(zone: SharedDict, clock: Clock) -> None:
    sessions = Sessions(zone, 60.0)
    sessions.bind(b"s", b"a", True)
    for _ in range(100):
        clock.now += 1.0
        sessions.bind(b"s", b"a", False)
    clock.now += 60.0
    assert sessions.find(b"s") == b"a"
    clock.now += 60.0 / 16 + 0.1
    assert sessions.find(b"s") == b""


def test_a_session_in_use_is_rarely_written(zone: SharedDict, clock: Clock) -> None:
    sessions = Sessions(zone, 60.0)
    sessions.bind(b"s", b"a", True)
    before = zone.ttl(b"\x03\xc7\xc0\xac\xe3\x95\xd8\x01\x82\xdb\x07\xae,0\xf04")  # md5 of "s"
    clock.now += 1.0
    sessions.bind(b"s", b"a", True)
    after = zone.ttl(b"\x03\xc7\xc0\xac\xe3\x95\xd8\x01\x82\xdb\x07\xae,0\xf04")
    assert isinstance(before[0], float)
    assert isinstance(after[0], float)
    assert before[0] - after[0] == pytest.approx(1.0)


def test_a_full_zone_lets_the_oldest_session_go(zone: SharedDict) -> None:
    sessions = Sessions(zone, 60.0)
    told = [sessions.bind(b"%d" % number, b"a" * 32, True) for number in range(1000)]
    assert told[0] == ""
    assert told[-1] == ('could not allocate node in sticky session zone "z", expiring least recently used session')
    assert sessions.find(b"0") == b""
    assert sessions.find(b"999") == b"a" * 32
    assert 200 < sum(sessions.find(b"%d" % number) != b"" for number in range(1000)) < 400


def test_a_name_of_any_length_takes_no_more_room(zone: SharedDict) -> None:
    sessions = Sessions(zone, 60.0)
    assert sessions.bind(b"x" * 100_000, b"a", True) == ""
    assert sessions.find(b"x" * 100_000) == b"a"
