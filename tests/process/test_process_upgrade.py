"""One master takes over from another (USR2), with real processes around made-up parts: listeners are handed over, and
every way back is open."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.test_process_master import STUB, System, alive, eventually, system
from upwell.process.inherited import PARENT, VARIABLE, inherited, unused, variable
from upwell.process.journal import Journal
from upwell.process.listeners import discard, open_sockets
from upwell.proxy.listen import ListenSpec

__all__ = ["system"]


class Daemon:
    """A master in the background of `system`, and those that take over from it."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.old_pid_file = system.pid_file.with_name("stub.pid.oldbin")
        self.masters: list[int] = []

    def start(self, workers: int = 1, **settings: object) -> int:
        self.system.configure(daemon=True, worker_processes=workers, **settings)
        self.system.launch()
        assert self.system.wait() == 0
        return self.master()

    def master(self) -> int:
        """The pid in the pid file."""
        pid = int(eventually(lambda: self.system.pid_file.exists() and self.system.pid_file.read_text(), "a pid file"))
        if pid not in self.masters:
            self.masters.append(pid)
        return pid

    def upgrade(self) -> tuple[int, int]:
        """Tell the master to start another one: the old one, and the new one once it serves."""
        old = self.master()
        os.kill(old, signal.SIGUSR2)
        eventually(lambda: self.system.pid_file.exists() and self.master() != old, f"another master\n{self.log()}")
        new = self.master()
        eventually(lambda: self.system.children("worker", new), "its worker")
        return old, new

    def log(self) -> str:
        return self.system.log()

    def answered_by(self, master: int, tries: int = 200) -> None:
        """Wait until only workers of `master` answer."""

        def only() -> bool:
            return all(self.system.ask()[0] in self.system.children("worker", master) for _ in range(10))

        eventually(only, "only its workers answer")

    def clean(self) -> None:
        for pid in self.masters:
            with contextlib.suppress(OSError):
                if str(STUB) in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def daemon(system: System) -> Iterator[Daemon]:
    running = Daemon(system)
    try:
        yield running
    finally:
        running.clean()


def test_old_and_new_side_by_side_then_the_old_one_leaves(daemon: Daemon) -> None:
    system = daemon.system
    daemon.start()
    with system.slow_client() as client:
        old, new = daemon.upgrade()
        assert daemon.old_pid_file.read_text() == f"{old}\n"
        [first] = eventually(lambda: system.children("worker", old), "its worker")
        seen = {eventually(system.ask, "an answer")[0] for _ in range(300)}
        assert seen <= {first, *system.children("worker", new)}
        os.kill(old, signal.SIGWINCH)
        daemon.answered_by(new)
        assert alive(first)
        os.kill(old, signal.SIGQUIT)
        eventually(lambda: f"{old}#{old}: signal 3" in daemon.log(), "the signal is heard")
        assert alive(old)
        client.sendall(b"go\n")
        assert client.makefile().readline().split()[1] == str(first)
    eventually(lambda: not alive(old), "the old master ends")
    assert not daemon.old_pid_file.exists()
    assert system.pid_file.read_text() == f"{new}\n"
    assert system.ask()

    # And the new one can be followed in turn, as soon as it knows that it is alone.
    def again() -> bool:
        os.kill(new, signal.SIGUSR2)
        return daemon.master() != new

    eventually(again, "a third master")
    newest = daemon.master()
    for pid in (new, newest):
        os.kill(pid, signal.SIGQUIT)
    eventually(lambda: not alive(new) and not alive(newest), "the end of both")
    assert system.ask() == []
    assert "[alert]" not in daemon.log()


def test_the_way_back(daemon: Daemon) -> None:
    system = daemon.system
    daemon.start()
    old, new = daemon.upgrade()
    os.kill(old, signal.SIGWINCH)
    eventually(lambda: not system.children("worker", old), "the old workers leave")
    # What the old master had, not what the file says meanwhile.
    system.configure(errors=["unknown directive of the new version"])
    os.kill(old, signal.SIGHUP)
    eventually(lambda: len(system.children("worker", old)) == 1 and system.children("checker", old), "old workers")
    os.kill(new, signal.SIGQUIT)
    eventually(lambda: not alive(new), "the new one ends")
    eventually(lambda: system.pid_file.exists() and system.pid_file.read_text() == f"{old}\n", "the pid file")
    assert not daemon.old_pid_file.exists()
    assert system.ask()[0] in system.children("worker", old)
    assert "unknown directive" not in daemon.log()
    os.kill(old, signal.SIGTERM)
    eventually(lambda: not alive(old), "the end")
    assert not system.pid_file.exists()


@pytest.mark.parametrize("resting", [False, True])
def test_a_new_master_that_dies_leaves_the_old_one_as_it_was(daemon: Daemon, resting: bool) -> None:
    system = daemon.system
    daemon.start()
    old, new = daemon.upgrade()
    if resting:
        os.kill(old, signal.SIGWINCH)
        eventually(lambda: not system.children("worker", old), "the old workers leave")
    os.kill(new, signal.SIGKILL)
    eventually(lambda: system.pid_file.read_text() == f"{old}\n", "the pid file comes back")
    eventually(lambda: system.children("worker", old), "the old one serves")
    eventually(lambda: system.ask()[:1] == system.children("worker", old), "an answer")
    assert f"new binary process {new} exited on signal 9" in daemon.log()
    assert not daemon.old_pid_file.exists()
    daemon.upgrade()


def test_a_new_master_that_cannot_start_changes_nothing(daemon: Daemon) -> None:
    system = daemon.system
    old = daemon.start()
    worker = eventually(system.ask, "an answer")[0]
    system.configure(errors=["broken"])
    os.kill(old, signal.SIGUSR2)
    eventually(lambda: " exited with code 1" in daemon.log(), "the end of the new one")
    eventually(lambda: system.pid_file.exists() and system.pid_file.read_text() == f"{old}\n", "the pid file")
    assert system.ask()[0] == worker
    assert not daemon.old_pid_file.exists()


def test_no_third_master_while_two_run(daemon: Daemon) -> None:
    daemon.start()
    for master in daemon.upgrade():
        os.kill(master, signal.SIGUSR2)
    for master in daemon.masters:
        words = f"{master}#{master}: the changing binary signal is ignored"
        eventually(functools.partial(_contains, daemon, words), "the refusal")


def _contains(daemon: Daemon, words: str) -> bool:
    return words in daemon.log()


def test_a_unix_socket_outlives_the_old_master_and_the_failed_new_one(daemon: Daemon) -> None:
    system = daemon.system
    path = system.folder / "listen.sock"

    def answers() -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"quick\n")
            return client.makefile().readline().startswith("worker ")

    daemon.start(listens=[["127.0.0.1", system.port], str(path)])
    old, new = daemon.upgrade()
    os.kill(new, signal.SIGTERM)
    eventually(lambda: not alive(new) and system.pid_file.exists(), "the new one ends")
    assert answers()
    eventually(lambda: daemon.master() == old, "the old one has its pid file again")
    _, new = daemon.upgrade()
    os.kill(old, signal.SIGTERM)
    eventually(lambda: not alive(old), "the old one ends")
    assert answers()
    # Now the file is its own to remove.
    eventually(lambda: f"{new}#{new}: old binary process is gone" in daemon.log(), "the news")
    os.kill(new, signal.SIGTERM)
    eventually(lambda: not alive(new), "the new one ends too")
    assert not path.exists()


def test_listeners_that_the_new_configuration_lacks_are_closed_there(daemon: Daemon) -> None:
    system = daemon.system
    other = system.free_port()
    daemon.start(listens=[["127.0.0.1", system.port], ["127.0.0.1", other]])
    system.configure(daemon=True)
    old, new = daemon.upgrade()
    os.kill(old, signal.SIGQUIT)
    eventually(lambda: not alive(old), "the old one ends")
    assert system.ask()
    assert system.ask(other) == []
    assert new == daemon.master()


# What is read from the environment


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    from upwell.log import ErrorLog

    log = ErrorLog(str(tmp_path / "log"), 8)
    log.open()
    return Journal([log], echo=False)


def test_what_one_master_writes_the_next_one_reads(journal: Journal, tmp_path: Path) -> None:
    specs = [
        ListenSpec(("127.0.0.1", 0)),
        ListenSpec(("::1", 0)),
        ListenSpec(str(tmp_path / "s")),
        ListenSpec(("127.0.0.1", 0), udp=True),
        ListenSpec(("127.0.0.2", System.free_port()), reuseport=True),
    ]
    opened = open_sockets(specs, 2, {}, journal)
    copies = {spec: tuple(sock.dup() for sock in held) for spec, held in opened.items()}
    environment = {VARIABLE: variable([copies]), PARENT: "17", "TZ": "UTC"}
    handed = [sock.detach() for held in copies.values() for sock in held]
    found = inherited(environment, os.getpid(), journal)
    assert environment == {"TZ": "UTC"}
    assert found.predecessor == 17  # although its parent is another one: it has died meanwhile
    assert not found.kept_by_others
    got = {(spec.family, spec.udp, spec.reuseport): len(held) for spec, held in found.sockets.items()}
    assert got == {(s.family, s.udp, s.reuseport): 2 if s.reuseport else 1 for s in specs}
    assert sorted(s.fileno() for held in found.sockets.values() for s in held) == sorted(handed)
    assert not any(os.get_inheritable(fd) for fd in handed)
    wanted = [ListenSpec(spec.address, 100, spec.reuseport, udp=spec.udp) for spec in found.sockets][:-1]
    again = open_sockets(wanted, 2, found.sockets, journal)
    assert [spec.address for spec, _ in unused(found.sockets, [again])] == [[*found.sockets][-1].address] * 2
    discard(sock for table in (opened, found.sockets) for held in table.values() for sock in held)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x;", 'invalid socket number "x"'),
        ("3", "invalid socket number in NGINX"),
        ("-1;", 'invalid socket number "-1"'),
        ("99999;", "inherited descriptor 99999 is no socket: Bad file descriptor"),
        ("", ""),
    ],
)
def test_nonsense_in_the_environment_is_said(journal: Journal, tmp_path: Path, text: str, said: str) -> None:
    found = inherited({VARIABLE: text, PARENT: "x"}, 1, journal)
    assert found.sockets == {}
    assert found.predecessor == os.getppid()  # nginx says nothing, nor does nonsense
    assert said in (tmp_path / "log").read_text()


def test_a_socket_that_does_not_listen_is_not_used(journal: Journal, tmp_path: Path) -> None:
    sock = socket.socket()
    found = inherited({VARIABLE: f"{sock.detach()};"}, 1, journal)
    assert found.sockets == {}
    assert "is not used: it does not listen" in (tmp_path / "log").read_text()


def test_the_environment_of_another_process_is_not_ours(journal: Journal) -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}
    assert inherited(environment, 2, journal).sockets == {}
    for broken in ({"LISTEN_PID": "x"}, {"LISTEN_PID": "2"}, {"LISTEN_PID": "2", "LISTEN_FDS": "y"}, {}):
        assert inherited(dict(broken), 2, journal).sockets == {}


_ACTIVATE = """
import os, sys
fds = [int(fd) for fd in sys.argv[1].split(",")]
for place, fd in enumerate(fds, 3):
    os.dup2(fd, place)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES="a")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def test_socket_activation(system: System) -> None:
    path = system.folder / "activated.sock"
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", system.port)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(path))
        unix.listen()
        strange = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        # Clients may come before the service does.
        early = stack.enter_context(socket.create_connection(("127.0.0.1", system.port), timeout=10))
        early.sendall(b"quick\n")
        system.configure(listens=[["127.0.0.1", system.port], str(path)])
        # High, so that none of them is one of the places that they are copied to.
        fds = [fcntl_dup(sock) for sock in (tcp, unix, strange)]
        process = subprocess.Popen(
            [sys.executable, "-c", _ACTIVATE, ",".join(map(str, fds)), str(STUB), str(system.conf), "-f"],
            pass_fds=fds,
            start_new_session=True,
        )
        try:
            for fd in fds:
                os.close(fd)
            assert early.makefile().readline().startswith("worker ")
            assert system.ask()
            address = f"127.0.0.1:{strange.getsockname()[1]}"
            assert f'no "listen" is for the inherited socket {address}, it is closed' in system.log()
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            assert path.exists()  # systemd goes on listening there
        finally:
            process.kill()
            process.wait()


def fcntl_dup(sock: socket.socket) -> int:
    import fcntl

    return fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, 20)


def test_an_old_master_that_is_killed_takes_nothing_with_it(daemon: Daemon) -> None:
    system = daemon.system
    daemon.start()
    old, new = daemon.upgrade()
    with system.slow_client() as client:
        os.kill(old, signal.SIGKILL)
        daemon.answered_by(new)
        client.sendall(b"go\n")
        assert client.makefile().readline().startswith("worker ")
    eventually(lambda: f"{new}#{new}: old binary process is gone" in daemon.log(), "the news")
    assert system.pid_file.read_text() == f"{new}\n"
    os.kill(new, signal.SIGUSR2)
    eventually(lambda: daemon.master() != new, "the next one")
