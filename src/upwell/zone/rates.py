"""How much of a rate each key has used, for all processes: nginx's leaky buckets (ngx_http_limit_req_module).

Numbers are thousandths of a request, times milliseconds. What follows from them is decided elsewhere.
"""

from __future__ import annotations

from typing import Final

from upwell.zone.keyed import KeyedTable

_RECORD: Final = 128  # what nginx needs for one on a 64-bit machine, so that a zone holds about as many
_EXCESS, _LAST = 0, 1
_STALE: Final = 60_000


class Rates:
    """The zone in the file at `path`, of `size` bytes as nginx counts them; `rate` is thousandths of a request a
    second.
    """

    __slots__ = ("_table", "name", "rate")

    def __init__(self, name: str, path: str, size: int, rate: int) -> None:
        self.name = name
        self.rate = rate
        self._table = KeyedTable(path, max(size // _RECORD, 1))

    def __repr__(self) -> str:
        return f"<Rates {self.name}>"

    def close(self) -> None:
        self._table.close()

    def excess(self, key: bytes, now: int) -> int:
        """By how much one more request would be too much; nothing is counted."""
        table = self._table
        digest = table.digest(key)
        with table:
            place = table.find(digest)
            if not place:
                return 0
            table.touch(place)
            return self._excess(place, now)[0]

    def take(self, key: bytes, now: int, burst: int) -> int:
        """Count a request and return its excess; one with more than `burst` is not counted."""
        table = self._table
        digest = table.digest(key)
        with table:
            place = table.find(digest)
            if place:
                table.touch(place)
                excess, passed = self._excess(place, now)
                if excess <= burst:
                    table.put(place, _EXCESS, excess)
                    if passed:
                        table.put(place, _LAST, now)
                return excess
            self._expire(now, False)
            place = table.add(digest)
            if not place:
                self._expire(now, True)
                place = table.add(digest)
            table.put(place, _LAST, now)
            return 0

    def _excess(self, place: int, now: int) -> tuple[int, int]:
        """The excess of one more request, and the time since the last one."""
        passed = now - self._table.get(place, _LAST)
        if passed < 0:
            passed = 1 if passed < -_STALE else 0
        return max(self._table.get(place, _EXCESS) - self.rate * passed // 1000 + 1000, 0), passed

    def _expire(self, now: int, by_force: bool) -> None:
        """Drop one or two of the oldest records that say nothing any more; `by_force` the oldest besides."""
        table = self._table
        for turn in range(0 if by_force else 1, 3):
            place = table.oldest
            if not place:
                return
            if turn:
                passed = abs(now - table.get(place, _LAST))
                if passed < _STALE or table.get(place, _EXCESS) > self.rate * passed // 1000:
                    return
            table.remove(place)
