"""The checker process: one probing loop, the control socket, signals. No uvloop, no Lua, no configuration."""

from __future__ import annotations

import gc
import signal
import socket

from upwell.process.child import SIGNALS, Birth, drop_privileges, name_process, start_failed
from upwell.process.control import receive
from upwell.process.descriptors import raise_limit
from upwell.process.generation import reopen_logs
from upwell.process.limits import take_limits, take_place
from upwell.process.parts import Parts

ROUND = 0.5
"""The longest that one round of the loop waits, in seconds."""


def run_checker(birth: Birth, parts: Parts) -> int:
    """Probe until told to end; returns the exit code. Called in the child, with all signals blocked.

    TERM, INT and QUIT end it at once: it holds nobody's exchange, and all it knows is in the zone.
    """
    name_process("upwell: checker")
    journal = birth.journal
    running = True
    near, far = socket.socketpair()
    for end in (near, far):
        end.setblocking(False)
    try:
        parts.warm_checker()
        take_limits(birth.plan.workers, None, journal)
        drop_privileges(birth.identity)
        take_place(birth.plan.workers, journal)
        raise_limit()
        checker = parts.checker(birth.table, birth.plan, journal)
    except Exception as error:
        return start_failed(journal, error)

    def on_signals() -> None:
        nonlocal running
        for number in near.recv(64):
            if number == signal.SIGUSR1:
                journal.notice("reopening logs")
                reopen_logs(birth.plan, birth.boot, journal, None)
            else:
                running = False

    def on_messages() -> None:
        for complaint in receive(birth.control, checker):
            journal.error(complaint)

    def on_orphaned() -> None:
        nonlocal running
        journal.alert("master process is gone, exiting")
        running = False

    checker.watch(near.fileno(), on_signals)
    checker.watch(birth.control.fileno(), on_messages)
    checker.watch(birth.life, on_orphaned)
    signal.set_wakeup_fd(far.fileno())
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    gc.freeze()
    birth.report_ready()
    while running:
        checker.step(ROUND)
    journal.notice("exiting")
    checker.close()
    journal.notice("exit")
    return 0
