"""`master_process off`: worker and checker in one process and one loop, for development. Knows both, forks nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable

from upwell.log import ErrorLog
from upwell.process.child import describe
from upwell.process.control import Control, Message, to_checker
from upwell.process.generation import Generation, reopen_logs
from upwell.process.journal import Journal
from upwell.process.limits import keep_environment
from upwell.process.listeners import of_worker
from upwell.process.parts import Checker, Parts
from upwell.process.worker import BEAT, Ending, new_loop, settle_memory


def run_single(generation: Generation, journal: Journal, boot: ErrorLog, parts: Parts, shared_dir: str) -> int:
    """Serve until told to end; returns the exit code. Called with the signals blocked, which it lifts.

    Privileges stay (as in nginx, whose `user` is for worker processes), and HUP is not followed.
    """
    table = generation.table
    keep_environment(generation.plan.env, os.environ)
    loop = new_loop(journal)
    checker = parts.checker(table, generation.plan, journal)
    probing = Probing(loop, checker)
    control = Control(table, probing.deliver)
    sockets = of_worker(generation.sockets, 0)
    runtime = parts.runtime(generation.plan, table, 0, control, sockets, loop, shared_dir, journal)
    ending = Ending(loop, runtime, journal, generation.plan.worker_shutdown_timeout)
    try:
        runtime.start()
    except Exception as error:
        journal.emerg(f"process could not be started: {describe(error)}")
        return 1
    _install(loop, ending, journal, lambda: reopen_logs(generation.plan, boot, journal, None))
    settle_memory()

    def begin() -> None:
        # In the loop: a signal that came while it stood still would be let in unheard.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        table.set_ready(0, os.getpid())
        beat()

    def beat() -> None:
        table.beat(0, time.monotonic())
        control.flush()
        probing.run()
        loop.call_later(BEAT, beat)

    loop.call_soon(begin)
    loop.run_forever()
    table.set_ready(0, 0)
    checker.close()
    journal.notice("exit")
    return 0


class Probing:
    """The checker inside somebody else's loop: run when its sockets or its timetable say so."""

    __slots__ = ("_checker", "_deliver", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, checker: Checker) -> None:
        self._loop = loop
        self._checker = checker
        self._deliver = to_checker(checker)
        self._timer: asyncio.TimerHandle | None = None
        loop.add_reader(checker.fileno(), self.run)

    def __repr__(self) -> str:
        return f"<Probing {self._checker!r}>"

    def deliver(self, message: Message) -> bool:
        """Hand a message to the checker, and see to what it made due."""
        self._loop.call_soon(self.run)
        return self._deliver(message)

    def run(self) -> None:
        """Do what is due without waiting, and come back when the next thing is."""
        self._checker.step(0.0)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._checker.next_due()
        if due is not None:
            self._timer = self._loop.call_later(max(0.0, due - time.monotonic()), self.run)


def _install(loop: asyncio.AbstractEventLoop, ending: Ending, journal: Journal, reopen: Callable[[], None]) -> None:
    def refuse(number: signal.Signals, what: str) -> None:
        journal.warn(
            f"signal {number.value} ({number.name}) received, ignoring: there is no {what} with master_process off"
        )

    loop.add_signal_handler(signal.SIGTERM, ending.at_once)
    loop.add_signal_handler(signal.SIGINT, ending.at_once)
    loop.add_signal_handler(signal.SIGQUIT, ending.gracefully)
    loop.add_signal_handler(signal.SIGUSR1, reopen)
    loop.add_signal_handler(signal.SIGHUP, refuse, signal.SIGHUP, "reload")
    loop.add_signal_handler(signal.SIGUSR2, refuse, signal.SIGUSR2, "upgrade")
