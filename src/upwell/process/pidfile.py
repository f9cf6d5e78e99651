"""The pid file: written whole, removed only by its owner, read by `-s`. Knows a path and a number."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from typing import Literal

SIGNALS: dict[str, Literal["TERM", "QUIT", "HUP", "USR1"]] = {
    "stop": "TERM",
    "quit": "QUIT",
    "reload": "HUP",
    "reopen": "USR1",
}
"""What `-s` takes, and the signal that it sends (nginx's command line)."""

OLD = ".oldbin"
"""What nginx adds to the path while another master has it."""


def write(path: str, pid: int) -> None:
    """Put `pid` into the file at `path` so that no reader sees a half of it. Raises OSError.

    A device, a pipe or a file in a folder that takes no new files is written in place: `pid /dev/null` must not
    become a regular file.
    """
    content = f"{pid}\n".encode()
    scratch = f"{path}.{pid}"
    if not _replaceable(path):
        _fill(path, content)
        return
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(scratch)
        _fill(scratch, content, os.O_EXCL)  # a link that somebody put there is not followed
        os.rename(scratch, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(scratch)
        _fill(path, content)


def remove(path: str, pid: int) -> None:
    """Delete the file if it still names `pid`; another master's file is left alone. Raises OSError but for absence."""
    with contextlib.suppress(FileNotFoundError):
        if _replaceable(path) and _content(path).strip() == str(pid).encode():
            os.unlink(path)


def move(path: str, other: str) -> None:
    """Rename the file, whatever `other` was; a device or a pipe stays. Raises OSError."""
    if _replaceable(path):
        os.rename(path, other)


def check(path: str) -> None:
    """See that the file could be written, without changing it or leaving one (`-t`). Raises OSError."""
    existed = os.path.lexists(path)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
    if not existed:
        os.unlink(path)


def read(path: str) -> int:
    """The pid in the file. Raises OSError, or ValueError with what stands there instead: also with 0, which would be
    the process group of whoever sends a signal there."""
    content = _content(path).rstrip(b"\r\n")
    if re.fullmatch(rb"0*[1-9][0-9]{0,17}", content) is None:
        raise ValueError(content.decode("utf-8", "backslashreplace"))
    return int(content)


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(22)  # nginx reads as much as a 64-bit number and a line end take


def _replaceable(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return True


def _fill(path: str, content: bytes, flags: int = 0) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | flags, 0o644)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)
