"""What a process is given by the configuration before it serves: environment, limits, priority, processors, folder.

Knows system calls. As in nginx, what the system refuses is said and the worker goes on.
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable, MutableMapping, Sequence

from upwell.modules.workers import WorkersSettings
from upwell.process.journal import Journal, failure

_PR_SET_DUMPABLE = 4
_ALWAYS = "TZ"  # nginx keeps it whether it is named or not


def keep_environment(lines: Sequence[str], environment: MutableMapping[str, str]) -> None:
    """Leave in `environment` only what `env` lines name (`NAME`, or `NAME=value`), and TZ."""
    kept: dict[str, str] = {}
    for line in (_ALWAYS, *lines):
        name, given, value = line.partition("=")
        if given:
            if name:  # without one the system takes none
                kept[name] = value
        elif name in environment:
            kept[name] = environment[name]
    for name in set(environment) - set(kept):
        del environment[name]
    environment.update(kept)


def take_limits(workers: WorkersSettings, slot: int | None, journal: Journal) -> None:
    """What needs privileges, for worker `slot` (None: the checker, which has descriptors and a place of its own)."""
    core = workers.rlimit_core
    if core is not None:
        _try(journal, f"setrlimit(RLIMIT_CORE, {core})", lambda: resource.setrlimit(resource.RLIMIT_CORE, (core, core)))
    if slot is None:
        return
    if workers.priority:
        _try(
            journal,
            f"setpriority({workers.priority})",
            lambda: os.setpriority(os.PRIO_PROCESS, 0, workers.priority),
        )
    files = workers.rlimit_nofile
    if files is not None:
        _try(
            journal,
            f"setrlimit(RLIMIT_NOFILE, {files})",
            lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
        )
    processors = workers.processors(slot, frozenset(os.sched_getaffinity(0)))
    if processors is not None:
        _try(journal, "sched_setaffinity()", lambda: os.sched_setaffinity(0, processors))


def take_place(workers: WorkersSettings, journal: Journal) -> None:
    """What comes after the privileges are gone: leave to write a core file, and where."""
    if workers.rlimit_core is not None:
        # The kernel takes it away from whoever changes its user.
        _try(journal, "prctl(PR_SET_DUMPABLE)", _be_dumpable)
    if workers.working_directory:
        folder = workers.working_directory
        _try(journal, f'chdir("{folder}")', lambda: os.chdir(folder))


def _be_dumpable() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _try(journal: Journal, what: str, call: Callable[[], object]) -> None:
    try:
        call()
    except OSError as error:
        journal.alert(f"{what} {failure(error)}")
    except ValueError as error:  # what Python, or setrlimit without privileges, says before the system does
        journal.alert(f"{what} failed ({error})")


def own_memory() -> int:
    """Bytes that this process has in memory for itself: what it shares with others (the zone, files) left out."""
    with open("/proc/self/statm", "rb") as file:
        words = file.read().split()
    return (int(words[1]) - int(words[2])) * resource.getpagesize()
