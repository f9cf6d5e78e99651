"""The cut into slices against lua-resty's loop, and the order of what is due."""

from __future__ import annotations

from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from upwell.check.schedule import Schedule, slice_words, slices


def as_lua_resty(n: int, concurrency: int) -> tuple[list[tuple[int, int]], list[str]]:
    """check_peers() with its 1-based loops: the ranges that are checked together, from 0, and its debug lines."""
    if n == 0:
        return [], []
    if concurrency <= 1:
        return [(0, n - 1)], []
    if n <= concurrency:
        words = [f"spawn a thread checking primary peer {i}" for i in range(n - 1)]
        return [(i, i) for i in range(n)], [*words, f"check primary peer {n - 1}"]
    size = ceil(n / concurrency)
    threads = ceil(n / size) - 1
    ranges, words = [], []
    start, rest = 1, n
    for _ in range(threads):
        rest -= size
        stop = start + size - 1
        words.append(f"spawn a thread checking primary peers {start - 1} to {stop - 1}")
        ranges.append((start - 1, stop - 1))
        start += size
    if rest > 0:
        words.append(f"check primary peers {start - 1} to {start + rest - 2}")
        ranges.append((start - 1, start + rest - 2))
    return ranges, words


@given(st.integers(0, 60), st.integers(-1, 70))
def test_slices_are_lua_resty_s(peers: int, concurrency: int) -> None:
    parts = slices(peers, concurrency)
    ranges, words = as_lua_resty(peers, concurrency)
    assert [(part.start, part.stop - 1) for part in parts] == ranges
    assert [line for line in slice_words(parts, "primary", concurrency) if line] == words
    assert len(slice_words(parts, "backup", concurrency)) == len(parts)
    assert [peer for part in parts for peer in part] == list(range(peers))


@given(st.lists(st.integers(0, 20), max_size=50), st.integers(0, 20), st.integers(1, 9))
def test_what_is_due_comes_in_order_and_no_sooner(dues: list[int], now: int, most: int) -> None:
    schedule: Schedule[int] = Schedule()
    assert schedule.next_due() is None
    assert schedule.take(99.0, most) is None
    for number, due in enumerate(dues):
        schedule.add(due, number)
    assert schedule.next_due() == (min(dues) if dues else None)
    got = []
    while (batch := schedule.take(now, most)) is not None:
        assert 0 < len(batch[1]) <= most
        got += [(batch[0], number) for number in batch[1]]
    assert got == sorted(((due, number) for number, due in enumerate(dues) if due <= now))
    assert len(schedule) == sum(due > now for due in dues)
