"""Whether many peers of one upstream turned down at once, which is more often the network's fault, or the checker's
own, than that of so many peers. Pure: rows and times in, sentences out. The verdicts count in any case.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class Mass:
    """One upstream; an episode begins when more than `percent` of its peers (and more than one) turned down within one
    window, and ends when no more than that are down."""

    __slots__ = ("_down", "_percent", "_recent", "_rows", "_upstream", "_worst")

    def __init__(self, upstream: str, percent: int) -> None:
        self._upstream = upstream
        self._percent = percent
        self._rows: set[int] = set()
        self._down: set[int] = set()
        self._recent: dict[int, tuple[float, str]] = {}  # when each that is down turned so, and why; the oldest first
        self._worst = 0  # the most peers that were down in this episode, 0: there is none

    def __repr__(self) -> str:
        return f"<Mass {self._upstream} {len(self._down)}/{len(self._rows)} down>"

    def watch(self, rows: Iterable[int], down: Iterable[int]) -> None:
        """Peers that are checked, and those of them that are down already."""
        self._rows.update(rows)
        self._down.update(down)

    def turned_down(self, row: int, why: str, window: float, now: float) -> str:
        """The peer turned down for the reason `why`; `window` (seconds) is how long it takes until all peers were
        probed. Returns what is to be said of it, mostly nothing."""
        self._down.add(row)
        recent = self._recent
        recent.pop(row, None)
        recent[row] = now, why
        while recent:
            first = next(iter(recent))
            if now - recent[first][0] <= window:
                break
            del recent[first]
        if self._worst:
            self._worst = max(self._worst, len(self._down))
            return ""
        if len(recent) < 2 or not self._is_mass(len(recent)):
            return ""
        self._worst = len(self._down)
        [(often, times)] = Counter(why for _, why in recent.values()).most_common(1)
        return (
            f'{len(recent)} of {len(self._rows)} peers of upstream "{self._upstream}" turned down within {window:g} s, '
            f"more than {self._percent}% (mass_down_threshold); most often ({times} times): {often}"
        )

    def turned_up(self, row: int) -> str:
        """The peer turned up. Returns what is to be said of it, mostly nothing."""
        self._down.discard(row)
        self._recent.pop(row, None)
        if not self._worst or self._is_mass(len(self._down)):
            return ""
        worst, self._worst = self._worst, 0
        left = f"{len(self._down)} of {len(self._rows)} peers"
        return f'{left} of upstream "{self._upstream}" are down, no longer more than {self._percent}% (it were {worst})'

    def left(self, row: int) -> str:
        """The peer left the upstream. Returns what is to be said of it, mostly nothing."""
        self._rows.discard(row)
        return self.turned_up(row)

    def _is_mass(self, count: int) -> bool:
        return count * 100 > self._percent * len(self._rows)
