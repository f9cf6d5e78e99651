"""What upwell's processes hold at one moment, and whether what they hold in the course of time grows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.cpu import memory
from upwell.contrib.processes import children

ROLES = ("master", "worker", "checker")
_WARM_UP = 0.25
"""The part of the time in which caches fill: it does not count."""
_LEAST = 8
"""Samples below which nobody can say anything."""


@dataclass(frozen=True, slots=True)
class Sample:
    """`memory` (bytes, proportional set size) and `descriptors` are those of one process of the role, in the mean;
    `processes` how many there are in all."""

    at: float
    memory: dict[str, float]
    descriptors: dict[str, float]
    processes: int


def take(master: int, at: float) -> Sample:
    """Look at the master and all its children."""
    pss: dict[str, list[int]] = {}
    files: dict[str, list[int]] = {}
    processes = 0
    for pid in (master, *children(master)):
        try:
            role = Path(f"/proc/{pid}/comm").read_text().strip().removeprefix("upwell: ")
            held, open_files = memory(pid)[1], len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            continue  # it ended in this moment
        processes += 1
        if role in ROLES:
            pss.setdefault(role, []).append(held)
            files.setdefault(role, []).append(open_files)
    return Sample(
        at,
        {role: sum(each) / len(each) for role, each in pss.items()},
        {role: sum(each) / len(each) for role, each in files.items()},
        processes,
    )


@dataclass(frozen=True, slots=True)
class Trend:
    """What one figure did from `first` to `last`: the values of a straight line through its samples."""

    what: str
    first: float
    last: float
    flat: bool
    unit: str

    def __str__(self) -> str:
        word = "flat" if self.flat else "GROWS"
        return f"{self.what}: {self.first:.1f} to {self.last:.1f} {self.unit}, {word}"


def trend(what: str, unit: str, points: Sequence[tuple[float, float]], part: float, least: float) -> Trend | None:
    """The course of `points` (time, value) after the warm-up: flat unless it grew by more than `part` of itself and by
    more than `least`. None for too few of them."""
    if not points:
        return None
    begin = points[0][0] + _WARM_UP * (points[-1][0] - points[0][0])
    counted = [point for point in points if point[0] >= begin]
    if len(counted) < _LEAST:
        return None
    slope = _slope(counted)
    middle = median(value for _, value in counted)
    half = slope * (counted[-1][0] - counted[0][0]) / 2
    first, last = middle - half, middle + half
    return Trend(what, first, last, last - first <= max(part * max(first, 0.0), least), unit)


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Theil and Sen's: the median of the slopes between all pairs, which a few odd samples do not turn."""
    step = max(1, len(points) // 300)
    points = points[::step]
    return median(
        (late[1] - early[1]) / (late[0] - early[0])
        for index, early in enumerate(points)
        for late in points[index + 1 :]
        if late[0] > early[0]
    )
