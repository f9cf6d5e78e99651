"""CPU time and memory of processes, from /proc (Linux), and the pinning of processes to cores."""

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


def nanoseconds(pid: int) -> int:
    """Time that one process has been on a processor, of all its threads, to the nanosecond. Raises OSError."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def waiting(pid: int) -> int:
    """Nanoseconds that one process, with all its threads, was ready to run and another had its processor."""
    return sum(int(path.read_text().split()[1]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


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


def split_cores(proxy: int = 1) -> tuple[set[int], set[int]]:
    """`proxy` cores for the proxy and the others for load generator and apps; empty sets where none would be left."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) <= proxy:
        return set(), set()
    return set(cores[:proxy]), set(cores[proxy:])


def memory(pid: int) -> tuple[int, int]:
    """Resident and proportional set size of one process in bytes. Raises OSError when it is gone."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = dict(line.split()[:2] for line in text.splitlines()[1:])
    return int(fields["Rss:"]) * 1024, int(fields["Pss:"]) * 1024


def forget_peak(pid: int) -> None:
    """Let the peak of the resident set size start anew (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak(pid: int) -> int:
    """The highest resident set size since `forget_peak`, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no VmHWM for {pid}")
