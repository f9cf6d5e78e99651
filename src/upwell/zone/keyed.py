"""A table in a file that processes share: records of one size, found by key; the one longest unused is the oldest.

Knows keys and places. What a record says is for `rates.py` and `counts.py`; who may see the file, for who made the
folder. A process that dies in the middle of a change leaves the table marked, and the next one begins it anew.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from hashlib import blake2b
from types import TracebackType
from typing import Final

_SALT: Final = 16
_HEAD: Final = 64
_NODE: Final = 64
_SAME: Final = _NODE // 4  # words of a record
# Words of the head, behind the salt.
_EPOCH, _BUSY, _NEWEST, _OLDEST, _FREE, _TOUCHED = range(4, 10)
# Words of a record, behind the 16 bytes that its key comes down to; four numbers of eight bytes follow.
_CHAIN, _NEWER, _OLDER = range(4, 7)
_NUMBERS: Final = 4


def open_shared(path: str) -> int:
    """A descriptor of the file at `path`, which belongs to whom its folder belongs to: a process may open it before it
    gives its privileges up, and again afterwards."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not os.geteuid():
        folder = os.stat(os.path.dirname(path))
        os.fchown(fd, folder.st_uid, folder.st_gid)
    return fd


class KeyedTable:
    """`places` records at most, numbered from 1. Everything but `epoch` is asked inside of `with table:`, which one
    process at a time is.

    `epoch` changes when the table begins anew: no place that was known before means anything then.
    """

    __slots__ = ("_buckets", "_fd", "_longs", "_map", "_mask", "_salt", "_words", "path", "places")

    def __init__(self, path: str, places: int) -> None:
        self.path = path
        self.places = places
        buckets = 1 << places.bit_length()
        self._mask = buckets - 1
        self._buckets = (_HEAD + (places + 1) * _NODE) // 4
        self._fd = open_shared(path)
        size = _HEAD + (places + 1) * _NODE + 4 * buckets
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            if os.fstat(self._fd).st_size != size:
                os.ftruncate(self._fd, size)
                os.pwrite(self._fd, os.urandom(_SALT) + struct.pack("<I", 1), 0)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._map = mmap.mmap(self._fd, size)
        self._salt = self._map[:_SALT]
        self._words = memoryview(self._map).cast("I")
        self._longs = memoryview(self._map).cast("q")

    def __repr__(self) -> str:
        return f"<KeyedTable {self.path}>"

    def close(self) -> None:
        self._words.release()
        self._longs.release()
        self._map.close()
        os.close(self._fd)

    def __enter__(self) -> KeyedTable:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        if self._words[_BUSY]:
            self._begin_anew()
        self._words[_BUSY] = 1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:  # else the change may be half done
            self._words[_BUSY] = 0
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    @property
    def epoch(self) -> int:
        return self._words[_EPOCH]

    def digest(self, key: bytes) -> bytes:
        """What stands for `key` here; nobody who does not know the file can choose two keys that are alike."""
        return blake2b(key, digest_size=16, key=self._salt).digest()

    def find(self, digest: bytes) -> int:
        """The place of a record, 0 for none."""
        words = self._words
        place = words[self._bucket(digest)]
        while place:
            at = _HEAD + place * _NODE
            if self._map[at : at + 16] == digest:
                return place
            place = words[at // 4 + _CHAIN]
        return 0

    def add(self, digest: bytes) -> int:
        """A new record, the youngest, all its numbers 0; 0: there is no room."""
        words = self._words
        place = words[_FREE]
        if place:
            words[_FREE] = words[self._at(place) + _CHAIN]
        else:
            place = words[_TOUCHED] + 1
            if place > self.places:
                return 0
            words[_TOUCHED] = place
        start = _HEAD + place * _NODE
        self._map[start : start + _NODE] = digest + bytes(_NODE - 16)
        bucket = self._bucket(digest)
        words[start // 4 + _CHAIN] = words[bucket]
        words[bucket] = place
        self._put_first(place)
        return place

    def remove(self, place: int) -> None:
        words = self._words
        at = self._at(place)
        self._take_out(place)
        before = self._bucket(self._map[at * 4 : at * 4 + 16])
        while words[before] != place:
            before = self._at(words[before]) + _CHAIN
        words[before] = words[at + _CHAIN]
        words[at + _CHAIN] = words[_FREE]
        words[_FREE] = place

    def touch(self, place: int) -> None:
        """Make a record the youngest."""
        if self._words[_NEWEST] != place:
            self._take_out(place)
            self._put_first(place)

    @property
    def oldest(self) -> int:
        """The place of the record longest unused, 0 for none."""
        return self._words[_OLDEST]

    def get(self, place: int, index: int) -> int:
        """One of the four numbers of a record."""
        return self._longs[(_HEAD + place * _NODE) // 8 + _NUMBERS + index]

    def put(self, place: int, index: int, number: int) -> None:
        self._longs[(_HEAD + place * _NODE) // 8 + _NUMBERS + index] = number

    def _at(self, place: int) -> int:
        return _HEAD // 4 + place * _SAME

    def _bucket(self, digest: bytes) -> int:
        return self._buckets + (int.from_bytes(digest[:4], "little") & self._mask)

    def _take_out(self, place: int) -> None:
        words = self._words
        at = self._at(place)
        newer, older = words[at + _NEWER], words[at + _OLDER]
        words[self._at(newer) + _OLDER if newer else _NEWEST] = older
        words[self._at(older) + _NEWER if older else _OLDEST] = newer

    def _put_first(self, place: int) -> None:
        words = self._words
        at = self._at(place)
        second = words[_NEWEST]
        words[at + _NEWER] = 0
        words[at + _OLDER] = second
        words[self._at(second) + _NEWER if second else _OLDEST] = place
        words[_NEWEST] = place

    def _begin_anew(self) -> None:
        words = self._words
        words[_EPOCH] += 1
        at = self._buckets * 4
        self._map[at:] = bytes(len(self._map) - at)
        # _BUSY stays: a process may die here as well, and what is half cleared has chains without an end.
        for word in (_NEWEST, _OLDEST, _FREE, _TOUCHED):
            words[word] = 0
