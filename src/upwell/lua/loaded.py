"""Which files the Lua code of a generation came from, written down by its workers for the master: code that has changed
since is a reason to start workers anew. Knows no Lua state.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Final

_MODE: Final = 0o666  # init_by_lua runs before a worker has its own user


class LoadedFiles:
    """The list at `path`, as one worker adds to it."""

    __slots__ = ("_known", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._known = set(_lines(path))

    def __repr__(self) -> str:
        return f"<LoadedFiles {self._path} {len(self._known)}>"

    def add(self, name: str) -> None:
        """Code comes from the file `name`."""
        line = _line(name)
        if line in self._known:
            return
        self._known.add(line)
        with suppress(OSError):
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
            try:
                if not os.fstat(fd).st_size:
                    with suppress(PermissionError):
                        os.fchmod(fd, _MODE)
                os.write(fd, f"{line}\n".encode())
            finally:
                os.close(fd)


def list_of(folder: str, configuration: int) -> str:
    """The path of the list of one configuration."""
    return os.path.join(folder, f"lua-files.{configuration}")


def unchanged(path: str) -> bool:
    """Whether all files in the list at `path` are what they were when code was loaded from them."""
    try:
        return all(line == _line(json.loads(line)[0]) for line in _lines(path))
    except (ValueError, LookupError, TypeError):
        return False


def _line(name: str) -> str:
    full = os.path.abspath(name)
    try:
        found = os.stat(full)
    except (OSError, ValueError):
        return json.dumps([full])
    return json.dumps([full, found.st_mtime_ns, found.st_size, found.st_ino])


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []
