"""A store in this process's own memory: for one process, and for tests. Knows no file."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from contextlib import contextmanager


class MemoryStore:
    """See `Store` and `Transaction`: it is both, with an undo log for writes that fail."""

    __slots__ = ("_keys", "_undo", "_values")

    def __init__(self, path: str = "", size: int = 0) -> None:
        self._keys: list[bytes] = []
        self._values: dict[bytes, bytes] = {}
        self._undo: list[tuple[bytes, bytes | None]] | None = None

    def __repr__(self) -> str:
        return f"<MemoryStore of {len(self._keys)} keys>"

    @contextmanager
    def read(self) -> Iterator[MemoryStore]:
        yield self

    @contextmanager
    def write(self) -> Iterator[MemoryStore]:
        undo: list[tuple[bytes, bytes | None]] = []
        self._undo = undo
        try:
            yield self
        except BaseException:
            self._undo = None
            for key, value in reversed(undo):
                if value is None:
                    self.delete(key)
                else:
                    self.put(key, value)
            raise
        finally:
            self._undo = None

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        if self._undo is not None:
            self._undo.append((key, self._values.get(key)))
        if key not in self._values:
            insort(self._keys, key)
        self._values[key] = value

    def delete(self, key: bytes) -> None:
        value = self._values.pop(key, None)
        if value is None:
            return
        if self._undo is not None:
            self._undo.append((key, value))
        del self._keys[bisect_left(self._keys, key)]

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        for index in range(bisect_left(self._keys, prefix), len(self._keys)):
            key = self._keys[index]
            if not key.startswith(prefix):
                return
            yield key, self._values[key]

    def close(self) -> None:
        """Nothing to let go of."""
