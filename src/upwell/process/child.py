"""What every child of the master does first and last: its own signals, its privileges, its last words.

Knows processes. Must not know whether a worker or a checker runs in it.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import signal
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from upwell.errors import SHORTAGES
from upwell.log import ErrorLog
from upwell.process.journal import Journal
from upwell.process.parts import Plan
from upwell.process.supervisor import FATAL, SCARCE
from upwell.zone.table import PeerTable

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1)
"""What a child answers. HUP, USR2 and WINCH (a resized terminal) are the master's business."""


_SCARCE = SHORTAGES | {errno.EAGAIN, errno.ENOSPC}


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a worker becomes: numbers looked up by the master, and the name that supplementary groups hang on."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Birth:
    """What a child is given. `slot` is its place among the workers, `seat` its number in the
    zone. `boot` is the compiled-in log, which `journal` may write to; `life` is readable (EOF) once
    the master is gone; a line written to `ready` tells the master that the child has started; `control` is its end of
    the control socket pair."""

    plan: Plan
    table: PeerTable
    journal: Journal
    boot: ErrorLog
    slot: int
    seat: int
    control: socket.socket
    ready: int
    life: int
    identity: Identity | None
    shared_dir: str

    def report_ready(self) -> None:
        """Say "started" to the master; it may be gone, which `life` will tell."""
        with contextlib.suppress(OSError):
            os.write(self.ready, b"%d\n" % os.getpid())

    def report_worn(self, why: str) -> None:
        """Say that another worker should take over, with nginx's kind of words ("has served 1000 requests")."""
        with contextlib.suppress(OSError):
            os.write(self.ready, b"%d %s\n" % (os.getpid(), why.encode()))


def resolve_user(user: tuple[str, str | None] | None) -> Identity | None:
    """Whom the workers become: `user`, nginx's default nobody, or (not started by root) nobody else than now.

    Raises LookupError with nginx's sentence, `getpwnam("x") failed`.
    """
    if os.geteuid() != 0:
        return None
    name, group = user if user is not None else ("nobody", _default_group())
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        raise LookupError(f'getpwnam("{name}") failed') from None
    try:
        gid = grp.getgrnam(group or name).gr_gid
    except KeyError:
        raise LookupError(f'getgrnam("{group or name}") failed') from None
    return Identity(name, uid, gid)


def _default_group() -> str:
    """nginx's configure takes the group "nobody" where it exists, else "nogroup"."""
    try:
        grp.getgrnam("nobody")
    except KeyError:
        return "nogroup"
    return "nobody"


def drop_privileges(identity: Identity | None) -> None:
    """Become `identity` for good. Raises OSError."""
    if identity is None:
        return
    os.initgroups(identity.name, identity.gid)
    os.setgid(identity.gid)
    os.setuid(identity.uid)


def name_process(title: str) -> None:
    """Show `title` (15 letters at most) in ps and top; without /proc the process keeps its name."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:
        comm.write(title)


def forget_signals() -> None:
    """Drop what was inherited from the master; called with all signals blocked, so none is lost or misdirected."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGHUP, signal.SIGUSR2, signal.SIGWINCH):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def run_child(body: Callable[[], int], journal: Journal) -> int:
    """Run `body` and return the exit code: its own, or that of a child that could not go on.

    An unforeseen error is logged as one line with its place and means: start me again (1).
    """
    try:
        return body()
    except BaseException as error:
        journal.alert(describe(error))
        return 1


def start_failed(journal: Journal, error: Exception) -> int:
    """Log why a child could not start; the exit code tells the master whether that may be otherwise soon."""
    journal.emerg(f"process could not be started: {describe(error)}")
    scarce = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _SCARCE)
    # LMDB's errors have no number.
    return SCARCE if scarce or str(error).endswith(tuple(map(os.strerror, _SCARCE))) else FATAL


def describe(error: BaseException) -> str:
    """An unforeseen error on one line, with the innermost frames, outermost first."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    places = " < ".join(f"{os.path.basename(f.filename)}:{f.lineno} {f.name}" for f in reversed(frames))
    return f"{type(error).__name__}: {error} at {places}".replace("\n", " ")
