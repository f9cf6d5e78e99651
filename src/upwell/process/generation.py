"""One reading of the configuration made real: logs opened, listeners bound, the zone made. Knows no process.

Everything that can fail about a configuration fails here, before anything that serves is touched.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from upwell.check.server_lists import keep_lists
from upwell.errors import ConfigErrors
from upwell.log import ERROR, ErrorLog
from upwell.peers.peer import UpstreamSpec
from upwell.process.child import Identity, describe, resolve_user
from upwell.process.control import socket_pair
from upwell.process.journal import Journal, failure, make_folder_of
from upwell.process.listeners import ListenError, Sockets, discard, open_sockets
from upwell.process.ownership import hand_over
from upwell.process.parts import LogFile, Parts, Plan
from upwell.zone.table import PeerTable


class NotPrepared(Exception):
    """The configuration cannot be used; why has been logged."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What the processes of one generation share. `workers_end` and `checker_end` are the control socket pair."""

    plan: Plan
    table: PeerTable
    identity: Identity | None
    sockets: Sockets
    workers_end: socket.socket
    checker_end: socket.socket
    upstreams: tuple[UpstreamSpec, ...]
    """As the configuration has them that was read last: a reload in place has no other plan."""

    @property
    def workers(self) -> int:
        return self.plan.worker_processes if self.plan.master_process else 1

    @property
    def seats(self) -> int:
        """How many blocks the workers have in the zone."""
        return self.plan.seats if self.plan.master_process else 1

    def logs(self, boot: ErrorLog) -> Sequence[ErrorLog]:
        """Where its error log goes: the compiled-in file when the configuration names none."""
        return self.plan.error_log or (boot,)

    def close(self, logs: bool = True) -> None:
        """Let go of what only this generation had, but for the listeners (and `logs`), which others may share."""
        self.workers_end.close()
        self.checker_end.close()
        if logs:
            close_logs(self.plan)


def read_plan(parts: Parts, journal: Journal) -> Plan:
    """The configuration, read. Raises NotPrepared when it has errors; each was logged on a line of its own."""
    try:
        return parts.load(journal.warn)
    except ConfigErrors as errors:
        for error in errors.errors:
            journal.emerg(str(error))
        raise NotPrepared from errors
    except OSError as error:
        journal.emerg(f'open() "{error.filename}" {failure(error)}')
        raise NotPrepared from error


def open_plan_logs(plan: Plan, journal: Journal, boot: ErrorLog) -> None:
    """Open the log files that the configuration names. Raises NotPrepared, with none left open, after naming each
    that could not be opened.
    """
    failed = not plan.error_log and boot.wanted != boot.path
    if failed:
        # Nothing else takes the messages of this configuration: nginx does not start with such a log either.
        journal.emerg(f'open() "{boot.wanted}" failed')
    for log in (*plan.error_log, *plan.logs):
        try:
            make_folder_of(log.path)
            log.open()
        except OSError as error:
            journal.emerg(f'open() "{log.path}" {failure(error)}')
            failed = True
    if failed:
        close_logs(plan)
        raise NotPrepared


def make_folders(plan: Plan, journal: Journal, made: list[str]) -> Identity | None:
    """Make the folders that workers and the checker write into, give them to their user, who is returned, and see that
    he may. `made` gets those that were not there. Raises NotPrepared."""
    try:
        owner = resolve_user(plan.user)
    except LookupError as error:
        journal.emerg(error.args[0])
        raise NotPrepared from error
    for path in plan.folders:
        try:
            _make_folder(path, made)
            if owner is not None:
                hand_over(path, owner.uid)
        except OSError as error:
            journal.emerg(f'mkdir() "{path}" {failure(error)}')
            raise NotPrepared from error
    if plan.state_file:
        _make_state_folder("health_check_state", plan.state_file, owner, journal, made)
    for spec in plan.upstreams:
        if spec.state:
            _make_state_folder("state", spec.state, owner, journal, made)
    return owner


def _make_folder(path: str, made: list[str]) -> bool:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise  # nginx gives a file there away, and finds out with the first request that needs the folder
        return False
    made.append(path)
    return True


def _make_state_folder(directive: str, path: str, owner: Identity | None, journal: Journal, made: list[str]) -> None:
    """See that the checker, as `owner`, can replace the file that `directive` names. A folder is made where there is
    none; one that is there is somebody's, and only looked at."""
    folder = os.path.dirname(path)
    if not folder:
        return
    try:
        if _make_folder(folder, made) and owner is not None:
            os.chown(folder, owner.uid, owner.gid)
        found = os.stat(folder)
    except OSError as error:
        journal.emerg(f'mkdir() "{folder}" {failure(error)}')
        raise NotPrepared from error
    if owner is None:
        may = os.access(folder, os.W_OK | os.X_OK)
    elif found.st_uid == owner.uid:
        may = found.st_mode & 0o300 == 0o300
    elif found.st_gid in os.getgrouplist(owner.name, owner.gid):
        may = found.st_mode & 0o030 == 0o030
    else:
        may = found.st_mode & 0o003 == 0o003
    if not may:
        name = f'user "{owner.name}"' if owner is not None else "this user"
        journal.emerg(f'{name} cannot write into the folder that "{directive}" needs: "{folder}"')
        raise NotPrepared


def keep_members(generation: Generation, journal: Journal) -> None:
    """See that the files that are about to be read again have all that happened in `generation`, the last moment too.
    Raises NotPrepared."""
    owner = (generation.identity.uid, generation.identity.gid) if generation.identity is not None else None
    try:
        keep_lists(generation.table, generation.plan.upstreams, owner)
    except OSError as error:
        journal.emerg(f'state "{error.filename}" cannot be written: {error.strerror}')
        raise NotPrepared from error


def prepare(parts: Parts, journal: Journal, boot: ErrorLog, kept: Sockets, plan: Plan | None = None) -> Generation:
    """Read the configuration (unless `plan` is what was read) and open what it needs, taking over the `kept` listeners
    whose address stays.

    From the moment that its logs are open, `journal` writes to them; it goes back when anything fails. Raises
    NotPrepared, with nothing left behind.
    """
    if plan is None:
        plan = read_plan(parts, journal)
    identity = make_folders(plan, journal, [])
    open_plan_logs(plan, journal, boot)
    before = journal.destinations
    if not plan.error_log:
        # The level of an error log that no directive names (ngx_log_open_default); until here it was `notice`.
        boot.level = ERROR
    journal.direct(plan.error_log or (boot,))
    workers = plan.worker_processes if plan.master_process else 1
    sockets: Sockets = {}
    try:
        sockets = open_sockets(plan.listens, workers, kept, journal)
        table = parts.table(plan.upstreams, plan.seats if plan.master_process else 1)
        return Generation(plan, table, identity, sockets, *socket_pair(), plan.upstreams)
    except Exception as error:
        if not isinstance(error, ListenError):
            journal.emerg(describe(error))
        in_use = {id(sock) for held in kept.values() for sock in held}
        discard(sock for held in sockets.values() for sock in held if id(sock) not in in_use)
        journal.direct(before)
        close_logs(plan)
        raise NotPrepared from error


def renewed(parts: Parts, old: Generation) -> Generation:
    """Another generation of the same plan, listeners and logs. Raises OSError or ValueError."""
    table = parts.table(old.upstreams, old.seats)
    plan = old.plan.with_upstreams(old.upstreams)
    return Generation(plan, table, old.identity, old.sockets, *socket_pair(), old.upstreams)


def shares_logs(one: Plan, other: Plan) -> bool:
    """Whether one of the plans was made of the other."""
    return one.lookups is other.lookups


def is_same_user(generation: Generation, plan: Plan) -> bool:
    """Whether the user that workers run as is who he was."""
    try:
        return resolve_user(plan.user) == generation.identity
    except LookupError:
        return False


def logs_are_current(generation: Generation, boot: ErrorLog) -> bool:
    """Whether each log file is where its path leads, so that nothing is there to be opened anew."""
    for log in log_files(generation.plan) or [log for log in (boot,) if log.path != "stderr"]:
        try:
            if log.fd >= 0 and not os.path.samestat(os.fstat(log.fd), os.stat(log.path)):
                return False
        except OSError:
            return False
    return True


def log_files(plan: Plan) -> list[LogFile]:
    """Every log of `plan` that is a file of its own."""
    return [log for log in (*plan.error_log, *plan.logs) if log.path != "stderr"]


def close_logs(plan: Plan) -> None:
    """Close the log files of `plan`, opened or not."""
    for log in log_files(plan):
        if log.fd >= 0:
            with contextlib.suppress(OSError):
                os.close(log.fd)
            log.fd = -1


def _is_open_as(fd: int, other: int) -> bool:
    """Whether both descriptors are open on the same file."""
    try:
        return os.path.sameopenfile(fd, other)
    except OSError:
        return False


def reopen_logs(plan: Plan, boot: ErrorLog, journal: Journal, owner: Identity | None) -> None:
    """Open the logs of `plan` and the compiled-in one anew (USR1). The master names the workers' user as `owner` and
    hands it the files first, because the workers have to open them too. A log that cannot be opened goes on as it was.
    """
    redirected = [log for log in journal.destinations if log.path != "stderr" and _is_open_as(log.fd, 2)]
    for reopen in (boot.reopen, plan.reopen_logs):
        try:
            reopen()
        except OSError as error:
            journal.emerg(f'open() "{error.filename}" {failure(error)}')
    for log in redirected:
        os.dup2(log.fd, 2)  # else the rotated file stays open, and its space in use, as standard error
    if owner is None:
        return
    for path in {log.path for log in (*log_files(plan), boot)} - {"stderr"}:
        try:
            hand_over(path, owner.uid)
        except OSError as error:
            journal.emerg(f'chown() "{path}" {failure(error)}')
