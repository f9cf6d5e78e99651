"""How long somebody has taken nothing of what waits for him (nginx: send_timeout, proxy_send_timeout).

A transport does not tell when some of its bytes are taken; so one looks, several times within the time that is allowed.
Knows numbers only: whoever looks brings them and waits.
"""

from __future__ import annotations

from typing import Final

_LOOKS: Final = 8  # a pause between two reads is noticed at most an eighth of the time too late


class Stall:
    """`limit` seconds may pass without progress; `unsent` bytes wait at the time `now`."""

    __slots__ = ("_limit", "_since", "_unsent")

    def __init__(self, unsent: int, now: float, limit: float) -> None:
        self._unsent = unsent
        self._since = now
        self._limit = limit

    def __repr__(self) -> str:
        return f"<Stall {self._unsent} bytes since {self._since:.3f}>"

    @property
    def first(self) -> float:
        """After how many seconds to look for the first time."""
        return self._limit / _LOOKS

    def look(self, unsent: int, now: float) -> float:
        """In how many seconds to look again; 0.0: nothing was taken for all the time that is allowed."""
        if unsent < self._unsent:
            self._since = now
        self._unsent = unsent
        left = self._since + self._limit - now
        return min(left, self._limit / _LOOKS) if left > 0.0 else 0.0
