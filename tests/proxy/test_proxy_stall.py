"""Who takes nothing is noticed in time, and not before: whatever he took earlier, and however late one looks."""

from __future__ import annotations

import pytest

from upwell.proxy.stall import Stall


def _ends(stall: Stall, takes: dict[float, int], unsent: int, late: float = 0.0) -> float:
    """When the stall is over: `takes` are the times at which bytes are taken."""
    now, wait = 0.0, stall.first
    while wait:
        before, now = now, now + wait + late
        unsent -= sum(size for at, size in takes.items() if before < at <= now)
        wait = stall.look(unsent, now)
    return now


def test_who_takes_nothing_has_all_the_time_that_is_allowed_and_no_more() -> None:
    assert _ends(Stall(1000, 0.0, 8.0), {}, 1000) == pytest.approx(8.0)


@pytest.mark.parametrize("last", [0.1, 3.0, 7.9, 15.0, 22.5, 30.0])
def test_the_time_counts_from_what_was_taken_last(last: float) -> None:
    takes = {at: 1 for at in (7.0, 14.0, 21.0, 28.0) if at < last} | {last: 1}
    assert last + 8.0 <= _ends(Stall(1000, 0.0, 8.0), takes, 1000) <= last + 9.0


def test_who_looks_late_does_not_add_it_up() -> None:
    assert 8.0 <= _ends(Stall(1000, 0.0, 8.0), {}, 1000, late=0.05) <= 8.06


def test_more_that_is_written_is_nothing_taken() -> None:
    stall = Stall(1000, 0.0, 8.0)
    assert stall.look(5000, 7.9)
    assert stall.look(4000, 7.95) == 1.0  # of the 5000
    assert not stall.look(9000, 15.95)
