"""A store in LMDB: shared by processes, each of which opens it after the fork (LMDB forbids inheriting it).

Not synced to disk: a shared dictionary lives as long as the processes that use it. A killed writer costs its own
transaction only; its lock is robust.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lmdb

from upwell.zone.stores.store import StoreFull

_PAGE = 4096


class LmdbTransaction:
    """See `Transaction`."""

    __slots__ = ("_txn",)

    def __init__(self, txn: Any) -> None:
        self._txn = txn

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._txn.get(key)
        return value

    def delete(self, key: bytes) -> None:
        self._txn.delete(key)

    def put(self, key: bytes, value: bytes) -> None:
        self._txn.put(key, value)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor() as cursor:
            if not cursor.set_range(prefix):
                return
            for key, value in cursor:
                if not key.startswith(prefix):
                    return
                yield key, value


class LmdbStore:
    """See `Store`. `path` is a file in a private directory; beside it LMDB keeps `path`-lock."""

    __slots__ = ("_env", "path")

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        # Copy-on-write pages, half-full pages and the indexes need room; the file is sparse, so unused room is free.
        self._env = lmdb.open(
            path,
            map_size=(size * 8 + (4 << 20)) // _PAGE * _PAGE,
            subdir=False,
            mode=0o600,
            sync=False,
            metasync=False,
            writemap=True,
            readahead=False,
            max_readers=1024,
        )
        self._env.reader_check()

    def __repr__(self) -> str:
        return f"<LmdbStore {self.path}>"

    @contextmanager
    def read(self) -> Iterator[LmdbTransaction]:
        with self._env.begin() as txn:
            yield LmdbTransaction(txn)

    @contextmanager
    def write(self) -> Iterator[LmdbTransaction]:
        try:
            with self._env.begin(write=True) as txn:
                yield LmdbTransaction(txn)
        except (lmdb.MapFullError, lmdb.TxnFullError) as error:
            raise StoreFull(str(error)) from error

    def close(self) -> None:
        self._env.close()
