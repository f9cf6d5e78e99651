"""One upwell takes over from another on the same ports (USR2, WINCH, QUIT), under load: nothing is lost."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import upwell
from tests.system.configurations import checked
from tests.system.wire import Client, Origin, Seen, ask, get, response
from upwell.contrib.processes import App, Balancer, await_condition, children, free_ports, listens
from upwell.contrib.traffic import Traffic
from upwell.version import NGINX_VERSION, VERSION


class Background:
    """A balancer in the background: its masters, known by their pid files."""

    def __init__(self, balancer: Balancer) -> None:
        self.balancer = balancer
        self.pid_file = balancer.prefix / "logs" / "nginx.pid"
        self.old_pid_file = balancer.prefix / "logs" / "nginx.pid.oldbin"

    @property
    def master(self) -> int:
        return _pid(self.pid_file)

    def upgrade(self, processes: int) -> tuple[int, int]:
        """Start another master; the old one and the new one, once it has as many processes."""
        old = self.master
        os.kill(old, signal.SIGUSR2)
        await_condition(
            lambda: self.master not in (0, old) and len(children(self.master)) == processes, "a new master", 15
        )
        return old, self.master

    def stop(self) -> None:
        for file in (self.old_pid_file, self.pid_file):
            pid = _pid(file)
            if pid:
                os.kill(pid, signal.SIGTERM)
                await_condition(has_ended(pid), "the end of a master", 10)


def _pid(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0


def has_ended(pid: int) -> Callable[[], bool]:
    def ended() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    return ended


Start = Callable[[str, list[int]], Background]


@pytest.fixture
def start_background(tmp_path: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start(configuration: str, ports: list[int]) -> Background:
            for parent in (tmp_path, *tmp_path.parents):
                if parent.name.startswith(("pytest-", "test_")):
                    parent.chmod(0o755)
            balancer = Balancer(tmp_path / "prefix", configuration, ports, main="daemon on;")
            running = Background(balancer)
            _go_into_background(balancer)
            stack.callback(running.stop)
            return running

        yield start


def _go_into_background(balancer: Balancer) -> None:
    # Not a pipe: nginx in the background holds on to its standard error.
    done = subprocess.run(
        balancer.command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30, check=False
    )
    assert done.returncode == 0, balancer.error_log()
    await_condition(lambda: all(map(listens, balancer.ports)), "its ports", 10)


def _answering(front: int, text: str) -> str:
    return f"""
worker_processes 2;
pid logs/nginx.pid;
error_log logs/error.log notice;
events {{ }}
http {{ server {{ listen 127.0.0.1:{front}; location / {{ return 200 "{text}"; }} }} }}
"""


def test_an_upgrade_under_load_loses_nothing_there_and_back(start_background: Start) -> None:
    (front,) = free_ports(1)
    running = start_background(_answering(front, "old"), [front])
    balancer = running.balancer
    with contextlib.ExitStack() as stack:
        loads = [stack.enter_context(Traffic(front, pause=0.002, keep=False)) for _ in range(3)]
        await_condition(lambda: loads[0].answered["old"] > 20, "traffic", 10)
        balancer.configure(_answering(front, "new"))
        old, new = running.upgrade(3)
        await_condition(lambda: all(load.answered["new"] > 5 for load in loads), "answers of the new one", 10)
        assert running.old_pid_file.read_text() == f"{old}\n"
        os.kill(old, signal.SIGWINCH)
        await_condition(lambda: not _children_but(old, new), "the end of the old workers", 10)
        # Second thoughts: the old ones come back with the old text, the new master goes.
        os.kill(old, signal.SIGHUP)
        await_condition(lambda: len(_children_but(old, new)) == 3, "the old workers", 10)
        os.kill(new, signal.SIGQUIT)
        await_condition(lambda: running.master == old and not running.old_pid_file.exists(), "the old pid file", 10)
        back = [load.answered["old"] for load in loads]
        await_condition(
            lambda: all(load.answered["old"] > before for load, before in zip(loads, back, strict=True)), "old", 10
        )
        # And forward again, to stay.
        old, new = running.upgrade(3)
        os.kill(old, signal.SIGWINCH)
        os.kill(old, signal.SIGQUIT)
        await_condition(has_ended(old), "the end of the old master", 10)
        await_condition(lambda: ask(front, get()).body == b"new", "new", 10)
        assert running.master == new
    assert [load.lost for load in loads] == [[], [], []]
    assert all(set(load.answered) == {"old", "new"} for load in loads)
    assert not running.old_pid_file.exists()
    assert "[alert] " not in balancer.error_log()


def _children_but(master: int, other: int) -> list[int]:
    return [pid for pid in children(master) if pid != other]


def test_a_request_under_way_is_answered_by_the_old_one(start_background: Start) -> None:
    def late(seen: Seen, connection: socket.socket) -> bytes | None:
        if seen.target == b"/late":
            await_condition(lambda: not running.old_pid_file.exists() or bool(waited), "the old one leaves", 10)
        return response(b"late")

    waited: list[int] = []
    (front,) = free_ports(1)
    with Origin(late) as origin:
        text = f"""
error_log logs/error.log notice;
events {{ }}
http {{ server {{ listen 127.0.0.1:{front}; location / {{ proxy_pass http://127.0.0.1:{origin.port}; }} }} }}
"""
        running = start_background(text, [front])
        with Client(front) as client:
            client.send(get("/late"))
            await_condition(lambda: bool(origin.seen), "the request at the origin", 5)
            old, new = running.upgrade(2)
            os.kill(old, signal.SIGQUIT)
            await_condition(
                lambda: "gracefully shutting down" in running.balancer.error_log(), "the old one stops accepting", 5
            )
            assert ask(front, get("/other")).status == 200
            waited.append(1)
            assert client.answer().body == b"late"
        await_condition(has_ended(old), "the end of the old master", 10)
        assert running.master == new


def test_checks_and_peers_are_served_by_both(start_background: Start, app: Callable[[str], App]) -> None:
    apps = [app("one"), app("two")]
    (front,) = free_ports(1)
    running = start_background(checked(front, [one.port for one in apps], 2), [front])
    with Traffic(front, pause=0.005, keep=False) as traffic:
        old, _ = running.upgrade(3)
        apps[0].stop()
        await_condition(lambda: re.search(r"DOWN", _page(front)) is not None, "it is seen", 15)
        os.kill(old, signal.SIGQUIT)
        await_condition(has_ended(old), "the end of the old master", 10)
        apps[0].start()
        await_condition(lambda: _page(front).count(" UP") == 2, "it is back", 15)
    assert traffic.lost == []


def _page(front: int) -> str:
    try:
        return ask(front, get("/status")).body.decode()
    except OSError:
        return ""


def test_beside_nginx_the_same_files_and_words(start_background: Start, nginx: tuple[str, ...], tmp_path: Path) -> None:
    """nginx's own upgrade, step by step beside ours: the files that scripts look at."""
    (front, other) = free_ports(2)
    running = start_background(_answering(front, "ours"), [front])
    theirs = Balancer(tmp_path / "nginx", _answering(other, "theirs"), [other], nginx, main="daemon on;")
    _go_into_background(theirs)
    beside = Background(theirs)
    try:
        assert _there_and_back(running) == _there_and_back(beside)
    finally:
        beside.stop()


def _there_and_back(one: Background) -> list[list[str]]:
    """An upgrade that is taken back: the pid files after each step."""
    old = one.master
    os.kill(old, signal.SIGUSR2)
    await_condition(lambda: one.master not in (0, old), "a new master", 15)
    seen = [_pid_files(one)]
    new = one.master
    os.kill(old, signal.SIGUSR2)
    await_condition(lambda: "the changing binary signal is ignored: you should" in one.balancer.error_log(), "it", 5)
    os.kill(new, signal.SIGQUIT)
    await_condition(lambda: one.master == old, "the old pid file", 15)
    log = one.balancer.error_log()
    for words in ("signal 12 (SIGUSR2) received", "changing binary", f"start new binary process {new}"):
        assert words in log, one.balancer.command
    return [*seen, _pid_files(one)]


def _pid_files(one: Background) -> list[str]:
    return sorted(path.name for path in one.pid_file.parent.glob("nginx.pid*"))


def test_a_master_stays_with_its_installation_when_the_link_moves(
    start_background: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(upwell.__file__).parent
    for version in ("one", "two", "broken"):
        shutil.copytree(source, tmp_path / version / "upwell", ignore=shutil.ignore_patterns("__pycache__"))
        for shared in source.parent.glob("upwell__mypyc*.so"):  # the compiled build has its code there
            shutil.copy(shared, tmp_path / version)
    text = (tmp_path / "two" / "upwell" / "version.py").read_text()
    changed = text.replace(f'VERSION = "{VERSION}"', 'VERSION = "7.7.7"')
    assert changed != text
    (tmp_path / "two" / "upwell" / "version.py").write_text(changed)
    (tmp_path / "broken" / "upwell" / "process" / "worker.py").write_text("raise RuntimeError('broken')\n")
    current = tmp_path / "current"

    def lead_to(version: str) -> None:
        current.unlink(missing_ok=True)
        current.symlink_to(tmp_path / version)

    lead_to("one")
    monkeypatch.setenv("PYTHONPATH", str(current))
    (front,) = free_ports(1)
    running = start_background(_answering(front, "x"), [front])
    master = running.master
    await_condition(lambda: len(children(master)) == 3, "its processes", 10)
    lead_to("broken")
    # What its next worker imports is its own.
    before = children(master)
    os.kill(before[-1], signal.SIGKILL)
    await_condition(lambda: len(set(children(master)) - set(before)) == 1, "another worker", 10)
    os.kill(master, signal.SIGUSR2)
    failed = re.compile(r"\[alert\] .*: new binary process \d+ exited with code 1\n")
    await_condition(lambda: failed.search(running.balancer.error_log()) is not None, "the failure of the new one", 15)
    await_condition(lambda: running.master == master and not running.old_pid_file.exists(), "the old pid file", 15)
    assert ask(front, get()).body == b"x"
    lead_to("two")
    _, new = running.upgrade(3)
    assert f"{new}#{new}: nginx/{NGINX_VERSION} (upwell/7.7.7)" in running.balancer.error_log()
    os.kill(master, signal.SIGQUIT)
    await_condition(has_ended(master), "the end of the old master", 10)
    assert ask(front, get()).body == b"x"
