"""Files and folders handed over to the workers' user. Knows who may have put a link in the way.

The master is root when it does this, and the folder around may be another user's, perhaps that of the workers: a link
there to a file of root's would give that file away (CVE-2016-1247 was this).
"""

from __future__ import annotations

import errno
import os
import stat


def hand_over(path: str, uid: int) -> None:
    """Make the regular file or the folder at `path` the user's; anything else stays whose it is. A link is followed
    only if it is root's or ours, a file with more than one name is not given away. Raises OSError."""
    if not _is_ours_to_give(os.stat(path)):
        return
    fd = _open(path)
    try:
        found = os.fstat(fd)
        if found.st_uid == uid or not _is_ours_to_give(found):
            return
        if stat.S_ISREG(found.st_mode) and found.st_nlink != 1:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
        os.fchown(fd, uid, -1)
    finally:
        os.close(fd)


def _is_ours_to_give(found: os.stat_result) -> bool:
    """Whether it is a file or a folder: a device or a pipe has its owner for good reasons."""
    return stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)


def _open(path: str) -> int:
    # O_NONBLOCK: a pipe under this name would be waited for.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    if os.lstat(path).st_uid not in (0, os.geteuid()):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
    return os.open(os.path.realpath(path), flags)
