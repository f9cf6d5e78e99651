"""What each process counted of its look-ups of names, for each `resolver`: memory shared over the fork.

It knows words, not what a resolver is. Each block of words has one writing process.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Final, Protocol

COUNT_LOOKUPS: Final = 0  # names looked up
COUNT_QUERIES: Final = 1  # questions sent to servers
COUNT_JUNK: Final = 2  # messages that were no answer
COUNT_AT: Final = 3  # when the last look-up was answered, milliseconds, 0: none
COUNT_FAILING: Final = 4  # names whose last look-up failed
COUNT_CODES: Final = 5  # look-ups by what came of them, see CODES
CODES: Final = ("noerror", "formerr", "servfail", "nxdomain", "notimp", "refused", "timedout", "unknown")
COUNT_WORDS: Final = COUNT_CODES + len(CODES)

_WORD_BYTES: Final = 8
_TIMED_OUT: Final = 110


def place_of(code: int) -> int:
    """Where the look-ups with this code are counted, from COUNT_CODES."""
    if code == _TIMED_OUT:
        return CODES.index("timedout")
    return code if 0 <= code < CODES.index("timedout") else CODES.index("unknown")


class Words(Protocol):
    """One block: memory, or a list."""

    def __getitem__(self, place: int, /) -> int: ...
    def __setitem__(self, place: int, value: int, /) -> None: ...


class ResolverTable:
    """Blocks for the resolvers called `names` and `workers` workers; one more is the checker's: number `workers`. The
    last one, of the master, holds what earlier generations counted."""

    __slots__ = ("_memory", "_words", "names", "workers", "writers")

    def __init__(self, names: Sequence[str], workers: int) -> None:
        self.names = tuple(names)
        self.workers = workers
        self.writers = workers + 2
        self._memory = mmap.mmap(-1, max(len(names) * self.writers * COUNT_WORDS, 1) * _WORD_BYTES)
        self._words = memoryview(self._memory).cast("q")

    def __repr__(self) -> str:
        return f"<ResolverTable {len(self.names)} resolvers, {self.writers} writers>"

    def counts(self, name: str, writer: int) -> memoryview:
        """The words of one process, to be written by it alone. Raises ValueError for one that is not there."""
        if not 0 <= writer < self.writers:
            raise ValueError(f"no writer {writer}")
        start = (self.names.index(name) * self.writers + writer) * COUNT_WORDS
        return self._words[start : start + COUNT_WORDS]

    def adopt(self, old: ResolverTable) -> None:
        """Go on from what was counted before a reload. Called by the master before it forks."""
        for name in self.names:
            if name in old.names:
                words = self.counts(name, self.writers - 1)
                for place, count in enumerate(old.sums(name)):
                    words[place] = count
                words[COUNT_FAILING] = 0

    def sums(self, name: str) -> list[int]:
        """All processes' words together; of COUNT_AT the latest."""
        blocks = [self.counts(name, writer) for writer in range(self.writers)]
        words = [sum(column) for column in zip(*blocks, strict=True)]
        words[COUNT_AT] = max(block[COUNT_AT] for block in blocks)
        return words
