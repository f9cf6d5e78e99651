"""How many targets are probed at once: of one check, and of all. Pure: counts and queues.

A target whose last probe ran into its time-out holds its place for a whole time-out again, most likely. Such ones get
half of the places at most and queue by themselves, so that ten thousand black holes delay nobody else.
"""

from __future__ import annotations

from collections import deque

from upwell.check.target import Target


class Gate:
    """`most` places (0: without end), handed out in the order of asking."""

    __slots__ = ("_held", "_held_slow", "_slow", "_waiting", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: set[Target] = set()
        self._held_slow: set[Target] = set()
        self._waiting: deque[Target] = deque()
        self._slow: deque[Target] = deque()

    def __repr__(self) -> str:
        return f"<Gate {len(self._held)}/{self.most}, {self.waiting} waiting>"

    @property
    def waiting(self) -> int:
        """How many targets wait."""
        return len(self._waiting) + len(self._slow)

    @property
    def first(self) -> Target | None:
        """The target that has waited longest."""
        heads = [queue[0] for queue in (self._waiting, self._slow) if queue]
        return min(heads, key=lambda target: target.due, default=None)

    def enter(self, target: Target) -> bool:
        """Take a place for `target`, or a place in the queue (false). One that holds a place already keeps it."""
        if not self.most or target in self._held:
            return True
        if target.slow:
            if len(self._held_slow) * 2 >= self.most or len(self._held) >= self.most:
                self._slow.append(target)
                return False
            self._held_slow.add(target)
        elif len(self._held) >= self.most:
            self._waiting.append(target)
            return False
        self._held.add(target)
        return True

    def hold(self, target: Target) -> None:
        """`target` is being probed already: it has a place, even if there is none left."""
        if self.most:
            self._held.add(target)
            if target.slow:
                self._held_slow.add(target)

    def leave(self, target: Target) -> Target | None:
        """Give the place of `target` back; the one that has it next, if somebody waited."""
        if target not in self._held:
            return None
        self._held.discard(target)
        self._held_slow.discard(target)
        slow = len(self._held_slow)
        # A quarter is theirs even if others wait, or they would never be probed again. A single place is that quarter
        # and all the rest: it goes to whoever was due first.
        turn = self.most > 1 or not self._waiting or (bool(self._slow) and self._slow[0].due <= self._waiting[0].due)
        if self._slow and turn and (slow * 4 < self.most or (not self._waiting and slow * 2 < self.most)):
            following = self._slow.popleft()
            self._held_slow.add(following)
        elif self._waiting:
            following = self._waiting.popleft()
        else:
            return None
        self._held.add(following)
        return following
