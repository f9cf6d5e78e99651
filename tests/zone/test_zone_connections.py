"""The words that workers count their clients' connections in, over reloads."""

from __future__ import annotations

from upwell.zone.connections import ACCEPTED, ACTIVE, HANDLED, REQUESTS, WORDS, ConnectionTable


def test_workers_are_added_up() -> None:
    table = ConnectionTable(2)
    table.counts(0)[ACCEPTED] = 3
    table.counts(1)[ACCEPTED] = 4
    table.counts(1)[ACTIVE] = 1
    assert table.sums()[ACCEPTED] == 7
    assert table.sums()[ACTIVE] == 1
    assert ConnectionTable(0).sums() == [0] * WORDS


def test_counts_go_on_over_reloads_and_old_workers_still_count() -> None:
    tables = [ConnectionTable(1)]
    for _ in range(3):
        old = tables[-1]
        old.counts(0)[REQUESTS] += 10
        old.counts(0)[HANDLED] += 1
        old.counts(0)[ACTIVE] = 5
        new = ConnectionTable(2)
        new.adopt(old)
        tables.append(new)
        old.counts(0)[REQUESTS] += 1  # it serves on
        old.counts(0)[ACTIVE] = 2
    assert tables[-1].sums()[REQUESTS] == 33
    assert tables[-1].sums()[HANDLED] == 3
    assert tables[-1].sums()[ACTIVE] == 2  # those of the generation before; what came before that is gone
    assert tables[-1].workers == 2
