"""Commands that a checker left running when it was killed: found by a mark in their environment, and ended.

The mark has a number by chance, made before any fork, so that no other upwell's commands are meant; the master, which
hears of its checker's death, looks for it. Knows processes, no check.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import Final

NAME: Final = "UPWELL_CHECKER"

_TOKEN: Final = os.urandom(8).hex()
_OLDEST: Final = 600.0  # seconds; what has run for longer is no probe: a check may have started a service again
_PASSES: Final = 3  # one that forks just then is found by the next


def mark(pid: int) -> str:
    """What the variable NAME says in what the checker `pid` starts."""
    return f"{_TOKEN}.{pid}"


def end_leftovers(pid: int) -> int:
    """Kill all that the checker `pid`, which is dead, has started; says how many processes that were."""
    wanted = f"{NAME}={mark(pid)}".encode()
    count = 0
    for _ in range(_PASSES):
        found = 0
        with suppress(OSError):  # there may be no /proc
            for name in os.listdir("/proc"):
                found += name.isdecimal() and _end(int(name), wanted)
        if not found:
            break
        count += found
    return count


def _end(pid: int, wanted: bytes) -> bool:
    # By a descriptor: between the look and the signal the number cannot become another process.
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # First, as it never has to wait; the environment of a process that hangs in the kernel may.
        with open(f"/proc/{pid}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])  # proc(5): starttime, after boot
        if time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK") > _OLDEST:
            return False
        with open(f"/proc/{pid}/environ", "rb") as file:
            if wanted not in file.read().split(b"\0"):
                return False
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    except OSError:  # gone, or not ours
        return False
    finally:
        os.close(fd)
    return True
