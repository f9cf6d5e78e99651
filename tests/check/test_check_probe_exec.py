"""Commands as probes: real processes, their arguments, their ends, and that nothing is left of them."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.check.probing import LIMIT, Make, probings
from upwell.check.leftovers import end_leftovers, mark
from upwell.check.probes import OTHERS, TARGETS
from upwell.check.probes import exec as exec_probe
from upwell.check.probes.exec import ExecTarget
from upwell.check.spec import PLUS, CheckSpec
from upwell.check.target import Loop, Place
from upwell.peers.peer import PeerSpec
from upwell.zone.table import Counts

PEER = PeerSpec("[::1]:8080", ("::1", 8080), server="localhost:8080", max_conns=7)


@pytest.fixture
def probing(tmp_path: Path) -> Iterator[Make]:
    with probings(tmp_path, PEER) as make:
        yield make


def script(folder: Path, text: str, name: str = "check") -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def descriptors() -> set[str]:
    """This process' descriptors, but for the one that reads them."""
    return {f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}" for fd in os.listdir("/proc/self/fd") if _is_open(fd)}


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def is_gone(pid: int) -> bool:
    """Whether a process that is not our child has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def children() -> list[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in text.split()]


def test_status_0_passes(probing: Make, tmp_path: Path) -> None:
    p = probing()
    p.check(type="exec", command=(script(tmp_path, "echo fine; exit 0"),))
    assert p.why() == ""
    assert p.why() == ""
    assert p.up()
    assert p.state().fails == 0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("exit 3", "exit 3"),
        ("echo; echo '  no route to shop  '; echo more; exit 3", "exit 3: no route to shop"),
        ("echo to stderr >&2; exit 1", "exit 1: to stderr"),
        ("printf 'a\\033[1mb\\001\"'; exit 2", "exit 2: a\\x1B[1mb\\x01\\x22"),
        ("kill -KILL $$", "killed by SIGKILL"),
        ("kill -TERM $$", "killed by SIGTERM"),
        ("kill -40 $$", "killed by signal 40"),
    ],
)
def test_any_other_end_fails_and_says_how(probing: Make, tmp_path: Path, text: str, why: str) -> None:
    p = probing()
    p.check(type="exec", command=(script(tmp_path, text),))
    assert p.why() == why
    assert not p.up()
    assert p.record().kind == 9  # "command"


def test_the_first_line_is_told_up_to_a_bound(probing: Make, tmp_path: Path) -> None:
    p = probing()
    p.check(type="exec", command=(script(tmp_path, "yes wide | head -c 3000000 | tr -d '\\n'; exit 1"),))
    assert p.why() == "exit 1: " + ("wide" * 50)


def test_a_talker_is_not_held_up_by_its_own_output(probing: Make, tmp_path: Path) -> None:
    """Far more than a pipe holds is read away."""
    p = probing()
    p.check(type="exec", command=(script(tmp_path, "head -c 3000000 /dev/zero; exit 0"),))
    assert p.why() == ""


@pytest.mark.parametrize(
    ("peer", "port", "wanted"),
    [
        (PEER, 0, ["::1", "8080"]),
        (PEER, 81, ["::1", "81"]),
        (PeerSpec("unix:/run/a b.sock", "/run/a b.sock"), 81, ["/run/a b.sock", "NOT_USED"]),
    ],
)
def test_arguments_are_haproxy_s(probing: Make, tmp_path: Path, peer: PeerSpec, port: int, wanted: list[str]) -> None:
    p = probing(peer)
    told = tmp_path / "told"
    command = (script(tmp_path, f'printf "%s\\n" "$@" > {told}'), "mine and $HOME; `x`", "")
    p.check(type="exec", command=command, port=port)
    assert p.why() == ""
    assert told.read_text().splitlines() == ["mine and $HOME; `x`", "", "NOT_USED", "NOT_USED", *wanted]


def test_the_environment_is_haproxy_s_and_nothing_else(
    probing: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of the checker")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    p = probing()
    p.table.set_counts(0, 0, Counts(3, 0, 0, (0, 0, 0, 0, 0), 0, 0))
    told = tmp_path / "told"
    # env, run by its path: a shell would add variables of its own.
    wrapper = tmp_path / "env"
    wrapper.write_text(
        f"#!/usr/bin/env -S python3 -I\nimport os\nopen({str(told)!r}, 'w').write(repr(dict(os.environ)))"
    )
    wrapper.chmod(0o755)
    p.check(type="exec", command=(str(wrapper),))
    assert p.why() == ""
    environment: dict[str, str] = eval(told.read_text())
    assert environment.pop("HAPROXY_PROXY_ID").isdecimal()
    environment.pop("LC_CTYPE", None)  # Python's own, where there is no locale
    assert environment == {
        "PATH": "/usr/bin:/bin",
        "HAPROXY_PROXY_NAME": "u",
        "HAPROXY_PROXY_ADDR": "",
        "HAPROXY_PROXY_PORT": "",
        "HAPROXY_SERVER_NAME": "[::1]:8080",
        "HAPROXY_SERVER_ID": "1",
        "HAPROXY_SERVER_ADDR": "::1",
        "HAPROXY_SERVER_PORT": "8080",
        "HAPROXY_SERVER_MAXCONN": "7",
        "HAPROXY_SERVER_CURCONN": "3",
        "HAPROXY_SERVER_SSL": "0",
        "HAPROXY_SERVER_PROTO": "h1",
        "UPWELL_UPSTREAM": "u",
        "UPWELL_PEER": "[::1]:8080",
        "UPWELL_ADDRESS": "::1",
        "UPWELL_PORT": "8080",
        "UPWELL_CHECKER": mark(os.getpid()),
    }


def test_what_a_dead_checker_left_behind_is_ended(probing: Make) -> None:
    p = probing()
    p.check(type="exec", command=("sh", "-c", "sleep 1000 & wait"))
    p.until(lambda: len(children()) == 1)
    assert end_leftovers(os.getpid() + 1) == 0  # of another checker
    assert p.state().fails == 0
    ended = 0
    limit = time.monotonic() + LIMIT
    while not ended:  # until its program has begun
        assert time.monotonic() < limit
        ended = end_leftovers(os.getpid())
    assert p.why() == "killed by SIGKILL"


def test_a_command_is_found_by_the_path(probing: Make) -> None:
    p = probing()
    p.check(type="exec", command=("true",))
    assert p.why() == ""


def test_it_has_no_descriptor_but_three_and_its_signals_are_its_own(probing: Make, tmp_path: Path) -> None:
    p = probing()
    told = tmp_path / "told"
    code = f"""
import json, os, signal
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
with open({str(told)!r}, "w") as file:
    held = [fd for fd in range(3, 1024) if os.path.exists(f"/proc/self/fd/{{fd}}") and fd != file.fileno()]
    json.dump([held, int(status["SigBlk"], 16), status["SigIgn"], os.getsid(0), os.getpid()], file)
"""
    path = tmp_path / "check.py"
    path.write_text(code)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    given = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(given, True)  # as one that the shell had
    exec_probe._inherited.cache_clear()
    try:
        p.check(type="exec", command=(sys.executable, "-I", str(path)))
        assert p.why() == ""
    finally:
        os.close(given)
        exec_probe._inherited.cache_clear()
        signal.signal(signal.SIGHUP, ignored)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    held, mask, ignores, session, pid = json.loads(told.read_text())
    assert held == []
    assert mask == 0
    assert not int(ignores, 16) & 1 << signal.SIGHUP - 1
    assert session == pid


@pytest.mark.parametrize(
    ("mode", "text", "why"),
    [
        (None, "", "cannot run {}: no such file or directory"),
        (0o644, "#!/bin/sh\n", "cannot run {}: permission denied"),
        (0o755, "\0garbage", "cannot run {}: exec format error"),
        (0o755, "#!/no/such/interpreter\n", "cannot run {}: no such file or directory"),
    ],
)
def test_what_cannot_be_run_has_failed(probing: Make, tmp_path: Path, mode: int | None, text: str, why: str) -> None:
    path = tmp_path / "check"
    if mode is not None:
        path.write_text(text)
        path.chmod(mode)
    p = probing()
    before = descriptors()
    p.check(type="exec", command=(str(path),))
    assert p.why() == why.format(path)
    assert p.record().kind == 9
    assert descriptors() == before


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EBADF, errno.ENOMEM])
def test_the_machine_s_own_trouble_says_nothing(probing: Make, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    p = probing()
    before = descriptors()
    tries = 0

    def refuse(*args: object, **kwargs: object) -> int:
        nonlocal tries
        tries += 1
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_spawnp", refuse)
    p.check(type="exec", command=("true",))
    p.until(lambda: tries > 2)
    assert p.state().fails == 0
    assert any(os.strerror(number).lower() in line for line in p.lines())
    assert descriptors() == before
    monkeypatch.undo()
    assert p.why() == ""


@pytest.mark.parametrize("concurrency", [0, 1])
def test_what_goes_wrong_before_it_begins_ends_no_check(
    probing: Make, monkeypatch: pytest.MonkeyPatch, concurrency: int
) -> None:
    p = probing(PEER, replace(PEER, name="another"))
    tries = 0

    def refuse(flags: int) -> tuple[int, int]:
        nonlocal tries
        tries += 1
        raise MemoryError

    monkeypatch.setattr(os, "pipe2", refuse)
    p.check(type="exec", command=("true",), concurrency=concurrency)
    p.until(lambda: tries > 6)
    assert p.state().fails == 0
    assert any("failed to begin a probe: MemoryError" in line for line in p.lines())
    monkeypatch.undo()
    p.until(lambda: p.state(0).passes > 1 and p.state(1).passes > 1)


def test_without_a_descriptor_for_the_process_it_is_ended(probing: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    p = probing()
    before = descriptors()
    tries = 0

    def refuse(pid: int) -> int:
        nonlocal tries
        tries += 1
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    p.check(type="exec", command=("sh", "-c", "sleep 1000"))
    p.until(lambda: tries > 1)
    assert p.state().fails == 0
    assert len(children()) <= 1
    monkeypatch.undo()
    p.until(lambda: len(descriptors()) > len(before))
    assert len(children()) == 1
    p.checker.close()
    assert children() == []
    p.checker = p.make()
    assert len(descriptors()) <= len(before)


def test_the_whole_group_is_killed_when_the_time_is_up(probing: Make, tmp_path: Path) -> None:
    p = probing()
    pids = tmp_path / "pids"
    text = f"trap '' TERM HUP INT\nsleep 1000 &\necho $$ $! > {pids}.new; mv {pids}.new {pids}; wait; sleep 1000"
    path = script(tmp_path, text)
    before = descriptors()
    p.check(type="exec", command=(path,), interval=1000.0)
    p.until(pids.exists)
    p.skew = LIMIT + 0.02
    assert p.why() == f"timeout after {LIMIT:.1f} s running {path}"
    assert p.record().kind == 1  # "timeout"
    for pid in pids.read_text().split():
        p.until(lambda pid=int(pid): is_gone(pid))  # type: ignore[misc]  # bound now, not when called
    p.until(lambda: children() == [])  # the loop hears of its end, and waits for nobody
    assert descriptors() == before


def test_nobody_waits_for_a_killed_command(probing: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in the depths of the system takes its time; hundreds of them would hold up all other checks."""
    p = probing()
    path = script(tmp_path, "exec sleep 1000")
    p.check(type="exec", command=(path,), interval=1000.0)
    p.until(lambda: len(children()) == 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "waitid", lambda *_: None)  # it is not gone yet
        patch.setattr(time, "sleep", lambda _: pytest.fail("it was waited for"))
        p.skew = LIMIT + 0.02
        assert p.why() == f"timeout after {LIMIT:.1f} s running {path}"
    p.until(lambda: children() == [])


def test_the_next_run_begins_as_soon_as_the_killed_one_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be due at once: a process that is not gone within a millisecond is not one that cannot be killed."""
    loop = Loop()
    again = tmp_path / "again"
    spec = CheckSpec(
        "u",
        "exec",
        dialect=PLUS,
        command=(script(tmp_path, f"test -e {again} && exit 3; exec sleep 1000"),),
        timeout=9.0,
    )
    target = TARGETS["exec"](spec, PEER, Place(0, 0, 0), loop)
    before = descriptors()
    assert target.start(1.0) is None
    with monkeypatch.context() as patch:
        patch.setattr(os, "waitid", lambda *_: None)  # it is not gone yet
        verdict = target.expire(10.0)
        assert verdict is not None
        assert verdict.why.startswith("timeout after 9.0 s")
        again.touch()
        assert target.start(10.0) is None
        assert target.probing
    verdict = None
    limit = time.monotonic() + LIMIT
    while verdict is None:
        assert time.monotonic() < limit
        for fd, events in loop.epoll.poll(0.1):
            if fd in loop.targets:  # else closed by the one before
                verdict = loop.targets[fd].ready(fd, events, 10.5)
    assert target.deadline == 19.5  # all of its time was still to come
    assert verdict.why == "exit 3"
    assert children() == []
    assert descriptors() == before
    loop.epoll.close()


def test_a_killed_one_that_does_not_go_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop()
    spec = CheckSpec("u", "exec", dialect=PLUS, command=("sleep", "1000"), timeout=9.0)
    target = TARGETS["exec"](spec, PEER, Place(0, 0, 0), loop)
    assert target.start(1.0) is None
    with monkeypatch.context() as patch:
        patch.setattr(os, "waitid", lambda *_: None)  # as if it hung in a dead disk
        target.expire(10.0)
        assert target.start(10.0) is None
        verdict = target.expire(target.deadline)
        assert verdict is not None
        assert verdict.why == "still running since 9 s, cannot be killed"
        assert not target.probing
        verdict = target.start(20.0)
        assert verdict is not None
        assert verdict.why == "still running since 19 s, cannot be killed"
    target.close()
    limit = time.monotonic() + LIMIT
    while loop.targets:
        assert time.monotonic() < limit
        for fd, events in loop.epoll.poll(0.1):
            assert loop.targets[fd].ready(fd, events, 20.0) is None
    assert children() == []
    loop.epoll.close()


def test_what_it_leaves_behind_is_killed_and_not_waited_for(probing: Make, tmp_path: Path) -> None:
    """A child that has the outputs open would be waited for until the time is up by whoever reads to their end."""
    p = probing()
    pids = tmp_path / "pids"
    p.check(type="exec", command=(script(tmp_path, f"sleep 1000 & echo $! > {pids}; exit 0"),), interval=1000.0)
    assert p.why() == ""
    p.until(lambda: is_gone(int(pids.read_text())))


def test_a_child_in_a_session_of_its_own_is_not_waited_for(probing: Make, tmp_path: Path) -> None:
    p = probing()
    pids = tmp_path / "pids"
    text = (
        f"setsid sh -c 'echo $$ > {pids}.new; mv {pids}.new {pids}; exec sleep 1000' &\nuntil [ -e {pids} ]; do :; done"
    )
    p.check(type="exec", command=(script(tmp_path, text),), interval=1000.0)
    assert p.why() == ""
    pid = int(pids.read_text())
    assert not is_gone(pid)
    os.kill(pid, signal.SIGKILL)


def test_a_checker_that_ends_leaves_no_command(probing: Make, tmp_path: Path) -> None:
    p = probing()
    pids = tmp_path / "pids"
    before = descriptors()
    text = f"echo $$ > {pids}.new; mv {pids}.new {pids}; exec sleep 1000"
    p.check(type="exec", command=(script(tmp_path, text),))
    p.until(pids.exists)
    p.checker.close()
    assert is_gone(int(pids.read_text()))
    assert children() == []
    p.checker = p.make()
    assert len(descriptors()) == len(before)


@pytest.mark.pure_only(reason="a compiled method cannot be replaced")
def test_one_that_cannot_be_killed_is_not_joined_by_another(
    probing: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = probing()
    started = tmp_path / "started"
    text = f"echo $$ >> {started}; exec sleep 1000"
    p.check(type="exec", command=(script(tmp_path, text),))
    monkeypatch.setattr(ExecTarget, "_kill", lambda target: None)  # as if it hung in a dead disk
    p.until(started.exists)
    p.skew = LIMIT + 0.02
    assert p.why().startswith("timeout after")
    [course] = p.checker._courses.values()
    [target] = course.targets
    p.until(lambda: target.probing)
    p.skew += 2 * LIMIT + 0.02  # the leap before is given back as well
    for _ in range(2):
        assert re.fullmatch(r"still running since \d+ s, cannot be killed", p.why())
    assert p.state().latency < 1_000_000
    assert p.table.checker_lateness >= 0
    [pid] = started.read_text().split()
    monkeypatch.undo()
    os.kill(int(pid), signal.SIGKILL)
    p.until(lambda: len(started.read_text().split()) == 2)


def test_a_thousand_runs_leave_nothing(probing: Make) -> None:
    peers = [PeerSpec(f"127.0.0.1:{port}", ("127.0.0.1", port)) for port in range(1, 11)]
    p = probing(*peers)
    before = descriptors()
    p.check(type="exec", command=("true",), interval=0.001)
    limit = time.monotonic() + 2.0
    p.until(lambda: time.monotonic() > limit or sum(p.state(row).passes for row in range(10)) > 1000)
    assert sum(p.state(row).fails for row in range(10)) == 0, p.lines()
    p.until(lambda: len(children()) <= 10)
    p.checker.close()
    assert children() == []
    p.checker = p.make()
    assert len(descriptors()) == len(before)


def test_not_all_run_at_once(probing: Make, tmp_path: Path) -> None:
    many = exec_probe.AT_ONCE + 3
    p = probing(*(PeerSpec(f"127.0.0.1:{port}", ("127.0.0.1", port)) for port in range(1, many + 1)))
    p.check(type="exec", command=("sh", "-c", "sleep 1000"), interval=1000.0)
    p.until(lambda: len(children()) == exec_probe.AT_ONCE)
    for _ in range(5):
        p.checker.step(0.01)
    assert len(children()) == exec_probe.AT_ONCE, p.lines()


@pytest.mark.parametrize("spawns", [True, False])
def test_a_closed_socket_that_a_new_process_still_has_is_not_heard_of(spawns: bool) -> None:
    """Between its birth and its program a process has all descriptors; a duplicate stands for it here."""
    loop = Loop()
    loop.spawns = spawns
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = PeerSpec("app", listener.getsockname())
        spec = CheckSpec("u", "http", b"GET / HTTP/1.0\r\n\r\n", dialect=PLUS)
        target = TARGETS["http"](spec, peer, Place(0, 0, 0), loop)
        assert target.start(0.0) is None
        [fd] = loop.targets
        copy = os.dup(fd)
        target.close()
        sock, _ = listener.accept()
        sock.close()
        # Without the rule it is heard of, under a number that is free for another.
        assert [event[0] for event in loop.epoll.poll(0.1)] == ([] if spawns else [fd])
        os.close(copy)
    loop.epoll.close()


def test_whoever_starts_processes_says_so(probing: Make) -> None:
    loop = Loop()
    assert not loop.spawns
    for name in ("exec", "python"):
        fresh = Loop()
        OTHERS[name](CheckSpec("u", name, command=("x",), function="os:getpid"), PEER, Place(0, 0, 0), fresh)
        assert fresh.spawns
        fresh.epoll.close()
    loop.epoll.close()
