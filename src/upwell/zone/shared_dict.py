"""lua_shared_dict: a dictionary shared by processes, with expiry, eviction, lists (lua-nginx-module: ngx.shared.DICT).

It knows the rules and the records; where the bytes are is a store's business (`zone/stores/`). Keys are bytes.

Records in the store, by the first byte of their key:
  k + key, or h + digest for long keys:  expiry, type, flags, age, the key, the value
  a + age (8 bytes):                     the record's key; the oldest comes first, which is what eviction takes
  e + expiry (8 bytes) + age:            the record's key, for records that expire
  l + digest of the key + place:         one element of a list
  m:                                     bytes used, last age given, records, age up to which flush_all emptied
"""

from __future__ import annotations

import os
import struct
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import wraps
from hashlib import blake2b
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar
from urllib.parse import quote

from upwell.zone.stores import STORES, Store, StoreFull, Transaction

Value = bytes | float | bool | None
P = ParamSpec("P")
R = TypeVar("R")

_BOOLEAN, _NUMBER, _STRING, _LIST = 1, 3, 4, 5
_HEAD = struct.Struct(">dBIQH")
_META = struct.Struct(">QQQQ")
_NUMBER_FORM = struct.Struct(">d")
_AGE = struct.Struct(">Q")
_ENDS = struct.Struct(">QQ")
_META_KEY = b"m"
_LONGEST_KEY = 480  # LMDB takes 511 bytes
_MIDDLE = 1 << 62  # lists grow from here in both directions
_OVERHEAD = 64  # what a record is charged for beside key and value, about nginx's node and slab rounding
_PAGE = 4096
SESSIONS = "sticky"
"""The use of zones of `sticky learn`, which are no dictionaries of Lua's."""


class _Record(NamedTuple):
    expires: float
    kind: int
    flags: int
    age: int
    key: bytes
    value: bytes

    def size(self) -> int:
        return _OVERHEAD + len(self.key) + len(self.value)


class _Meta:
    """The m record while a write is under way."""

    __slots__ = ("age", "flushed", "records", "used")

    def __init__(self, data: bytes | None) -> None:
        self.used: int
        self.age: int
        self.records: int
        self.flushed: int
        self.used, self.age, self.records, self.flushed = _META.unpack(data) if data is not None else (0, 0, 0, 0)

    def pack(self) -> bytes:
        return _META.pack(self.used, self.age, self.records, self.flushed)


def _changes(
    full: Any,
) -> Callable[
    [Callable[Concatenate[SharedDict, Transaction, _Meta, P], R]],
    Callable[Concatenate[SharedDict, P], R],
]:
    """Run a method in a write transaction; `full` is its answer when the store has no room: nothing is changed."""

    def decorate(
        method: Callable[Concatenate[SharedDict, Transaction, _Meta, P], R],
    ) -> Callable[Concatenate[SharedDict, P], R]:
        @wraps(method)
        def change(zone: SharedDict, /, *args: P.args, **kwargs: P.kwargs) -> R:
            try:
                with zone._store.write() as txn:
                    before = txn.get(_META_KEY)
                    meta = _Meta(before)
                    result = method(zone, txn, meta, *args, **kwargs)
                    after = meta.pack()
                    if after != before:
                        txn.put(_META_KEY, after)
                    return result
            except StoreFull:
                answer: R = full
                return answer

        return change

    return decorate


class SharedDict:
    """One zone. All methods are atomic between processes. `clock` must be the same in all of them.

    Answers are tuples as Lua gets them: (value, error, ...); errors are lua-nginx-module's words.
    """

    __slots__ = ("_clock", "_store", "capacity", "name")

    def __init__(self, name: str, capacity: int, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.capacity = capacity
        self._store = store
        self._clock = clock

    def __repr__(self) -> str:
        return f"<SharedDict {self.name} {self.capacity}>"

    # Values

    def get(self, key: bytes) -> tuple[Value | bytes, ...]:
        """(value,) or (value, flags) when flags are not 0; (None,) when there is none; (None, error) for a list."""
        with self._store.read() as txn:
            meta = _Meta(txn.get(_META_KEY))
            record = _find(txn, key)
        if record is None or self._expired(record, meta):
            return (None,)
        if meta.used * 2 > self.capacity and (meta.age - record.age) * 2 > meta.records:
            self._touch(key)
        if record.kind == _LIST:
            return None, b"value is a list"
        value = _decode(record)
        return (value, record.flags) if record.flags else (value,)

    def get_stale(self, key: bytes) -> tuple[Value | bytes, ...]:
        """(value, flags or None, stale): an expired value too, while its room has not been taken."""
        with self._store.read() as txn:
            meta = _Meta(txn.get(_META_KEY))
            record = _find(txn, key)
        if record is None:
            return (None,)
        if record.kind == _LIST:
            return None, b"value is a list"
        return _decode(record), record.flags or None, self._expired(record, meta)

    @_changes((False, b"no memory", False))
    def store(
        self,
        txn: Transaction,
        meta: _Meta,
        operation: str,
        key: bytes,
        value: Value,
        exptime: float = 0.0,
        flags: int = 0,
    ) -> tuple[bool, bytes | None, bool]:
        """`operation` is set, safe_set, add, safe_add or replace: (stored, error or None, forcible).

        `exptime` is seconds, 0 for ever; None as the value deletes. `forcible`: valid records had to give way.
        """
        safe = operation.startswith("safe_")
        payload = _encode(value)
        there = _find(txn, key)
        valid = there is not None and not self._expired(there, meta)
        if operation.endswith("add") and valid:
            return False, b"exists", False
        if operation == "replace" and not valid:
            return False, b"not found", False
        if payload is None:
            if there is not None:
                _remove(txn, meta, there)
            return True, None, False
        kind, data = payload
        size = _OVERHEAD + len(key) + len(data)
        room = size - (there.size() if there is not None else 0)
        if size > self.capacity or (safe and not self._clear_expired(txn, meta, room, key)):
            return False, b"no memory", False
        # The old record goes before others have to; a list takes its elements along.
        if there is not None:
            _remove(txn, meta, there)
        forcible = not safe and self._make_room(txn, meta, size)
        _add(txn, meta, _Record(self._deadline(exptime), kind, flags, 0, key, data))
        return True, None, forcible

    @_changes((None, b"no memory"))
    def incr(
        self, txn: Transaction, meta: _Meta, key: bytes, step: float, init: float | None = None, init_ttl: float = 0.0
    ) -> tuple[float | bytes | bool | None, ...]:
        """(new value,), with `init` (new value, None, forcible), or (None, error)."""
        there = _find(txn, key)
        forcible = False
        if there is None or self._expired(there, meta):
            if init is None:
                return None, b"not found"
            if there is not None:
                _remove(txn, meta, there)
            forcible = self._make_room(txn, meta, _OVERHEAD + len(key) + 8)
            number = float(init) + step
            record = _Record(self._deadline(init_ttl), _NUMBER, 0, 0, key, _NUMBER_FORM.pack(number))
        else:
            if there.kind != _NUMBER:
                return None, b"not a number"
            number = float(_NUMBER_FORM.unpack(there.value)[0]) + step
            _remove(txn, meta, there)
            record = there._replace(value=_NUMBER_FORM.pack(number))
        _add(txn, meta, record)
        return (number,) if init is None else (number, None, forcible)

    def ttl(self, key: bytes) -> tuple[float | bytes | None, ...]:
        """Seconds left, 0 for a record that stays for ever; (None, b"not found")."""
        with self._store.read() as txn:
            meta = _Meta(txn.get(_META_KEY))
            record = _find(txn, key)
        if record is None or self._expired(record, meta):
            return None, b"not found"
        return (round(record.expires - self._clock(), 3) if record.expires else 0.0,)

    @_changes((None, b"no memory"))
    def expire(self, txn: Transaction, meta: _Meta, key: bytes, exptime: float) -> tuple[bool | bytes | None, ...]:
        """Give a record `exptime` seconds more from now, 0 for ever."""
        there = _find(txn, key)
        if there is None or self._expired(there, meta):
            return None, b"not found"
        _retire(txn, there)
        _file(txn, meta, there._replace(expires=self._deadline(exptime)))
        return (True,)

    # Lists

    @_changes((None, b"no memory"))
    def push(
        self, txn: Transaction, meta: _Meta, key: bytes, value: bytes | float, head: bool
    ) -> tuple[int | bytes | None, ...]:
        """The list's new length; (None, error). Never makes valid records give way."""
        payload = _encode(value)
        assert payload is not None
        element = bytes((payload[0],)) + payload[1]
        there = _find(txn, key)
        if there is not None and self._expired(there, meta):
            _remove(txn, meta, there)
            there = None
        if there is not None and there.kind != _LIST:
            return None, b"value not a list"
        first, after = _ENDS.unpack(there.value) if there is not None else (_MIDDLE, _MIDDLE)
        size = _OVERHEAD + len(element) + (0 if there is not None else _OVERHEAD + len(key) + _ENDS.size)
        if not self._clear_expired(txn, meta, size, key):
            return None, b"no memory"
        if head:
            first -= 1
        else:
            after += 1
        txn.put(_element_key(key, first if head else after - 1), element)
        meta.used += _OVERHEAD + len(element)
        if there is None:
            _add(txn, meta, _Record(0.0, _LIST, 0, 0, key, _ENDS.pack(first, after)))
        else:
            _retire(txn, there)
            _file(txn, meta, there._replace(value=_ENDS.pack(first, after)))
        return (after - first,)

    @_changes((None,))
    def pop(self, txn: Transaction, meta: _Meta, key: bytes, head: bool) -> tuple[Value | bytes, ...]:
        """The first or last element, (None,) when there is no list; (None, error)."""
        there = _find(txn, key)
        if there is None or self._expired(there, meta):
            return (None,)
        if there.kind != _LIST:
            return None, b"value not a list"
        first, after = _ENDS.unpack(there.value)
        place = _element_key(key, first if head else after - 1)
        element = txn.get(place) or b"\x04"
        txn.delete(place)
        meta.used -= _OVERHEAD + len(element)
        first, after = (first + 1, after) if head else (first, after - 1)
        if first == after:
            _remove(txn, meta, there._replace(value=_ENDS.pack(first, after)))
        else:
            txn.put(_record_key(key), _pack(there._replace(value=_ENDS.pack(first, after))))
        return (_value(element[0], element[1:]),)

    def llen(self, key: bytes) -> tuple[int | bytes | None, ...]:
        """The length of the list, 0 when there is none; (None, error)."""
        with self._store.read() as txn:
            meta = _Meta(txn.get(_META_KEY))
            record = _find(txn, key)
        if record is None or self._expired(record, meta):
            return (0,)
        if record.kind != _LIST:
            return None, b"value not a list"
        first, after = _ENDS.unpack(record.value)
        return (after - first,)

    # The whole zone

    def keys(self, most: int = 1024) -> list[bytes]:
        """Keys of valid records, the longest unused first; at most `most`, 0 for all."""
        found: list[bytes] = []
        with self._store.read() as txn:
            meta = _Meta(txn.get(_META_KEY))
            for _, place in txn.scan(b"a"):
                record = _unpack(txn.get(place))
                if record is not None and not self._expired(record, meta):
                    found.append(record.key)
                    if most > 0 and len(found) >= most:
                        break
        return found

    @_changes(None)
    def flush_all(self, txn: Transaction, meta: _Meta) -> None:
        """Every record counts as expired from now on; its room is freed when it is needed."""
        meta.flushed = meta.age

    @_changes(0)
    def flush_expired(self, txn: Transaction, meta: _Meta, most: int = 0) -> int:
        """Free the room of expired records, at most `most` (0: all); how many there were."""
        return self._drop_expired(txn, meta, most)

    def free_space(self) -> int:
        """Bytes of whole free pages (nginx counts no others)."""
        with self._store.read() as txn:
            used = _Meta(txn.get(_META_KEY)).used
        return max(0, self.capacity - used) // _PAGE * _PAGE

    def close(self) -> None:
        self._store.close()

    # Rules

    def _expired(self, record: _Record, meta: _Meta) -> bool:
        return record.age <= meta.flushed or 0 < record.expires <= self._clock()

    def _deadline(self, exptime: float) -> float:
        return self._clock() + exptime if exptime > 0 else 0.0

    @_changes(None)
    def _touch(self, txn: Transaction, meta: _Meta, key: bytes) -> None:
        """Make a record young again. Only done in the older half of a half-full zone, so that reading rarely writes."""
        record = _find(txn, key)
        if record is not None and not self._expired(record, meta):
            _retire(txn, record)
            _file(txn, meta, record)

    def _clear_expired(self, txn: Transaction, meta: _Meta, size: int, spare: bytes) -> bool:
        """Whether `size` more bytes fit, after expired records (but not `spare`) have gone if need be."""
        if meta.used + size > self.capacity:
            self._drop_expired(txn, meta, 0, spare)
        return meta.used + size <= self.capacity

    def _make_room(self, txn: Transaction, meta: _Meta, size: int) -> bool:
        """Let expired records go, then the oldest ones, until `size` bytes fit; whether valid ones had to."""
        if self._clear_expired(txn, meta, size, b""):
            return False
        oldest = []
        freed = 0
        for _, place in txn.scan(b"a"):
            record = _unpack(txn.get(place))
            if record is None:
                continue
            oldest.append(record)
            freed += _weight(txn, record)
            if meta.used - freed + size <= self.capacity:
                break
        for record in oldest:
            _remove(txn, meta, record)
        return bool(oldest)

    def _drop_expired(self, txn: Transaction, meta: _Meta, most: int, spare: bytes = b"") -> int:
        now = self._clock()
        gone: dict[bytes, _Record] = {}
        for index, ends in ((b"e", _NUMBER_FORM.pack(now)), (b"a", _AGE.pack(meta.flushed))):
            for entry, place in txn.scan(index):
                if entry[1:9] > ends or (most > 0 and len(gone) >= most):
                    break
                record = _unpack(txn.get(place))
                if record is not None and record.key != spare:
                    gone[place] = record
        for record in gone.values():
            _remove(txn, meta, record)
        return len(gone)


# Records


def _record_key(key: bytes) -> bytes:
    return b"k" + key if len(key) <= _LONGEST_KEY else b"h" + blake2b(key, digest_size=32).digest()


def _element_key(key: bytes, place: int) -> bytes:
    return b"l" + blake2b(key, digest_size=32).digest() + _AGE.pack(place)


def _expiry_key(record: _Record) -> bytes:
    # The bytes of a double that is not negative sort like the number.
    return b"e" + _NUMBER_FORM.pack(record.expires) + _AGE.pack(record.age)


def _find(txn: Transaction, key: bytes) -> _Record | None:
    return _unpack(txn.get(_record_key(key)))


def _unpack(data: bytes | None) -> _Record | None:
    if data is None:
        return None
    expires, kind, flags, age, length = _HEAD.unpack_from(data)
    start = _HEAD.size + length
    return _Record(expires, kind, flags, age, data[_HEAD.size : start], data[start:])


def _pack(record: _Record) -> bytes:
    expires, kind, flags, age, key, value = record
    return _HEAD.pack(expires, kind, flags, age, len(key)) + key + value


def _file(txn: Transaction, meta: _Meta, record: _Record) -> None:
    """Write a record as the youngest, with its index entries."""
    meta.age += 1
    record = record._replace(age=meta.age)
    place = _record_key(record.key)
    txn.put(place, _pack(record))
    txn.put(b"a" + _AGE.pack(record.age), place)
    if record.expires:
        txn.put(_expiry_key(record), place)


def _retire(txn: Transaction, record: _Record) -> None:
    """Take a record out of the indexes."""
    txn.delete(b"a" + _AGE.pack(record.age))
    if record.expires:
        txn.delete(_expiry_key(record))


def _add(txn: Transaction, meta: _Meta, record: _Record) -> None:
    meta.used += record.size()
    meta.records += 1
    _file(txn, meta, record)


def _remove(txn: Transaction, meta: _Meta, record: _Record) -> None:
    _retire(txn, record)
    txn.delete(_record_key(record.key))
    meta.used -= _weight(txn, record)
    meta.records -= 1
    if record.kind == _LIST:
        first, after = _ENDS.unpack(record.value)
        for place in range(first, after):
            txn.delete(_element_key(record.key, place))


def _weight(txn: Transaction, record: _Record) -> int:
    """The bytes a record is charged for, a list's elements included."""
    size = record.size()
    if record.kind == _LIST:
        first, after = _ENDS.unpack(record.value)
        for place in range(first, after):
            size += _OVERHEAD + len(txn.get(_element_key(record.key, place)) or b"")
    return size


def _encode(value: Value) -> tuple[int, bytes] | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        return _STRING, value
    if isinstance(value, bool):
        return _BOOLEAN, b"\x01" if value else b"\x00"
    return _NUMBER, _NUMBER_FORM.pack(value)


def _value(kind: int, data: bytes) -> Value:
    if kind == _STRING:
        return data
    if kind == _BOOLEAN:
        return data == b"\x01"
    number: float = _NUMBER_FORM.unpack(data)[0]
    return number


def _decode(record: _Record) -> Value:
    return _value(record.kind, record.value)


# Places


def make_directory(uid: int = -1, gid: int = -1) -> str:
    """A private directory for the zones of one master, in shared memory where there is some; made before the fork.

    With `uid`/`gid` it belongs to the user that the workers run as. Raises OSError.
    """
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None
    directory = tempfile.mkdtemp(prefix="upwell-", dir=parent)
    if uid >= 0 or gid >= 0:
        os.chown(directory, uid, gid)
    return directory


def remove_directory(directory: str) -> None:
    """Remove what `make_directory` made, when the master ends; a part that is gone already is no error."""
    try:
        for entry in os.scandir(directory):
            os.unlink(entry.path)
        os.rmdir(directory)
    except FileNotFoundError:
        return


def open_dicts(directory: str, sizes: Mapping[str, int], use: str = "", kind: str = "lmdb") -> dict[str, SharedDict]:
    """Open the zones `sizes` (name -> bytes) in `directory`; in each process, after the fork. Raises lmdb.Error.
    Those of another `use` are others, whatever their names are.

    A zone keeps its content as long as its name and size do; another size starts an empty one.
    """
    make = STORES[kind]
    return {
        name: SharedDict(name, size, make(os.path.join(directory, files_of(name, size, use)[0]), size))
        for name, size in sizes.items()
    }


def files_of(name: str, size: int, use: str = "") -> tuple[str, str]:
    """What the file of a zone is called in its folder, and what LMDB keeps beside it."""
    file = f"{use}{quote(name, safe='')}.{size}"
    return file, f"{file}-lock"
