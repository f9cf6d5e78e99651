"""The master with real processes around made-up parts: what is killed comes back, what is told to end ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from upwell.contrib.processes import free_ports

STUB = Path(__file__).with_name("stub_master.py")


def eventually(condition: Callable[[], Any], what: str | Callable[[], str], seconds: float = 30.0) -> Any:
    """The first true value of `condition()`; fails, naming `what` as it is then, when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what if isinstance(what, str) else what()}")
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
        self._process: subprocess.Popen[str] | None = None
        self._pids: set[int] = set()

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None, "not launched"
        return self._process

    eventually = staticmethod(eventually)
    alive = staticmethod(alive)

    @staticmethod
    def free_port() -> int:
        return free_ports(1)[0]

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
        self._process = subprocess.Popen(
            [sys.executable, str(STUB), str(self.conf), *arguments],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._pids.add(self.process.pid)
        return self.process

    def start(self, workers: int = 1, **settings: Any) -> int:
        """Start the master in the foreground and wait until it serves; its pid."""
        self.configure(worker_processes=workers, **settings)
        process = self.launch("-f")
        eventually(
            lambda: self.ask() and len(self.children("worker")) == workers,
            lambda: f"{workers} workers; ended with {process.poll()}; it says {self.log()}",
        )
        return process.pid

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def children(self, kind: str, master: int | None = None) -> list[int]:
        """The living children of one kind ("worker", "checker"), known by the names that they gave themselves."""
        if master is None:
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
        self.process.send_signal(number)

    def wait(self, seconds: float = 10.0) -> int:
        return self.process.wait(seconds)

    def clean(self) -> None:
        """End what is left of the processes seen."""
        if self._process is not None:
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


def test_start_and_fast_stop(system: System) -> None:
    master = system.start(workers=2)
    assert system.pid_file.read_text() == f"{master}\n"
    assert sorted({system.ask()[1] for _ in range(50)} | {0, 1}) == [0, 1]
    system.signal(signal.SIGTERM)
    assert system.wait() == 0
    assert not system.pid_file.exists()
    assert system.ask() == []
    log = system.log()
    for line in (
        "[notice]",
        "nginx/1.31.4 (upwell/",
        "start worker processes",
        "start worker process ",
        "start checker process ",
        "signal 15 (SIGTERM) received, exiting",
        ": exiting",
        "exited with code 0",
        ": exit\n",
    ):
        assert line in log
    assert "[alert]" not in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_fast_stop_does_not_wait_for_an_exchange(system: System, number: signal.Signals) -> None:
    system.start()
    with system.slow_client() as client:
        system.signal(number)
        assert system.wait() == 0
        assert client.recv(10) == b""


def test_ctrl_c_reaches_the_children_too_and_replaces_none(system: System) -> None:
    master = system.start(workers=2)
    os.killpg(master, signal.SIGINT)
    assert system.wait() == 0
    assert system.log().count("start worker process ") == 2
    assert "[alert]" not in system.log()


def test_quit_lets_exchanges_end(system: System) -> None:
    system.start()
    with system.slow_client() as client:
        system.signal(signal.SIGQUIT)
        system.eventually(lambda: system.ask() == [], "the port is closed")
        assert system.alive(system.children("worker")[0])
        client.sendall(b"go\n")
        assert client.makefile().readline().startswith("worker ")
    assert system.wait() == 0
    assert "gracefully shutting down" in system.log()


def test_shutdown_timeout_ends_an_endless_exchange(system: System) -> None:
    system.start(worker_shutdown_timeout=0.2)
    with system.slow_client() as client:
        system.signal(signal.SIGQUIT)
        assert system.wait() == 0
        assert client.recv(10) == b""


def test_a_killed_worker_comes_back_on_the_same_listener(system: System) -> None:
    system.start(workers=1)
    killed = system.ask()[0]
    os.kill(killed, signal.SIGKILL)
    # The listener is the master's: this connection waits in its queue for the next worker.
    assert system.ask()[0] != killed
    assert (
        f"[alert] {system.process.pid}#{system.process.pid}: worker process {killed} exited on signal 9" in system.log()
    )


def test_a_killed_checker_comes_back_and_is_told_its_checks_again(system: System) -> None:
    system.start(workers=1)
    system.eventually(lambda: system.log().count("stub check added to backend") == 1, "the check arrives")
    epoch = system.ask()[2]
    [killed] = system.children("checker")
    os.kill(killed, signal.SIGKILL)
    system.eventually(lambda: system.children("checker") not in ([], [killed]), "another checker", 2)
    system.eventually(lambda: system.log().count("stub check added to backend") == 2, "the check arrives again")
    assert system.ask()[2] == epoch + 1


def test_a_checker_that_stands_still_is_replaced_and_traffic_goes_on(system: System) -> None:
    master = system.start(workers=1)
    [stuck] = system.children("checker")
    epoch = system.ask()[2]
    os.kill(stuck, signal.SIGSTOP)
    asked = []

    def replaced() -> bool:
        asked.append(bool(system.ask()))
        return not system.alive(stuck) and system.children("checker") not in ([], [stuck])

    system.eventually(replaced, "another checker", 30)
    assert all(asked)
    line = f"[alert] {master}#{master}: checker process {stuck} has given no sign of life for 10 seconds or more, "
    assert line in system.log()
    system.eventually(lambda: system.log().count("stub check added to backend") == 2, "the check arrives again")
    assert system.ask()[2] == epoch + 1


def test_a_pause_of_all_processes_is_nobody_s_fault(system: System) -> None:
    system.start(workers=1)
    everybody = [*system.children("worker"), *system.children("checker")]
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    system.signal(signal.SIGSTOP)
    time.sleep(12)  # longer than a checker may be silent
    system.signal(signal.SIGCONT)
    for pid in reversed(everybody):
        os.kill(pid, signal.SIGCONT)
    assert system.ask()
    time.sleep(2.5)  # two looks of the master
    assert [*system.children("worker"), *system.children("checker")] == everybody
    assert "no sign of life" not in system.log()


def test_no_orphan_after_the_master_is_killed(system: System) -> None:
    system.start(workers=2)
    children = system.children("worker") + system.children("checker")
    assert len(children) == 3
    system.signal(signal.SIGKILL)
    system.wait()
    system.eventually(lambda: not any(system.alive(pid) for pid in children), "all children end")
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", system.port))
    assert "master process is gone" in system.log()


def test_an_orphan_ends_its_exchange_but_gives_the_port_back(system: System) -> None:
    system.start()
    with system.slow_client() as client:
        [worker] = system.children("worker")
        system.signal(signal.SIGKILL)
        system.wait()
        system.eventually(lambda: system.ask() == [], "the port is given back")
        client.sendall(b"go\n")
        assert client.makefile().readline().startswith("worker ")
    system.eventually(lambda: not system.alive(worker), "the worker ends")


def test_reload(system: System) -> None:
    system.start(workers=1)
    old_worker, old_checker = system.children("worker"), system.children("checker")
    other = system.free_port()
    with system.slow_client() as client:
        system.configure(worker_processes=2, listens=[["127.0.0.1", system.port], ["127.0.0.1", other]])
        system.signal(signal.SIGHUP)
        system.eventually(lambda: system.ask(other), "the new listener")
        system.eventually(lambda: "gracefully shutting down" in system.log(), "the old worker is asked to leave")
        assert old_worker[0] in system.children("worker")
        client.sendall(b"go\n")
        assert client.makefile().readline().split()[1] == str(old_worker[0])
    system.eventually(lambda: old_worker[0] not in system.children("worker"), "the old worker has left")
    system.eventually(lambda: len(system.children("checker")) == 1, "one checker")
    assert system.children("checker") != old_checker
    assert len(system.children("worker")) == 2
    assert system.ask()[0] in system.children("worker")


def test_reload_closes_what_is_not_used_and_moves_the_pid_file(system: System) -> None:
    master = system.start()
    old_port, new_pid = system.port, system.folder / "new.pid"
    system.port = system.free_port()
    system.configure(pid=str(new_pid))
    system.signal(signal.SIGHUP)
    system.eventually(system.ask, "the new port")
    system.eventually(lambda: system.ask(old_port) == [], "the old port is closed")
    system.eventually(lambda: not system.pid_file.exists(), "the old pid file is gone")
    assert new_pid.read_text() == f"{master}\n"
    system.signal(signal.SIGTERM)
    assert system.wait() == 0
    assert not new_pid.exists()


def test_reload_of_a_bad_file_changes_nothing(system: System) -> None:
    system.start(workers=1)
    before = system.children("worker") + system.children("checker")
    system.configure(errors=['unknown directive "foo"', 'unknown directive "bar"'])
    system.signal(signal.SIGHUP)
    system.eventually(lambda: '"bar"' in system.log(), "the errors are logged")
    assert f'[emerg] {system.process.pid}#{system.process.pid}: unknown directive "foo" in ' in system.log()
    assert f"{system.conf}:2:1" in system.log()
    assert system.ask()
    assert system.children("worker") + system.children("checker") == before


def test_what_nobody_foresaw_in_a_reload_changes_nothing(system: System) -> None:
    system.start()
    before = system.children("worker")
    system.conf.write_text("{")  # the stub has no sentence for it, only a ValueError
    system.signal(signal.SIGHUP)
    system.eventually(lambda: "[alert]" in system.log(), "it is logged")
    assert "JSONDecodeError" in system.log()
    assert system.ask()[0] in before


def test_reload_with_a_port_in_use_changes_nothing(system: System) -> None:
    system.start()
    before = system.children("worker")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        system.configure(listens=[["127.0.0.1", system.port], ["127.0.0.1", port]])
        system.signal(signal.SIGHUP)
        system.eventually(lambda: "still could not bind()" in system.log(), "it gives up")
    assert f"bind() to 127.0.0.1:{port} failed (98: Address already in use)" in system.log()
    assert system.ask()[0] in before


def test_reload_whose_workers_cannot_start_changes_nothing(system: System) -> None:
    system.start()
    before = system.children("worker")
    system.configure(fatal=True)
    system.signal(signal.SIGHUP)
    system.eventually(lambda: "the old one goes on" in system.log(), "the new generation is given up")
    system.eventually(lambda: system.children("worker") == before, "only the old worker is left")
    assert system.ask()[0] in before
    # The next good one is taken as if nothing had been.
    system.configure(worker_processes=2)
    system.signal(signal.SIGHUP)
    system.eventually(lambda: len(system.children("worker")) == 2, "the next configuration serves")


def test_workers_that_cannot_start_end_the_master(system: System) -> None:
    system.configure(fatal=True)
    system.launch("-f")
    assert system.wait() == 1
    assert "exited with fatal code 2 and cannot be respawned" in system.log()
    assert "made to fail" in system.log()
    assert not system.pid_file.exists()


def test_a_bad_file_starts_nothing(system: System) -> None:
    system.configure(errors=['unknown directive "foo"'])
    process = system.launch("-f")
    assert system.wait() == 1
    assert process.stderr is not None
    assert process.stderr.read() == f'nginx: [emerg] unknown directive "foo" in {system.conf}:1:1\n'
    assert not system.pid_file.exists()
    assert 'unknown directive "foo"' in (system.folder / "boot.log").read_text()


def test_a_port_in_use_is_named_by_every_try(system: System) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", system.port))
        other.listen()
        system.configure()
        process = system.launch("-f")
        assert system.wait() == 1
    assert process.stderr is not None
    lines = process.stderr.read().splitlines()
    words = f"nginx: [emerg] bind() to 127.0.0.1:{system.port} failed (98: Address already in use)"
    assert lines == [words] * 5 + ["nginx: [emerg] still could not bind()"]
    assert not system.pid_file.exists()


def test_a_port_that_becomes_free_is_waited_for(system: System) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", system.port))
        other.listen()
        system.configure()
        system.launch("-f")
        system.eventually(lambda: "try again to bind() after 500ms" in system.log(), "the first try")
    system.eventually(system.ask, "a later try succeeds")


def test_reopen(system: System) -> None:
    system.start()
    rotated = system.folder / "error.log.1"
    os.rename(system.log_file, rotated)
    system.signal(signal.SIGUSR1)
    killed = system.ask()[0]
    system.eventually(lambda: f"{killed}: reopening logs" in rotated.read_text(), "the worker reopens too")
    os.kill(killed, signal.SIGTERM)
    system.eventually(lambda: f"{killed}#{killed}: exiting" in system.log(), "the worker writes to the new file")


def test_the_compiled_in_log_serves_where_none_is_configured(system: System) -> None:
    boot = system.folder / "boot.log"
    system.start(error_log=None)
    assert boot.read_text() == ""  # its level is "error"
    os.rename(boot, system.folder / "boot.log.1")
    system.signal(signal.SIGUSR1)
    system.eventually(boot.exists, "it is opened anew")
    killed = system.ask()[0]
    os.kill(killed, signal.SIGKILL)
    system.eventually(lambda: f"worker process {killed} exited on signal 9" in boot.read_text(), "the alert")


@pytest.mark.parametrize(("number", "name"), [(signal.SIGUSR2, "USR2"), (signal.SIGWINCH, "WINCH")])
def test_no_upgrade_in_the_foreground(system: System, number: signal.Signals, name: str) -> None:
    system.start()
    system.signal(number)
    text = f"signal {number.value} (SIG{name}) received, ignoring: in the foreground"
    system.eventually(lambda: text in system.log(), "the notice")
    assert system.ask()


def test_daemon(system: System) -> None:
    system.configure(daemon=True)
    system.launch()
    assert system.wait() == 0
    # Right after the command: the pid file is whole and the port listens.
    master = int(system.pid_file.read_text())
    assert master != system.process.pid
    assert system.ask()
    assert os.getsid(master) == master
    children = system.eventually(lambda: system.children("worker", master), "a worker")
    os.kill(master, signal.SIGQUIT)
    system.eventually(lambda: not system.alive(master), "the daemon ends")
    assert not any(system.alive(pid) for pid in children)
    assert not system.pid_file.exists()


def test_daemon_that_cannot_write_its_pid_file_fails_in_front(system: System) -> None:
    system.configure(daemon=True, pid="/nonexistent/upwell.pid")
    process = system.launch()
    assert system.wait() == 1
    assert process.stderr is not None
    words = 'nginx: [emerg] open() "/nonexistent/upwell.pid" failed (2: No such file or directory)\n'
    assert process.stderr.read() == words


def test_master_process_off(system: System) -> None:
    system.configure(master_process=False, worker_processes=4)
    process = system.launch("-f")
    assert system.eventually(system.ask, "it serves")[0] == process.pid
    assert system.children("worker") == []
    system.eventually(lambda: "stub check added to backend" in system.log(), "the checker has the check")
    system.signal(signal.SIGHUP)
    system.eventually(lambda: "no reload with master_process off" in system.log(), "a reload is refused")
    system.signal(signal.SIGUSR2)
    system.eventually(lambda: "no upgrade with master_process off" in system.log(), "an upgrade is refused")
    with system.slow_client() as client:
        system.signal(signal.SIGQUIT)
        system.eventually(lambda: system.ask() == [], "no more is accepted")
        client.sendall(b"go\n")
        assert client.makefile().readline().startswith("worker ")
    assert system.wait() == 0
    assert not system.pid_file.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_children_are_nobody(system: System) -> None:
    system.start()
    for pid in system.children("worker") + system.children("checker"):
        uids = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("Uid:"))
        assert set(uids.split()[1:]) == {"65534"}


def test_the_checker_holds_no_listener(system: System) -> None:
    system.start()
    [checker] = system.children("checker")
    [worker] = system.children("worker")

    def listeners(pid: int) -> int:
        listening = {
            line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
        }
        links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        return sum(link.startswith("socket:[") and link[8:-1] in listening for link in links)

    assert listeners(checker) == 0
    assert listeners(worker) == 1


def test_unix_listener(system: System) -> None:
    path = system.folder / "listen.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    system.configure(listens=[["127.0.0.1", system.port], str(path)])
    system.launch("-f")
    system.eventually(system.ask, "it serves")
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"quick\n")
        assert client.makefile().readline().startswith("worker ")
    system.signal(signal.SIGTERM)
    assert system.wait() == 0
    assert not path.exists()


def test_the_shared_folder_goes_with_the_master_and_is_swept_after_a_kill(system: System) -> None:
    def folders() -> list[Path]:
        return [Path(line.split()[-1]) for line in system.log().splitlines() if "stub shared folder" in line]

    system.start()
    [first] = folders()
    assert first.is_dir()
    children = system.children("worker") + system.children("checker")
    system.signal(signal.SIGKILL)
    system.wait()
    system.eventually(lambda: not any(system.alive(pid) for pid in children), "all children end")
    assert system.process.stderr is not None
    system.process.stderr.close()
    system.start()
    second = folders()[1]
    assert second.is_dir()
    assert not first.exists()
    system.signal(signal.SIGTERM)
    assert system.wait() == 0
    assert not second.exists()
