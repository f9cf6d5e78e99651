"""How many descriptors this process may have, and how many probes and kept connections that is room for."""

from __future__ import annotations

import contextlib
import resource
from typing import NamedTuple

_OTHERS = 64  # logs, control sockets, epoll, what libraries open for a moment


class Room(NamedTuple):
    """How many probes may be made at once, and how many connections may be kept between probes."""

    probes: int
    kept: int


def raise_limit() -> None:
    """Have as many as the system allows without asking for more privileges."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # ValueError, OSError: an unlimited one that the kernel does not give (fs.nr_open).
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit() -> int:
    """How many this process may have; a large number stands for no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def room(descriptors: int, wanted: int, most: int) -> Room:
    """What `descriptors` are room for: half of them for kept connections, a quarter for probes (`wanted` at once, else
    `most`); some end their connection a while after their verdict."""
    free = max(descriptors - _OTHERS, 4)
    return Room(min(wanted or most, free // 4), free // 2)
