"""How many requests of each key are under way, in all processes (ngx_http_limit_conn_module).

Each process keeps beside the sums what it has added to them, in a file whose lock is its own. A lock that is free was
that of a process that is gone: whoever finds it takes back what that one has left. (nginx counts it for ever.)
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Final

from upwell.zone.keyed import KeyedTable, open_shared

_RECORD: Final = 64  # what nginx needs for one on a 64-bit machine, so that a zone holds about as many
_SUM: Final = 0
_PAUSE: Final = 1.0
"""Seconds between two looks for processes that are gone, where a limit is reached."""

Held = tuple[int, int]
"""A key that was counted: the table's epoch, and its place there."""


class _Part:
    """What one process has added, in words: the table's epoch, then the number for each place. Raises
    BlockingIOError when the process is there.
    """

    __slots__ = ("_fd", "_map", "words")

    def __init__(self, path: str, places: int) -> None:
        self._fd = open_shared(path)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = 4 * (places + 1)
            if os.fstat(self._fd).st_size != size:
                os.ftruncate(self._fd, size)
            self._map = mmap.mmap(self._fd, size)
        except OSError:
            os.close(self._fd)
            raise
        self.words = memoryview(self._map).cast("I")

    def close(self) -> None:
        self.words.release()
        self._map.close()
        os.close(self._fd)

    def clear(self, epoch: int) -> None:
        self._map[:] = bytes(len(self._map))
        self.words[0] = epoch

    def left(self) -> dict[int, int]:
        """The numbers that are not 0, by their places."""
        return {place: number for place, number in enumerate(self.words) if number and place}


class Counts:
    """The zone in the file at `path`, of `size` bytes as nginx counts them."""

    __slots__ = ("_clock", "_looked", "_part", "_path", "_table", "name")

    def __init__(self, name: str, path: str, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._path = path
        self._clock = clock
        self._looked = clock()
        self._table = KeyedTable(path, max(size // _RECORD, 1))
        self._part = self._look(None)

    def __repr__(self) -> str:
        return f"<Counts {self.name}>"

    def close(self) -> None:
        self._settle(self._part)
        self._part.close()
        self._table.close()

    def enter(self, key: bytes, most: int) -> Held | None:
        """Count one more request of `key`; None: there are `most`, or the zone is full."""
        held = self._enter(key, most)
        now = self._clock()
        if held is None and now >= self._looked + _PAUSE:
            self._looked = now
            with suppress(OSError):  # of descriptors there may be none left
                self._look(self._part)
            held = self._enter(key, most)
        return held

    def leave(self, held: Held) -> None:
        """A request that was counted is over."""
        with self._table:
            epoch, place = held
            part = self._own(self._table.epoch)
            if epoch == self._table.epoch and part[place]:
                part[place] -= 1
                self._less(place, 1)

    def is_full(self, key: bytes) -> bool:
        """Whether it is the zone that has no room for `key`."""
        digest = self._table.digest(key)
        with self._table:
            return not self._table.find(digest)

    def _enter(self, key: bytes, most: int) -> Held | None:
        table = self._table
        digest = table.digest(key)
        with table:
            place = table.find(digest) or table.add(digest)
            if not place:
                return None
            number = table.get(place, _SUM)
            if number >= most:
                return None
            table.put(place, _SUM, number + 1)
            self._own(table.epoch)[place] += 1
            return table.epoch, place

    def _own(self, epoch: int) -> memoryview[int]:
        """What this process has added since the table began."""
        if self._part.words[0] != epoch:
            self._part.clear(epoch)
        return self._part.words

    def _less(self, place: int, number: int) -> None:
        left = self._table.get(place, _SUM) - number
        if left > 0:
            self._table.put(place, _SUM, left)
        else:
            self._table.remove(place)

    def _look(self, own: _Part | None) -> _Part:
        """Take back what processes that are gone have left; `own`, or one of theirs, or a new one is returned."""
        for number in count():
            path = f"{self._path}.{number}"
            known = os.path.exists(path)
            if own is not None and not known:
                return own
            try:
                part = _Part(path, self._table.places)
            except BlockingIOError:
                continue
            if known:
                self._settle(part)
            if own is None:
                own = part
            else:
                part.close()
        raise AssertionError("count() ends")

    def _settle(self, part: _Part) -> None:
        with self._table:
            if part.words[0] == self._table.epoch:
                for place, number in part.left().items():
                    self._less(place, number)
            part.clear(self._table.epoch)
