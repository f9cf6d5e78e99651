"""Coarse time-outs: one sweep for all connections of a worker, no timer object for each (design, speed rule 1).

Moving a deadline later, the usual case, is two attribute writes; the sweep finds out when the old one comes up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

_PER_SECOND: Final = 20  # a time-out fires at most 50 ms late
NEVER: Final = float("inf")


class Timed(asyncio.BaseProtocol):
    """What can be timed, a connection: `deadline` and `slot` belong to Timers."""

    __slots__ = ("deadline", "slot")

    def __init__(self) -> None:
        self.deadline: float = NEVER
        self.slot: int = 0

    def timed_out(self) -> None:
        raise NotImplementedError


class Alarm(Timed):
    """Calls `wake()` when its time is over."""

    __slots__ = ("_wake",)

    def __init__(self, wake: Callable[[], object]) -> None:
        super().__init__()
        self._wake = wake

    def timed_out(self) -> None:
        self._wake()


class Timers:
    __slots__ = ("_buckets", "_due", "_handle", "_loop", "_next", "_now")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._now = loop.time
        self._buckets: dict[int, set[Timed]] = {}
        self._due: list[int] = []
        self._handle: asyncio.TimerHandle | None = None
        self._next = 0

    def arm(self, item: Timed, seconds: float) -> None:
        """Call `item.timed_out()` once `seconds` have passed, unless it is armed anew or disarmed before."""
        item.deadline = deadline = self._now() + seconds
        if item.slot == 0 or deadline * _PER_SECOND < item.slot - 1:
            self._insert(item, int(deadline * _PER_SECOND) + 1)

    def disarm(self, item: Timed) -> None:
        """No time-out for `item` until it is armed again."""
        item.deadline = NEVER

    def drop(self, item: Timed) -> None:
        """Forget `item`, whose life is over."""
        item.deadline = NEVER
        if item.slot:
            bucket = self._buckets.get(item.slot)
            if bucket is not None:
                bucket.discard(item)
            item.slot = 0

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._buckets.clear()
        self._due.clear()

    def _insert(self, item: Timed, slot: int) -> None:
        if item.slot:
            self._buckets[item.slot].discard(item)
        item.slot = slot
        bucket = self._buckets.get(slot)
        if bucket is None:
            bucket = self._buckets[slot] = set()
            heappush(self._due, slot)
            if self._handle is None or slot < self._next:
                self._schedule()
        bucket.add(item)

    def _schedule(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._due:
            self._next = self._due[0]
            self._handle = self._loop.call_at(self._next / _PER_SECOND, self._sweep)

    def _sweep(self) -> None:
        self._handle = None
        now = self._now()
        current = int(now * _PER_SECOND)
        while self._due and self._due[0] <= current:
            # The bucket is taken out first: items may be armed again while it is gone through.
            bucket = self._buckets.pop(heappop(self._due))
            for item in bucket:
                item.slot = 0
            for item in bucket:
                if item.deadline <= now:
                    item.deadline = NEVER
                    try:
                        item.timed_out()
                    except Exception as error:  # the others' time is up all the same
                        message = "unexpected exception behind a time-out"
                        self._loop.call_exception_handler({"message": message, "exception": error})
                elif item.deadline < NEVER and item.slot == 0:
                    self._insert(item, int(item.deadline * _PER_SECOND) + 1)
        self._schedule()
