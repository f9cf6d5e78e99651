"""CPU time of a tree of processes, from /proc (Linux), and the pinning of processes to a core."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upwell.contrib.processes import children

_TICK = 1.0 / os.sysconf("SC_CLK_TCK")


def cpu_ticks(stat: str) -> int:
    """User and system ticks in a line of /proc/PID/stat, with those of children that ended and were waited for."""
    # The second field is the program's name in parentheses and may hold anything, also ") ": the last one closes it.
    fields = stat.rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))


def process_seconds(pid: int) -> float:
    """CPU seconds of one process so far. Raises OSError when it is gone."""
    return cpu_ticks(Path(f"/proc/{pid}/stat").read_text()) * _TICK


def tree(pid: int) -> list[int]:
    """`pid` and all its living descendants."""
    found = [pid]
    for member in found:
        found.extend(children(member))
    return found


def tree_seconds(pid: int) -> float:
    """CPU seconds, user and system, of `pid` and all its descendants so far."""
    return sum(map(process_seconds, tree(pid)))


@contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """Processes started meanwhile run on `cores` only; with an empty set, wherever the system likes."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def split_cores() -> tuple[set[int], set[int]]:
    """A core for the proxy and the others for load generator and backend; empty sets on a machine with one core."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return set(), set()
    return {cores[0]}, set(cores[1:])
