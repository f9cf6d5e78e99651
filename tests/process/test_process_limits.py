"""What workers are given (environment, limits, priority, processors) and what has one replaced, with real processes."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import time
from pathlib import Path

import lmdb
import pytest

from tests.process.test_process_master import System, eventually, system
from upwell.log import ErrorLog
from upwell.modules.workers import WorkersSettings
from upwell.peers.peer import PeerKey
from upwell.process.child import start_failed
from upwell.process.journal import Journal
from upwell.process.limits import keep_environment, own_memory, take_limits, take_place
from upwell.process.supervisor import FATAL, SCARCE
from upwell.zone.table import Counts, PeerTable

__all__ = ["system"]


def test_only_what_is_named_stays_in_the_environment() -> None:
    environment = {"TZ": "UTC", "HOME": "/root", "SECRET": "x", "PATH": "/bin"}
    keep_environment(["HOME", "ABSENT", "PATH=/usr/bin", "EMPTY=", "NEW=a=b", "=x"], environment)
    assert environment == {"TZ": "UTC", "HOME": "/root", "PATH": "/usr/bin", "EMPTY": "", "NEW": "a=b"}
    keep_environment(["TZ=CET"], environment)
    assert environment == {"TZ": "CET"}
    keep_environment([], environment)
    assert environment == {"TZ": "CET"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.EMFILE, "x", "/file"), SCARCE),
        (MemoryError(), SCARCE),
        (lmdb.Error("/dev/shm/d: Too many open files"), SCARCE),
        (lmdb.MemoryError("/dev/shm/d: Cannot allocate memory"), SCARCE),
        (OSError(errno.EACCES, "x"), FATAL),
        (RuntimeError("init_worker_by_lua error"), FATAL),
    ],
)
def test_what_may_be_there_soon_is_told_from_what_will_not(error: Exception, code: int) -> None:
    assert start_failed(Journal([], echo=False), error) == code


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (WorkersSettings(), [None, None, None]),
        (WorkersSettings(affinity=(frozenset({0}),)), [{0}, {0}, {0}]),
        (WorkersSettings(affinity=(frozenset({0}), frozenset({1, 3}))), [{0}, {1, 3}, {1, 3}]),
        (WorkersSettings(affinity_auto=True), [{4}, {6}, {4}]),
        (WorkersSettings(affinity=(frozenset({1, 2}),), affinity_auto=True), [{1}, {2}, {1}]),
        (WorkersSettings(affinity=(frozenset(),), affinity_auto=True), [None, None, None]),
    ],
)
def test_processors(settings: WorkersSettings, expected: list[set[int] | None]) -> None:
    assert [settings.processors(slot, frozenset({4, 6})) for slot in range(3)] == expected


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    log = ErrorLog(str(tmp_path / "log"), 8)
    log.open()
    return Journal([log], echo=False)


def _in_a_child(settings: WorkersSettings, journal: Journal) -> str:
    """What a forked child finds about itself after it took `settings`."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            take_limits(settings, 0, journal)
            take_place(settings, journal)
            found = (
                resource.getrlimit(resource.RLIMIT_NOFILE),
                resource.getrlimit(resource.RLIMIT_CORE),
                os.getpriority(os.PRIO_PROCESS, 0),
                sorted(os.sched_getaffinity(0)),
                os.getcwd(),
            )
            os.write(write, repr(found).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text


def test_limits_are_taken(journal: Journal, tmp_path: Path) -> None:
    first = min(os.sched_getaffinity(0))
    nice = os.getpriority(os.PRIO_PROCESS, 0) + 1
    settings = WorkersSettings(
        rlimit_nofile=100,
        rlimit_core=4096,
        priority=nice,
        affinity=(frozenset({first}),),
        working_directory=str(tmp_path),
    )
    found = _in_a_child(settings, journal)
    assert found == repr(((100, 100), (4096, 4096), nice, [first], str(tmp_path)))
    assert (tmp_path / "log").read_text() == ""


def test_what_is_refused_is_said_and_the_rest_taken(journal: Journal, tmp_path: Path) -> None:
    settings = WorkersSettings(
        rlimit_nofile=1 << 40, affinity=(frozenset(),), working_directory="/nonexistent", rlimit_core=1
    )
    assert "(1, 1)" in _in_a_child(settings, journal)
    log = (tmp_path / "log").read_text()
    assert f"setrlimit(RLIMIT_NOFILE, {1 << 40}) failed (" in log
    assert "sched_setaffinity() failed (22: Invalid argument)" in log
    assert 'chdir("/nonexistent") failed (2: No such file or directory)' in log


def test_own_memory_is_what_is_not_shared() -> None:
    before = own_memory()
    assert before > 1 << 20
    more = bytearray(os.urandom(1 << 20) * 32)
    assert own_memory() > before + (16 << 20)
    assert len(more)


def test_vacated_is_what_the_last_one_had_open() -> None:
    table = PeerTable.create([PeerKey("backend", "primary", "127.0.0.1:81", 0)], 2)
    for worker in (0, 1):
        table.set_counts(0, worker, Counts(3, 10, 1, (0, 9, 0, 0, 1), 100, 200))
        table.set_ready(worker, 17)
    table.vacate(1)
    total = table.counts(0)
    assert (total.connections, total.requests) == (3, 20)
    assert (table.ready(0), table.ready(1)) == (17, 0)


def test_a_worker_that_has_served_enough_is_replaced_and_nobody_waits(system: System) -> None:
    system.start(2, given={"max_requests": 20})
    first = set(system.children("worker"))
    answered = [eventually(system.ask, "an answer") for _ in range(10)]
    assert {answer[0] for answer in answered} <= first

    def replaced() -> bool:
        assert system.ask()
        return not first & set(system.children("worker"))

    system.eventually(replaced, f"other workers: {system.log()}", 30)
    system.eventually(lambda: len(system.children("worker")) == 2, "two workers")
    log = system.log()
    assert log.count("requests, it is replaced") >= 2
    # The next one is there before the last one stops: starts and ends come in turns, one by one.
    turns = [
        "start" if "start worker process" in line else "end"
        for line in log.splitlines()
        if "start worker process " in line or "gracefully shutting down" in line
    ]
    assert turns[:6] == ["start", "start", "start", "end", "start", "end"]
    assert "[alert]" not in log


def test_an_exchange_of_a_replaced_worker_goes_on(system: System) -> None:
    system.start(1, given={"max_requests": 2})
    [first] = system.children("worker")
    with system.slow_client() as client:
        system.eventually(lambda: system.ask()[0] != first, "another worker", 20)
        assert system.alive(first)
        client.sendall(b"go\n")
        assert client.makefile().readline().split()[1] == str(first)
    system.eventually(lambda: not system.alive(first), "the end of the first")


def test_a_worker_that_took_too_much_memory_is_replaced(system: System) -> None:
    system.start(1, given={"max_memory": 60 << 20})
    [first] = system.children("worker")
    time.sleep(2.5)  # two looks: a worker that is well is left alone
    assert system.children("worker") == [first]
    with socket.create_connection(("127.0.0.1", system.port), timeout=10) as client:
        client.sendall(b"eat\n")
        assert client.makefile().readline()
    system.eventually(lambda: system.ask()[:1] not in ([], [first]), "another worker", 20)
    assert " KB of memory for itself, it is replaced" in system.log()


def test_a_worker_that_hangs_is_killed_and_replaced(system: System) -> None:
    master = system.start(1, given={"hang_timeout": 2.0})
    [first] = system.children("worker")
    with socket.create_connection(("127.0.0.1", system.port), timeout=30) as client:
        client.sendall(b"hang\n")
        system.eventually(lambda: system.ask()[:1] not in ([], [first]), "another worker", 20)
        assert client.recv(10) == b""
    line = f"[alert] {master}#{master}: worker process {first} has given no sign of life for 2 seconds or more"
    assert line in system.log()


def test_a_worker_that_stands_still_is_replaced_too(system: System) -> None:
    system.start(2, given={"hang_timeout": 2.0})
    first = system.children("worker")
    answered: set[int] = set()

    def all_serve() -> bool:
        answered.update(system.ask()[:1])
        return len(answered) == 2

    system.eventually(all_serve, "answers of both")
    os.kill(first[0], signal.SIGSTOP)
    system.eventually(lambda: not system.alive(first[0]) and len(system.children("worker")) == 2, "another worker", 20)
    assert first[1] in system.children("worker")


def test_limits_of_real_workers(system: System) -> None:
    processor = min(os.sched_getaffinity(0))
    settings = {"rlimit_nofile": 333, "affinity_auto": True, "working_directory": "/"}
    system.start(given=settings)
    [worker] = system.children("worker")
    [checker] = system.children("checker")
    assert "Max open files            333                  333" in Path(f"/proc/{worker}/limits").read_text()
    assert "Max open files            333 " not in Path(f"/proc/{checker}/limits").read_text()
    assert os.sched_getaffinity(worker) == {processor}
    assert os.sched_getaffinity(checker) == os.sched_getaffinity(0)
