"""What the command line asks for besides serving: `-t`, `-T`, `-s` with nginx's words and exit codes, and `explain`."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from typing import TextIO, cast

from upwell.check.spec import CheckSpec
from upwell.errors import ConfigErrors, Position
from upwell.log import ErrorLog
from upwell.process import pidfile
from upwell.process.generation import NotPrepared, close_logs, make_folders, open_plan_logs, read_plan
from upwell.process.journal import Journal, failure, make_folder_of, say
from upwell.process.listeners import ListenError, discard, open_sockets
from upwell.process.parts import Parts, Plan

_NUMBERS = {"TERM": signal.SIGTERM, "QUIT": signal.SIGQUIT, "HUP": signal.SIGHUP, "USR1": signal.SIGUSR1}


def check_configuration(
    parts: Parts, boot: ErrorLog, path: str, quiet: bool = False, dump: TextIO | None = None
) -> int:
    """`-t`: read the configuration at `path`, then try its pid file, logs and listeners; 0 when all is well, else 1.
    What is refused is said as errors, what changes nothing as notices.

    An address in use is well (the running server holds it). `dump` gets the files that were read (`-T`).
    """
    journal = Journal([boot])
    try:
        plan = read_plan(parts, journal)
        if not quiet:
            say(f"the configuration file {path} syntax is ok")
            _tell_of_idle(plan.without_effect)
        _try_out(plan, journal, boot)
    except NotPrepared as failed:
        if not quiet and isinstance(failed.__cause__, ConfigErrors):
            _tell_of_idle(failed.__cause__.without_effect)
        say(f"configuration file {path} test failed")
        return 1
    if not quiet:
        say(f"configuration file {path} test is successful")
    if dump is not None:
        for name, text in parts.files():
            dump.write(f"# configuration file {name}:\n")
            dump.flush()
            # Bytes that are not UTF-8 were kept as lone surrogates; they go out as they came.
            dump.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
            dump.buffer.flush()
    return 0


def _tell_of_idle(found: Sequence[tuple[str, Position]]) -> None:
    for text, place in found:
        say(f'[notice] "{text}" has no effect in upwell in {place}')


def _try_out(plan: Plan, journal: Journal, boot: ErrorLog) -> None:
    """What nginx tries with `-t`. Leaves no file or socket that was not there. Raises NotPrepared."""
    try:
        make_folder_of(plan.pid)
        pidfile.check(plan.pid)
    except OSError as error:
        journal.emerg(f'open() "{plan.pid}" {failure(error)}')
        raise NotPrepared from error
    made: list[str] = []
    try:
        make_folders(plan, journal, made)
    finally:
        for folder in reversed(made):
            with contextlib.suppress(OSError):  # somebody else has put something there
                os.rmdir(folder)
    open_plan_logs(plan, journal, boot)
    close_logs(plan)
    try:
        sockets = open_sockets(plan.listens, plan.worker_processes, {}, journal, test=True)
    except ListenError as error:
        raise NotPrepared from error
    discard(sock for held in sockets.values() for sock in held)


def explain_configuration(parts: Parts, path: str, out: TextIO) -> int:
    """`explain`: say to `out` what the configuration at `path` has probed; 0, or 1 when it has errors."""
    from upwell.runtime.build import Plan as RealPlan
    from upwell.runtime.explain import explain
    from upwell.runtime.rehearsal import lua_checks

    journal = Journal([])  # each line goes to standard error, as with `-t`
    try:
        plan = cast(RealPlan, read_plan(parts, journal))
    except NotPrepared:
        say(f"configuration file {path} test failed")
        return 1
    checks: tuple[CheckSpec, ...] = ()
    try:
        found = lua_checks(plan, journal)
        note = "" if found is None else "Lua code may start more checks later, in timers and requests."
        checks = found or ()
    except Exception as error:
        # Whatever Lua code does, the rest can be explained.
        note = f"The checks that Lua code starts are known only when it runs: {error}"
    for line in explain(plan, checks, note):
        out.write(f"{line.rstrip()}\n")
    out.flush()
    return 0


def send_signal(parts: Parts, boot: ErrorLog, word: str) -> int:
    """`-s`: send the signal that `word` ("stop", "quit", "reload", "reopen") stands for to the master; 0, or 1."""
    journal = Journal([boot])
    try:
        plan = read_plan(parts, journal)
    except NotPrepared:
        return 1
    journal.notice("signal process started")
    number = _NUMBERS[pidfile.SIGNALS[word]]
    try:
        pid = pidfile.read(plan.pid)
    except OSError as error:
        journal.error(f'open() "{plan.pid}" {failure(error)}')
        return 1
    except ValueError as error:
        journal.error(f'invalid PID number "{error}" in "{plan.pid}"')
        return 1
    try:
        os.kill(pid, number)
    except (OSError, OverflowError) as error:
        tail = failure(error) if isinstance(error, OSError) else f"failed ({error})"
        journal.alert(f"kill({pid}, {number.value}) {tail}")
        return 1
    return 0
