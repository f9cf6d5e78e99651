"""What systemd hears of a master: started, reloading, refused, stopping, alive; and of the one that takes over."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.test_process_master import System, alive, eventually, system
from upwell.process.service import Service

__all__ = ["system"]


class Manager:
    """The end of NOTIFY_SOCKET that a service manager holds; `said` is one text for each message."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self._sock.setblocking(False)
        self.said: list[str] = []

    def heard(self, text: str) -> bool:
        """Whether a message that begins with `text` has come."""
        while True:
            try:
                self.said.append(self._sock.recv(4096).decode())
            except BlockingIOError:
                return any(said.startswith(text) for said in self.said)

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def manager(system: System, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    path = system.folder / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    running = Manager(path)
    yield running
    running.close()


def test_a_life_as_systemd_hears_it(system: System, manager: Manager) -> None:
    before = time.monotonic_ns() // 1000
    system.start(workers=2)
    system.eventually(lambda: manager.heard("READY=1\nSTATUS=2 workers serve"), "ready")
    assert len(manager.said) == 1
    manager.said.clear()
    system.configure(worker_processes=1)
    system.signal(signal.SIGHUP)
    system.eventually(lambda: manager.heard("READY=1\nSTATUS=1 workers serve"), "ready again")
    reloading = manager.said[0].split("\n")
    assert reloading[0] == "RELOADING=1"
    assert before < int(reloading[1].removeprefix("MONOTONIC_USEC=")) < time.monotonic_ns() // 1000
    manager.said.clear()
    system.configure(errors=["broken"])
    system.signal(signal.SIGHUP)
    system.eventually(lambda: manager.heard("READY=1\nSTATUS=the new configuration was refused"), "the refusal")
    assert manager.said[0].startswith("RELOADING=1\n")
    manager.said.clear()
    system.signal(signal.SIGTERM)
    assert system.wait() == 0
    assert manager.heard("STOPPING=1")
    assert manager.said == ["STOPPING=1"]


def test_signs_of_life_when_they_are_wanted(system: System, manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    system.start()
    system.eventually(lambda: manager.heard("WATCHDOG=1") and manager.said.count("WATCHDOG=1") > 5, "signs of life")
    os.kill(system.process.pid, signal.SIGSTOP)
    manager.heard("")
    manager.said.clear()
    time.sleep(0.5)
    assert not manager.heard("WATCHDOG=1")
    os.kill(system.process.pid, signal.SIGCONT)
    system.eventually(lambda: manager.heard("WATCHDOG=1"), "a sign of life")


def test_a_reload_may_take_longer_than_a_sign_of_life(
    system: System, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a name server that is silent ends the service that a reload finds at work."""
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    system.start()
    system.eventually(lambda: manager.heard("READY=1"), "ready")
    manager.said.clear()
    system.configure(errors=["broken"])
    system.signal(signal.SIGHUP)
    system.eventually(lambda: manager.heard("WATCHDOG_USEC=30000000"), "the end of the reload")
    assert [said.split("\n")[0] for said in manager.said if said != "WATCHDOG=1"] == [
        "WATCHDOG_USEC=600000000",
        "RELOADING=1",
        "READY=1",
        "WATCHDOG_USEC=30000000",
    ]


def test_an_upgrade_in_the_foreground_under_systemd(system: System, manager: Manager) -> None:
    old = system.start()
    system.eventually(lambda: manager.heard("READY=1"), "ready")
    manager.said.clear()
    system.signal(signal.SIGUSR2)
    new = int(eventually(lambda: _other(system, old), "another master"))
    try:
        system.eventually(lambda: manager.heard("READY=1"), "the new one is ready")
        manager.said.clear()
        system.signal(signal.SIGQUIT)
        assert system.wait() == 0
        assert manager.heard(f"MAINPID={new}")
        assert manager.said == [f"MAINPID={new}"]
        assert system.ask()
    finally:
        os.kill(new, signal.SIGTERM)
        eventually(lambda: not alive(new), "the end")


def _other(system: System, old: int) -> int:
    """The pid in the pid file once it is not that of `old`."""
    try:
        pid = int(system.pid_file.read_text())
    except (OSError, ValueError):
        return 0
    return pid if pid != old else 0


@pytest.mark.parametrize(
    ("environment", "asked", "watchdog"),
    [
        ({}, False, 0.0),
        ({"NOTIFY_SOCKET": "vsock:2:1"}, False, 0.0),
        ({"NOTIFY_SOCKET": "/n"}, True, 0.0),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "30000000"}, True, 15.0),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "7"}, True, 1.0),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "6"}, True, 1.0),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "8"}, True, 0.0),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "x"}, True, 0.0),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "-1"}, True, 0.0),
        ({"WATCHDOG_USEC": "2000000"}, False, 0.0),
    ],
)
def test_what_the_environment_asks_for(environment: dict[str, str], asked: bool, watchdog: float) -> None:
    service = Service(environment, 7, 6)
    assert (service.asked, service.watchdog) == (asked, watchdog)


def test_nobody_listens_and_nobody_cares(tmp_path: Path) -> None:
    Service({"NOTIFY_SOCKET": str(tmp_path / "absent")}, 1).tell("READY=1")
    Service({}, 1).tell("READY=1")


def test_an_abstract_name(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{tmp_path}")
        Service({"NOTIFY_SOCKET": f"@{tmp_path}"}, 1).tell("READY=1", "STATUS=x")
        assert sock.recv(100) == b"READY=1\nSTATUS=x"
