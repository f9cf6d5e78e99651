"""The folder of the shared dictionaries: one for each master, gone when the last of its processes is.

Knows a folder and a lock. Must not know what is kept in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable

_PREFIX = "upwell-"
_LOCK = "lock"


class SharedDir:
    """A folder in memory where the system has one (/dev/shm), else in the folder for temporary files.

    Every process of a master holds the lock of its folder through the fork, so a folder whose lock is free was left by
    processes that were killed; the next master that starts removes it.
    """

    __slots__ = ("_lock", "path")

    def __init__(self, uid: int, gid: int) -> None:
        """Make the folder, owned by the worker's `uid` and `gid` (-1: the caller's). Raises OSError."""
        parent = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else tempfile.gettempdir()
        _sweep(parent)
        # Under a name that no sweep looks at until the lock is held.
        path = tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=parent)
        self._lock = os.open(os.path.join(path, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if uid >= 0:
            os.chown(path, uid, gid)
        self.path = os.path.join(parent, os.path.basename(path)[1:])
        os.rename(path, self.path)

    def __repr__(self) -> str:
        return f"<SharedDir {self.path}>"

    def forget(self, files: Iterable[str]) -> None:
        """Delete `files`, which nobody opens any more; who has one open goes on with it."""
        for name in files:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.path, name))

    def remove(self) -> None:
        """Delete the folder and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _sweep(parent: str) -> None:
    """Remove the folders that this user's killed masters left in `parent`."""
    with os.scandir(parent) as entries:
        left = [e.path for e in entries if e.name.startswith(_PREFIX) and e.is_dir(follow_symlinks=False)]
    for path in left:
        with contextlib.suppress(OSError):
            lock = os.open(os.path.join(path, _LOCK), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(lock).st_uid != os.geteuid():
                    continue
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
