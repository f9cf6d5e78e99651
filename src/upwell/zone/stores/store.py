"""What a store of shared dictionaries promises. Knows no kind of store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol


class StoreFull(Exception):
    """A write does not fit; the transaction it happened in is void."""


class Transaction(Protocol):
    """Reads see one state; writes count when the block ends without an exception."""

    def get(self, key: bytes, /) -> bytes | None: ...

    def put(self, key: bytes, value: bytes, /) -> None: ...

    def delete(self, key: bytes, /) -> None: ...

    def scan(self, prefix: bytes, /) -> Iterator[tuple[bytes, bytes]]:
        """Keys that start with `prefix`, in order. Do not write while iterating."""
        ...


class Store(Protocol):
    """One place of bytes. Writers of all processes take turns."""

    def read(self) -> AbstractContextManager[Transaction]: ...

    def write(self) -> AbstractContextManager[Transaction]: ...

    def close(self) -> None: ...
