"""What is due when, and how a cycle is cut into slices. Pure: the time is an argument."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Schedule(Generic[Item]):
    """Items by the time they are due; those due at the same time come out together, in the order they went in."""

    __slots__ = ("_at", "_dues")

    def __init__(self) -> None:
        self._at: dict[float, list[Item]] = {}
        self._dues: list[float] = []

    def __len__(self) -> int:
        return sum(map(len, self._at.values()))

    def add(self, due: float, item: Item) -> None:
        items = self._at.get(due)
        if items is None:
            self._at[due] = [item]
            heappush(self._dues, due)
        else:
            items.append(item)

    def at(self, due: float) -> list[Item]:
        """What is due at one time, to be added to until then."""
        items = self._at.get(due)
        if items is None:
            items = self._at[due] = []
            heappush(self._dues, due)
        return items

    def next_due(self) -> float | None:
        """When the first item is due, None when there is none."""
        return self._dues[0] if self._dues else None

    def take(self, now: float, most: int) -> tuple[float, list[Item]] | None:
        """The first time that has come at `now`, and what is due then, but `most` items at a time."""
        if not self._dues or self._dues[0] > now:
            return None
        due = self._dues[0]
        items = self._at[due]
        if len(items) > most:
            self._at[due] = items[most:]
            return due, items[:most]
        heappop(self._dues)
        del self._at[due]
        return due, items


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
