"""The health integer against two counters written as lua-resty-upstream-healthcheck has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upwell.peers.health import Thresholds, Transition


class TwoCounters:
    """lua-resty's peer_ok and peer_fail, with a dict where it has shared memory."""

    def __init__(self, rise: int, fall: int, down: bool) -> None:
        self.rise, self.fall, self.down = rise, fall, down
        self.ok: int | None = None
        self.nok: int | None = None

    def observe(self, passed: bool) -> tuple[Transition, int] | None:
        if passed:
            self.ok = (self.ok or 0) + 1
            if self.ok == 1:
                self.nok = 0
            if self.down and self.ok >= self.rise:
                self.down = False
                return Transition.UP, self.ok
            return None
        self.nok = (self.nok or 0) + 1
        if self.nok == 1:
            self.ok = 0
        if not self.down and self.nok >= self.fall:
            self.down = True
            return Transition.DOWN, self.nok
        return None


@given(st.integers(-1, 6), st.integers(-1, 6), st.booleans(), st.lists(st.booleans(), max_size=60))
def test_the_integer_equals_two_counters(rise: int, fall: int, down: bool, stream: list[bool]) -> None:
    thresholds = Thresholds(rise, fall)
    word = thresholds.initial(not down)
    counters = TwoCounters(rise, fall, down)
    for passed in stream:
        before = word
        word, transition = thresholds.observe(word, passed)
        expected = counters.observe(passed)
        assert transition == (expected and expected[0])
        if expected is not None:
            # The number in the log line.
            assert expected[1] == (thresholds.rise if passed else thresholds.fall)
            assert thresholds.streak(before) + 1 == expected[1]
        assert thresholds.is_up(word) is not counters.down
        assert 0 <= word <= thresholds.top
        against = counters.ok if counters.down else counters.nok
        assert thresholds.streak(word) == (against or 0)


def test_a_peer_goes_down_after_fall_failures_in_a_row_only() -> None:
    thresholds = Thresholds(rise=2, fall=3)
    word = thresholds.initial(True)
    changes = []
    for passed in (False, False, True, False, False, False, False, True, False, True, True):
        word, transition = thresholds.observe(word, passed)
        changes.append(transition)
    assert changes == [None, None, None, None, None, Transition.DOWN, None, None, None, None, Transition.UP]


@pytest.mark.parametrize("number", [0, -3])
def test_thresholds_below_one_mean_one(number: int) -> None:
    thresholds = Thresholds(number, number)
    assert thresholds.observe(thresholds.initial(True), False) == (0, Transition.DOWN)
    assert thresholds.observe(0, True) == (thresholds.top, Transition.UP)
