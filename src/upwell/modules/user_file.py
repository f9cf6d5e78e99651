"""Files of users and their passwords (htpasswd's form), read again when they change. Knows no request and no scheme."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_MOST_FILES: Final = 64  # a path with variables may name many
_SETTLED: Final = 1_000_000_000  # ns; a file that was changed later than this before it was read may have changed since
_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class _Reading:
    identity: tuple[int, ...]
    settled: bool
    users: Mapping[bytes, bytes]


class UserFiles:
    """What is known of the files of one worker."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, _Reading] = {}

    def __repr__(self) -> str:
        return f"<UserFiles {len(self._known)}>"

    def users(self, path: bytes) -> Mapping[bytes, bytes]:
        """What stands behind each name in the file as it is now. Raises OSError."""
        known = self._known.get(path)
        if known is not None and known.settled and _identity(os.stat(path)) == known.identity:
            return known.users
        self._known.pop(path, None)
        reading = _read(path)
        if len(self._known) >= _MOST_FILES:
            self._known.clear()
        self._known[path] = reading
        return reading.users


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: bytes) -> _Reading:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        before = os.fstat(descriptor)
        now = time.time_ns()
        pieces = []
        while piece := os.read(descriptor, _PIECE):
            pieces.append(piece)
    finally:
        os.close(descriptor)
    # Two changes within one tick of the file system's clock look like one.
    return _Reading(_identity(before), now - before.st_ctime_ns > _SETTLED, _parse(b"".join(pieces)))


def _parse(text: bytes) -> dict[bytes, bytes]:
    """The first line of each name counts; what follows a second colon is a remark."""
    users: dict[bytes, bytes] = {}
    for line in text.split(b"\n"):
        if line.startswith((b"#", b"\r")):
            continue
        name, colon, rest = line.partition(b":")
        if colon and name:
            users.setdefault(name, rest.partition(b":")[0].partition(b"\r")[0])
    return users
