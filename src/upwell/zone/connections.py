"""What each worker counts of its clients' connections, for `stub_status`: memory shared over the fork.

It knows words, each with one writing process.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Final

ACCEPTED: Final = 0
HANDLED: Final = 1
REQUESTS: Final = 2
ACTIVE: Final = 3
READING: Final = 4
WRITING: Final = 5
WAITING: Final = 6
WORDS: Final = 7

_TOTALS: Final = (ACCEPTED, HANDLED, REQUESTS)
_WORD_BYTES: Final = 8


class ConnectionTable:
    """Words for `workers` workers; the last ones, of the master, hold what earlier generations counted. The generation
    before is still asked, as its workers may serve yet.
    """

    __slots__ = ("_before", "_memory", "_words", "workers")

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._memory = mmap.mmap(-1, (workers + 1) * WORDS * _WORD_BYTES)
        self._words = memoryview(self._memory).cast("q")
        self._before: ConnectionTable | None = None

    def __repr__(self) -> str:
        return f"<ConnectionTable {self.workers} workers>"

    def counts(self, worker: int) -> memoryview:
        """The words of one worker, to be written by it alone."""
        return self._words[worker * WORDS : (worker + 1) * WORDS]

    def adopt(self, old: ConnectionTable) -> None:
        """Go on from what was counted before a reload. Called by the master before it forks."""
        words = self.counts(self.workers)
        earlier: list[Sequence[int]] = [old.counts(old.workers)]
        if old._before is not None:
            earlier.append(old._before._own())
            old._before = None
        for place in _TOTALS:
            words[place] = sum(block[place] for block in earlier)
        self._before = old

    def _own(self) -> list[int]:
        """The sums of the workers of this generation."""
        return _sums([self.counts(worker) for worker in range(self.workers)])

    def sums(self) -> list[int]:
        """All workers' words together."""
        blocks: list[Sequence[int]] = [self._own(), self.counts(self.workers)]
        if self._before is not None:
            blocks.append(self._before._own())
        return _sums(blocks)


def _sums(blocks: Sequence[Sequence[int]]) -> list[int]:
    return [sum(block[place] for block in blocks) for place in range(WORDS)]
