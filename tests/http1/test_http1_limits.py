"""Counting a head's buffers as it comes in: what was counted is not counted again, and the verdict is the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from upwell.http1.limits import Counted, HeadLimits


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=20),
    st.integers(1, 20),
    st.integers(1, 3),
    st.integers(1, 24),
    st.integers(1, 7),
)
def test_a_head_that_comes_in_pieces_is_counted_as_a_whole_one(
    lines: list[int], first: int, number: int, size: int, step: int
) -> None:
    limits = HeadLimits(first, number, size)
    data = b"".join(b"x" * length + b"\n" for length in lines)
    counted = Counted()
    for end in range(step, len(data) + 1, step):
        whole = limits.exceeded(data[:end], end)
        assert limits.exceeded(data[:end], end, counted) == whole
        if whole:
            return
        assert counted.start <= end


def test_lines_that_were_counted_are_not_looked_at_again() -> None:
    limits = HeadLimits(16, 4, 16)
    counted = Counted()
    data = b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 8
    assert limits.exceeded(data, len(data), counted) == 0
    assert counted.start == len(data)


def test_what_was_counted_by_other_limits_is_counted_anew() -> None:
    counted = Counted()
    data = b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 8
    assert HeadLimits(16, 400, 16).exceeded(data, len(data), counted) == 0
    small = HeadLimits(16, 1, 16)
    assert small.exceeded(data, len(data), counted) == small.exceeded(data, len(data)) == 494
