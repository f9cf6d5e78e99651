"""Coarse time-outs: never early, at most 50 ms late, moved and dropped at will; the texts of the wall clock."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.joined import Loop
from upwell.proxy.clock import Clock, http_date
from upwell.proxy.timers import Alarm, Timers


def _timers() -> tuple[Loop, Timers]:
    loop = Loop()
    return loop, Timers(cast("asyncio.AbstractEventLoop", loop))


def _alarm(loop: Loop) -> tuple[Alarm, list[float]]:
    """An alarm, and when it went off."""
    fired: list[float] = []
    return Alarm(lambda: fired.append(loop.time())), fired


@given(st.floats(0.0, 100.0))
def test_a_timeout_fires_once_and_hardly_late(seconds: float) -> None:
    loop, timers = _timers()
    alarm, fired = _alarm(loop)
    timers.arm(alarm, seconds)
    due = loop.time() + seconds
    loop.advance(200)
    assert len(fired) == 1
    assert due <= fired[0] <= due + 0.0501


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["armed", "dropped", "disarmed"]), st.floats(0.0, 9.0))))
def test_only_the_last_word_counts(steps: list[tuple[int, str, float]]) -> None:
    loop, timers = _timers()
    alarms = [_alarm(loop) for _ in range(4)]
    due: dict[int, float] = {}
    expected: dict[int, int] = dict.fromkeys(range(4), 0)
    for number, what, seconds in steps:
        if what == "armed":
            timers.arm(alarms[number][0], seconds)
            due[number] = loop.time() + seconds
        else:
            (timers.drop if what == "dropped" else timers.disarm)(alarms[number][0])
            due.pop(number, None)
        loop.advance(1.0)
        for other, when in list(due.items()):
            # Within the sweep's coarseness either is right, so those deadlines wait for the next step.
            fired = alarms[other][1][expected[other] :]
            assert all(at >= when for at in fired)
            if when + 0.06 < loop.time() or fired:
                expected[other] += 1
                del due[other]
        assert [len(fired) for _, fired in alarms] == list(expected.values())
    loop.advance(20.0)
    for number in due:
        expected[number] += 1
    assert [len(fired) for _, fired in alarms] == list(expected.values())


def test_an_item_may_be_armed_anew_and_others_dropped_while_it_times_out() -> None:
    loop, timers = _timers()
    other, other_fired = _alarm(loop)
    fired: list[float] = []

    def go_off() -> None:
        fired.append(loop.time())
        timers.drop(other)
        if len(fired) < 3:
            timers.arm(again, 1.0)

    again = Alarm(go_off)
    timers.arm(again, 1.0)
    timers.arm(other, 1.5)
    loop.advance(10.0)
    assert len(fired) == 3
    assert other_fired == []


def test_nothing_fires_after_the_end() -> None:
    loop, timers = _timers()
    alarm, fired = _alarm(loop)
    timers.arm(alarm, 1.0)
    timers.close()
    loop.advance(5.0)
    assert fired == []


def test_a_date_is_the_imf_fixdate() -> None:
    assert http_date(784111777) == b"Sun, 06 Nov 1994 08:49:37 GMT"  # RFC 9110, 5.6.7
    assert http_date(0) == b"Thu, 01 Jan 1970 00:00:00 GMT"


def test_the_clock_follows_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    for now, date in ((784111777.9, b"08:49:37"), (784111778.0, b"08:49:38")):
        monkeypatch.setattr("time.time", lambda now=now: now)
        clock.refresh()
        assert date in clock.date
        assert clock.date.endswith(b" GMT\r\n")
    assert len(clock.local) == len("06/Nov/1994:08:49:38 +0000")
    assert len(clock.iso8601) == len("1994-11-06T08:49:38+00:00")


def test_one_that_fails_does_not_keep_the_others_from_being_woken() -> None:
    """And it is told, with its reason."""

    async def run() -> tuple[list[str], list[object]]:
        loop = asyncio.get_running_loop()
        told: list[object] = []
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        timers = Timers(loop)
        woken: list[str] = []
        done = asyncio.Event()

        def wake(name: str) -> None:
            woken.append(name)
            if len(woken) == 3:
                done.set()
            if name == "b":
                raise OSError(name)

        for name in "abc":
            timers.arm(Alarm(partial(wake, name)), 0.0)
        await asyncio.wait_for(done.wait(), 10)
        timers.close()
        return woken, told

    woken, told = asyncio.run(run())
    assert sorted(woken) == ["a", "b", "c"]
    assert [type(error) for error in told] == [OSError]
