"""Checks whose probes wait for each other so long that their interval is not kept: said when it begins, now and then
while it goes on, and when it is over. Knows gates, no log. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from upwell.check.course import Course
from upwell.check.gate import Gate
from upwell.check.trouble import AGAIN

_LOOK = 1.0  # seconds between two looks at the queues; a wait that is shorter is none


class Crowding:
    """`wait` is for how many seconds the probe that waits longest has done so, of all checks, as of the last look;
    the next one is `due` then."""

    __slots__ = ("_crowded", "due", "wait")

    def __init__(self) -> None:
        self._crowded: dict[Course, _Crowded] = {}
        self.due = 0.0
        self.wait = 0.0

    def __repr__(self) -> str:
        return f"<Crowding {self.wait:.3f} s>"

    def settle(self, gates: Iterable[Gate], now: float) -> list[str]:
        """What is to be said now; to be called when it is `due`."""
        self.due = now + _LOOK
        self.wait = 0.0
        said = []
        for gate in gates:
            first = gate.first
            if first is None:
                continue
            wait = now - first.due
            self.wait = max(self.wait, wait)
            course = first.course
            if wait <= max(course.spec.interval, _LOOK):
                continue
            crowded = self._crowded.get(course)
            if crowded is None:
                crowded = self._crowded[course] = _Crowded()
            crowded.last = now
            if now - crowded.said >= AGAIN:
                crowded.said = now
                said.append(
                    f"{_named(course)} cannot keep its interval of {course.spec.interval:g} s: {gate.waiting} probe(s) "
                    f"wait, the longest for {wait:.1f} s, for there are {gate.most} at once"
                )
        for course, crowded in list(self._crowded.items()):
            if now - crowded.last >= AGAIN:
                del self._crowded[course]
                said.append(f"{_named(course)} keeps its interval again")
        return said


class _Crowded:
    __slots__ = ("last", "said")

    def __init__(self) -> None:
        self.said = float("-inf")
        self.last = 0.0


def _named(course: Course) -> str:
    return f'check {course.spec.title} of upstream "{course.spec.upstream}"'
