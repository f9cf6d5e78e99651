"""A worker process: the runtime on a uvloop, and the signals that end it. Knows the life of a process, no request."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import uvloop

from upwell.process import control as control_socket
from upwell.process.child import SIGNALS, Birth, describe, drop_privileges, name_process, start_failed
from upwell.process.control import Control
from upwell.process.generation import reopen_logs
from upwell.process.journal import Journal
from upwell.process.limits import keep_environment, own_memory, take_limits, take_place
from upwell.process.parts import Parts, Runtime
from upwell.proxy.listen import ListenSpec

BEAT = 0.25
"""Seconds between two signs of life in the zone; messages to the checker that had to wait go out as often."""


WEAR_EVERY = 1.0
"""Seconds between two looks at what the worker has served and what it takes."""


def run_worker(birth: Birth, sockets: Mapping[ListenSpec, socket.socket], parts: Parts) -> int:
    """Be a worker until told to end; returns the exit code. Called in the child, with all signals blocked."""
    name_process("upwell: worker")
    journal = birth.journal
    wear = Wear(birth)
    try:
        parts.warm_worker()
        keep_environment(birth.plan.env, os.environ)
        take_limits(birth.plan.workers, birth.slot, journal)
        loop = new_loop(journal)
        control = Control(birth.table, control_socket.to_socket(birth.control))
        runtime = parts.runtime(birth.plan, birth.table, birth.seat, control, sockets, loop, birth.shared_dir, journal)
        # Compiling reads files of upwell's own (and init_by_lua runs, in nginx in the master); what follows is the
        # worker's: init_worker_by_lua, requests.
        drop_privileges(birth.identity)
        take_place(birth.plan.workers, journal)
        ending = Ending(loop, runtime, journal, birth.plan.worker_shutdown_timeout)
        install_signals(loop, ending, birth)
        loop.add_reader(birth.life, ending.orphaned)
        runtime.start()
    except Exception as error:
        return start_failed(journal, error)
    settle_memory()

    wears = birth.plan.workers.wears

    def begin() -> None:
        # In the loop: a signal that came while it stood still would be let in unheard.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        birth.table.set_ready(birth.seat, os.getpid())
        birth.report_ready()
        beat()

    def beat() -> None:
        now = time.monotonic()
        birth.table.beat(birth.seat, now)
        control.flush()
        if wears:
            wear.look(runtime.requests, now)
        loop.call_later(BEAT, beat)

    loop.call_soon(begin)
    loop.run_forever()
    control.flush()
    birth.table.set_ready(birth.seat, 0)
    journal.notice("exit")
    return 0


class Wear:
    """Whether a worker has reached `worker_max_requests` or `worker_max_memory`; if so it says it to the master again
    and again, until it is told to end."""

    __slots__ = ("_birth", "_next")

    def __init__(self, birth: Birth) -> None:
        self._birth = birth
        self._next = 0.0

    def __repr__(self) -> str:
        return f"<Wear of worker {self._birth.slot}>"

    def look(self, requests: int, now: float) -> None:
        """Called now and then, after `requests` in all; looks once a second."""
        if now < self._next:
            return
        self._next = now + WEAR_EVERY
        limits = self._birth.plan.workers
        if limits.max_requests and requests >= limits.max_requests:
            self._birth.report_worn(f"has served {requests} requests")
        elif limits.max_memory:
            memory = own_memory()
            if memory >= limits.max_memory:
                self._birth.report_worn(f"has {memory >> 10} KB of memory for itself")


class Ending:
    """How a worker ends: at once, or once its last exchange is over (bounded by `worker_shutdown_timeout`, 0: not)."""

    __slots__ = ("_graceful", "_journal", "_loop", "_over", "_runtime", "_timeout")

    def __init__(self, loop: asyncio.AbstractEventLoop, runtime: Runtime, journal: Journal, timeout: float) -> None:
        self._loop = loop
        self._runtime = runtime
        self._journal = journal
        self._timeout = timeout
        self._graceful = False
        self._over = False

    def __repr__(self) -> str:
        return f"<Ending {'over' if self._over else 'graceful' if self._graceful else 'not begun'}>"

    def gracefully(self) -> None:
        """QUIT: accept no more, let exchanges end, then end."""
        if self._graceful or self._over:
            return
        self._graceful = True
        self._journal.notice("gracefully shutting down")
        self._runtime.stop_accepting()
        if self._timeout:
            self._loop.call_later(self._timeout, self.at_once)
        if self._runtime.idle:
            self.at_once()
        else:
            self._runtime.on_idle(self.at_once)

    def at_once(self) -> None:
        """TERM, or the last exchange is over: close everything and leave the loop."""
        if self._over:
            return
        self._over = True
        self._journal.notice("exiting")
        try:
            self._runtime.close()
        except Exception as error:
            self._journal.alert(describe(error))
        self._loop.stop()

    def orphaned(self) -> None:
        """The master is gone without a word: free the ports now, let the exchanges end."""
        if not self._graceful and not self._over:
            self._journal.alert("master process is gone, shutting down")
            self.gracefully()


def new_loop(journal: Journal) -> asyncio.AbstractEventLoop:
    """A uvloop whose unhandled errors go to the error log."""
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)

    def handle(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        journal.alert(describe(error) if error is not None else str(context.get("message")))

    loop.set_exception_handler(handle)
    return loop


def install_signals(loop: asyncio.AbstractEventLoop, ending: Ending, birth: Birth) -> None:
    """TERM and INT end at once, QUIT gracefully, USR1 reopens the logs."""

    def reopen() -> None:
        birth.journal.notice("reopening logs")
        reopen_logs(birth.plan, birth.boot, birth.journal, None)

    actions: dict[int, Callable[[], None]] = {
        signal.SIGTERM: ending.at_once,
        signal.SIGINT: ending.at_once,
        signal.SIGQUIT: ending.gracefully,
        signal.SIGUSR1: reopen,
    }
    for number in SIGNALS:
        loop.add_signal_handler(number, actions[number])


def settle_memory() -> None:
    """What is there now stays: take it out of the collector's sight, so that no collection walks (or copies) it."""
    gc.collect()
    gc.freeze()
    # A request leaves no cycles behind, so the default of a collection every 700 allocations finds nothing to do.
    gc.set_threshold(50_000, 20, 20)
