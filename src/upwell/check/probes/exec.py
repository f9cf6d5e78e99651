"""The probe of type "exec": a command is run for each peer, and its exit status decides. Knows processes, no socket.

The command is called as HAProxy calls its `external-check command`: without a shell, with four further arguments

    <proxy_address> <proxy_port> <server_address> <server_port>

of which the first two are NOT_USED (an upstream listens nowhere, like a HAProxy backend), and so is the last for a Unix
socket. A check's `port` stands in for the peer's. The environment is HAProxy's too, and nothing of upwell's own:

    PATH                    upwell's own, or the system's default
    HAPROXY_PROXY_NAME      the upstream's name, like UPWELL_UPSTREAM
    HAPROXY_PROXY_ID        a number that stands for that name
    HAPROXY_PROXY_ADDR, _PORT      empty
    HAPROXY_SERVER_NAME     the peer's name, like UPWELL_PEER
    HAPROXY_SERVER_ID       a number, from 1, of its own for each peer of all upstreams
    HAPROXY_SERVER_ADDR, _PORT     as the arguments, but empty for NOT_USED; like UPWELL_ADDRESS and UPWELL_PORT
    HAPROXY_SERVER_MAXCONN  `max_conns`, 0: no limit
    HAPROXY_SERVER_CURCONN  connections in use
    HAPROXY_SERVER_SSL, _PROTO     "0" and "h1"
    UPWELL_CHECKER          by which the master finds what a killed checker left behind, and ends it

Status 0 passes; anything else fails with the first line of what was printed (to either output). The command has a
session of its own; whatever is left of its process group is killed when it ends, and all of it when the time is up.
What leaves that group (a `setsid` of its own, a daemon) is not followed: that takes a cgroup for each run, or a checker
that is the parent of all orphans and has to tell them apart.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from errno import EAGAIN, EBADF
from functools import cache
from select import EPOLLIN
from typing import Final
from zlib import crc32

from upwell.check.leftovers import NAME, mark
from upwell.check.probe import Verdict
from upwell.check.spec import CheckSpec
from upwell.check.target import CONNECTING, IDLE, RESTING, TALKING, Loop, NoSocket, Place, Target, timed_out
from upwell.errors import SHORTAGES
from upwell.log import printable
from upwell.peers.peer import PeerSpec

AT_ONCE = max(32, 4 * (os.cpu_count() or 1))
"""Commands of one check at once, unless it says otherwise: one that waits costs little, but not all of them wait."""

_KEPT = 1024  # bytes of the output: its first line is told
_LINE = 200
_READ = 65536
# What says nothing about the command. EBADF: one of our own is above the limit, which was lowered meanwhile.
_OURS = SHORTAGES | {EAGAIN, EBADF}
_NOT_USED = "NOT_USED"
_DEFAULTS = (signal.SIGHUP, signal.SIGUSR2, signal.SIGWINCH, signal.SIGPIPE, signal.SIGXFSZ)  # ignored here

_DYING: Final = RESTING
_WAITING: Final = CONNECTING  # for the one that was killed to be gone
_RUNNING: Final = TALKING


class ExecTarget(Target):
    """posix_spawn and not fork: a fork of a checker with 400 MB costs 5 ms of processor, this one 0.2 ms."""

    __slots__ = ("_arguments", "_environment", "_output", "_patient", "_pid", "_pidfd", "_pipe", "_ran", "_row")

    def __init__(self, spec: CheckSpec, peer: PeerSpec, place: Place, loop: Loop) -> None:
        super().__init__(spec, peer, place, loop)
        loop.spawns = True
        if isinstance(peer.address, str):
            host, port = peer.address, ""
        else:
            host, port = peer.address[0], str(spec.port or peer.address[1])
        self._arguments = (*spec.command, _NOT_USED, _NOT_USED, host, port or _NOT_USED)
        self._environment = {
            "PATH": os.environ.get("PATH") or os.defpath,
            "HAPROXY_PROXY_NAME": spec.upstream,
            "HAPROXY_PROXY_ID": str(crc32(spec.upstream.encode("utf-8", "surrogateescape")) >> 1),
            "HAPROXY_PROXY_ADDR": "",
            "HAPROXY_PROXY_PORT": "",
            "HAPROXY_SERVER_NAME": peer.name,
            "HAPROXY_SERVER_ID": str(place.row + 1),
            "HAPROXY_SERVER_ADDR": host,
            "HAPROXY_SERVER_PORT": port,
            "HAPROXY_SERVER_MAXCONN": str(peer.max_conns),
            "HAPROXY_SERVER_SSL": "0",
            "HAPROXY_SERVER_PROTO": "h1",
            "UPWELL_UPSTREAM": spec.upstream,
            "UPWELL_PEER": peer.name,
            "UPWELL_ADDRESS": host,
            "UPWELL_PORT": port,
            NAME: mark(os.getpid()),
        }
        self._row = place.row
        self._pid = 0
        self._pidfd = -1
        self._pipe = -1
        self._output = b""
        self._ran = 0.0  # when the last command began
        self._patient = False  # the last command was killed, and nobody has waited for its end yet

    def __repr__(self) -> str:
        return f"<ExecTarget {self.name} {('idle', 'dying', '', 'waiting', 'running')[self.stage]}>"

    def start(self, now: float) -> Verdict | None:
        self.started = now
        if self.stage == _DYING and not self._reap():
            if self._pidfd not in self.loop.targets:  # nobody hears of its end
                raise NoSocket("the last one is not gone yet", "run a program")
            if not self._patient:
                return self._stuck()
            self._patient = False
            self.stage = _WAITING
            self.deadline = now + self.timeout
            return None
        return self._begin(now)

    def _stuck(self) -> Verdict:
        return Verdict(False, "timeout", f"still running since {self.started - self._ran:.0f} s, cannot be killed")

    def _begin(self, now: float) -> Verdict | None:
        self._ran = now
        self.deadline = now + self.timeout
        self._output = b""
        try:
            self._pipe, writer = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            raise NoSocket(_word(error), "run a program") from error
        try:
            os.set_blocking(self._pipe, False)
            return self._spawn(writer)
        finally:
            os.close(writer)

    def _spawn(self, writer: int) -> Verdict | None:
        environment = {**self._environment, "HAPROXY_SERVER_CURCONN": str(self.loop.connections(self._row))}
        try:
            self._pid = os.posix_spawnp(
                self._arguments[0],
                self._arguments,
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, writer, 1),
                    (os.POSIX_SPAWN_DUP2, writer, 2),
                    *_inherited(os.getpid()),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULTS,
            )
        except (OSError, ValueError) as error:  # ValueError: a zero byte
            self._close_pipe()
            if isinstance(error, OSError) and error.errno in _OURS:
                raise NoSocket(_word(error), "run a program") from error
            return Verdict(False, "command", f"cannot run {self._arguments[0]}: {_word(error)}")
        self.stage = _RUNNING
        try:
            self._pidfd = os.pidfd_open(self._pid)
            for fd in (self._pidfd, self._pipe):
                self.loop.epoll.register(fd, EPOLLIN)
                self.loop.targets[fd] = self
        except OSError as refused:
            self.close()
            raise NoSocket(_word(refused), "run a program") from refused
        return None

    def ready(self, fd: int, events: int, now: float) -> Verdict | None:
        if fd == self._pipe:
            self._read()
            return None
        if self.stage == _DYING:
            self._reap()
            return None
        if self.stage == _WAITING:
            return self._begin(now) if self._reap() else None
        if self.stage != _RUNNING or fd != self._pidfd:
            return None
        try:
            ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # in a program that does not want to know of its children
            why = "ended, and nobody knows how"
        else:
            if ended is None:
                return None
            why = _end_in_words(ended.si_code, ended.si_status)
            # As long as it is not waited for, its number is nobody else's, and so is its group's.
            self._kill()
        self._read()
        self._reap()
        if not why:
            return Verdict(True)
        line = next((line for line in self._output.splitlines() if line.strip()), b"")
        if line:
            why = f"{why}: {printable(line.strip()[:_LINE])}"
        return Verdict(False, "command", why)

    def expire(self, now: float) -> Verdict | None:
        if self.stage == _WAITING:
            self.stage = _DYING
            return self._begin(now) if self._reap() else self._stuck()
        self.close()
        return Verdict(False, "timeout", timed_out(self.timeout, f"running {self._arguments[0]}"))

    def broken(self, error: Exception, now: float) -> Verdict | None:
        probing = self.probing
        self.close()
        return Verdict(False, "other", str(error) or type(error).__name__) if probing else None

    def close(self) -> None:
        """Kill what runs, and wait for nobody: the loop hears of its end, or the next start looks again."""
        self._close_pipe()
        if self.stage == _RUNNING:
            self._kill()
            self._patient = True
        if self.stage != IDLE:
            self.stage = _DYING
            self._reap()

    def _kill(self) -> None:
        # Nobody may be left, or have become somebody else (a set-user-ID program).
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)

    def _reap(self) -> bool:
        """Whether the killed process is gone."""
        try:
            if os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG) is None:
                return False
        except ChildProcessError:
            pass
        self._forget()
        return True

    def _forget(self) -> None:
        self.stage = IDLE
        self._close_pipe()
        if self._pidfd >= 0:
            self._let_go(self._pidfd)
            self._pidfd = -1

    def _read(self) -> None:
        """Take what was printed, a piece at a time: the beginning is kept, the rest only makes room for more."""
        if self._pipe < 0:
            return
        try:
            data = os.read(self._pipe, _READ)
        except BlockingIOError:
            return
        if not data:
            self._close_pipe()  # else epoll would tell of its end for ever
        elif len(self._output) < _KEPT:
            self._output = (self._output + data)[:_KEPT]

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            self._let_go(self._pipe)
            self._pipe = -1

    def _let_go(self, fd: int) -> None:
        if self.loop.targets.pop(fd, None) is not None:
            self.loop.epoll.unregister(fd)
        os.close(fd)


@cache
def _inherited(pid: int) -> list[tuple[int, int]]:
    """How to close what this process was itself given by its parent; all that it opens is closed by itself."""
    found = [int(fd) for fd in os.listdir("/proc/self/fd")] if os.path.isdir("/proc/self/fd") else []
    closing = []
    for fd in found:
        with suppress(OSError):
            if fd > 2 and os.get_inheritable(fd):
                closing.append((os.POSIX_SPAWN_CLOSE, fd))
    return closing


def _end_in_words(code: int, status: int) -> str:
    """How a process ended, "" for status 0."""
    if code == os.CLD_EXITED:
        return f"exit {status}" if status else ""
    try:
        name = signal.Signals(status).name
    except ValueError:
        name = f"signal {status}"
    return f"killed by {name}"


def _word(error: Exception) -> str:
    """The system's words for an error, in lower case like all reasons."""
    return os.strerror(error.errno or 0).lower() if isinstance(error, OSError) else str(error)
