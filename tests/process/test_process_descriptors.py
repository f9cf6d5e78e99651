"""How many descriptors the checker takes, and what it does with them."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.test_process_master import System, system
from upwell.process.descriptors import Room, limit, raise_limit, room

__all__ = ["system"]


@pytest.fixture
def low() -> Iterator[int]:
    """A soft limit below the hard one for this process, and so for those that it starts; the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 600), hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("descriptors", "wanted", "found"),
    [
        (1 << 20, 0, Room(8192, 524_256)),
        (1 << 20, 500, Room(500, 524_256)),
        (1024, 0, Room(240, 480)),
        (1024, 500, Room(240, 480)),
        (1024, 1, Room(1, 480)),
        (20, 0, Room(1, 2)),
    ],
)
def test_room(descriptors: int, wanted: int, found: Room) -> None:
    assert room(descriptors, wanted, 8192) == found


def test_the_limit_is_raised_as_far_as_it_goes(low: int) -> None:
    assert limit() <= 600
    raise_limit()
    assert limit() == (low if low != resource.RLIM_INFINITY else limit())


def test_the_checker_raises_its_own_and_no_worker_s(low: int, system: System) -> None:
    def of(pid: int) -> str:
        [line] = [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "open files" in line]
        return line.split()[3]

    system.start()
    [worker], [checker] = system.children("worker"), system.children("checker")
    assert of(worker) == str(limit())
    assert of(checker) == ("unlimited" if low == resource.RLIM_INFINITY else str(low))
