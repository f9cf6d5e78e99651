"""A system to watch: a real master around made-up parts, and the words it writes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

STUB = Path(__file__).with_name("stub_master.py")


def eventually(condition: Callable[[], Any], what: str, seconds: float = 10.0) -> Any:
    """The first true value of `condition()`; fails, naming `what`, when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what}")
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class System:
    """One master in a folder of its own. `port` is free when the test begins and the system listens on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "conf.json"
        self.pid_file = folder / "stub.pid"
        self.log_file = folder / "error.log"
        self.port = self.free_port()
        self.process: subprocess.Popen[str] | None = None
        self._pids: set[int] = set()

    eventually = staticmethod(eventually)
    alive = staticmethod(alive)

    @staticmethod
    def free_port() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    def configure(self, **settings: Any) -> None:
        """Write the configuration: the given settings over those of a small working one."""
        conf = {
            "pid": str(self.pid_file),
            "error_log": str(self.log_file),
            "listens": [["127.0.0.1", self.port]],
            **settings,
        }
        self.conf.write_text(json.dumps({"errors": settings["errors"]} if "errors" in settings else conf))

    def launch(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the master, without waiting for anything."""
        self.process = subprocess.Popen(
            [sys.executable, str(STUB), str(self.conf), *arguments], stderr=subprocess.PIPE, text=True
        )
        self._pids.add(self.process.pid)
        return self.process

    def start(self, workers: int = 1, **settings: Any) -> int:
        """Start the master in the foreground and wait until it serves; its pid."""
        self.configure(worker_processes=workers, **settings)
        process = self.launch("-f")
        eventually(lambda: self.ask() and len(self.children("worker")) == workers, f"{workers} workers: {self.log()}")
        return process.pid

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def children(self, kind: str, master: int | None = None) -> list[int]:
        """The living children of one kind ("worker", "checker"), known by the names that they gave themselves."""
        if master is None:
            assert self.process is not None
            master = self.process.pid
        found = []
        try:
            listed = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        except OSError:
            return []
        for pid in map(int, listed):
            try:
                name = Path(f"/proc/{pid}/comm").read_text().strip()
            except OSError:
                continue
            if alive(pid) and name == f"upwell: {kind}":
                found.append(pid)
        self._pids.update(found)
        return found

    def ask(self, port: int | None = None) -> list[int]:
        """What a worker says: its pid, its slot and the checker's epoch; [] when nobody answers."""
        try:
            with socket.create_connection(("127.0.0.1", port or self.port), timeout=5) as client:
                client.sendall(b"quick\n")
                words = client.makefile().readline().split()
        except OSError:
            return []
        return [int(word) for word in words[1:]]

    def slow_client(self) -> socket.socket:
        """A connection whose answer is under way until it sends "go"."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        client.sendall(b"slow\n")
        assert client.recv(5) == b"wait\n"
        return client

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, seconds: float = 10.0) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    def clean(self) -> None:
        """End what is left of the processes seen."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait(10)
            assert self.process.stderr is not None
            self.process.stderr.close()
        for pid in self._pids:
            if alive(pid) and str(STUB) in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def system() -> Iterator[System]:
    # Not tmp_path: workers that are no longer root must be able to reach it.
    folder = Path(tempfile.mkdtemp(prefix="upwell-test-"))
    folder.chmod(0o755)
    running = System(folder)
    try:
        yield running
    finally:
        running.clean()
        shutil.rmtree(folder, ignore_errors=True)
