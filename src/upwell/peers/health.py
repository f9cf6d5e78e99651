"""Rise and fall in one integer, as HAProxy keeps it: state and streak at once. Pure arithmetic.

A health word is 0 .. rise + fall - 1. The peer is up while it is at least `rise`; the distance to the edge of its state
is the streak against that state. This equals lua-resty's two counters ("ok:" and "nok:"), in one word that a process
can write whole.
"""

from __future__ import annotations

from enum import Enum


class Transition(Enum):
    """What a verdict changed."""

    UP = "up"
    DOWN = "down"


class Thresholds:
    """`rise` passes in a row turn a peer up, `fall` failures in a row turn it down; less than 1 means 1 (lua-resty)."""

    __slots__ = ("fall", "rise", "top")

    def __init__(self, rise: int, fall: int) -> None:
        self.rise = max(rise, 1)
        self.fall = max(fall, 1)
        self.top = self.rise + self.fall - 1

    def __repr__(self) -> str:
        return f"<Thresholds rise={self.rise} fall={self.fall}>"

    def initial(self, up: bool) -> int:
        """The word of a peer that starts as up or down, without a streak."""
        return self.top if up else 0

    def is_up(self, word: int) -> bool:
        return word >= self.rise

    def observe(self, word: int, passed: bool) -> tuple[int, Transition | None]:
        """The word after one more verdict, and what that verdict changed."""
        if passed:
            if word >= self.rise:
                return self.top, None
            if word + 1 < self.rise:
                return word + 1, None
            return self.top, Transition.UP
        if word < self.rise:
            return 0, None
        if word > self.rise:
            return word - 1, None
        return 0, Transition.DOWN

    def streak(self, word: int) -> int:
        """How many verdicts in a row spoke against the present state: failures of a peer that is up, passes of one that
        is down."""
        return self.top - word if word >= self.rise else word
