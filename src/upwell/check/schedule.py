"""What is due when, and how a cycle is cut into slices. Pure: the time is an argument."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Schedule(Generic[Item]):
    """Items by the time they are due; those due at the same time come out in the order they went in."""

    __slots__ = ("_heap", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Item]] = []
        self._serial = count()

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, due: float, item: Item) -> None:
        heappush(self._heap, (due, next(self._serial), item))

    def next_due(self) -> float | None:
        """When the first item is due, None when there is none."""
        return self._heap[0][0] if self._heap else None

    def pop(self, now: float) -> tuple[float, Item] | None:
        """The first item and its time if it is due at `now`."""
        if not self._heap or self._heap[0][0] > now:
            return None
        due, _, item = heappop(self._heap)
        return due, item


def slices(peers: int, concurrency: int) -> list[range]:
    """How lua-resty cuts a cycle over `peers` peers: each slice is probed one peer after the other, all slices at once.

    With no more peers than `concurrency` each is a slice of its own, else slices of ceil(peers / concurrency).
    """
    if peers == 0:
        return []
    if concurrency <= 1:
        return [range(peers)]
    size = -(-peers // concurrency)
    return [range(start, min(start + size, peers)) for start in range(0, peers, size)]


def slice_words(parts: list[range], role: str, concurrency: int) -> list[str]:
    """lua-resty's debug line for the start of each slice; empty where it writes none (`role`: "primary", "backup")."""
    if concurrency <= 1:
        return [""] * len(parts)
    alone = len(parts) > 0 and parts[-1].stop <= concurrency
    words = []
    for at, part in enumerate(parts):
        verb = "check" if at == len(parts) - 1 else "spawn a thread checking"
        which = f"peer {part.start}" if alone else f"peers {part.start} to {part.stop - 1}"
        words.append(f"{verb} {role} {which}")
    return words
