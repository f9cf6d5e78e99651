"""The master process: carries out what the supervisor decides. Knows fork, signals, pipes and files.

It makes no event loop, no thread and no Lua VM, and it decides nothing: policy is in `supervisor`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from upwell.check.initial import prepare_checks
from upwell.check.leftovers import end_leftovers
from upwell.log import ErrorLog
from upwell.lua.loaded import list_of, unchanged
from upwell.peers.membership import carry
from upwell.process import pidfile
from upwell.process.actions import (
    Action,
    Deafen,
    Exit,
    Forget,
    Load,
    Log,
    Renew,
    Reopen,
    Restore,
    Serve,
    Signal,
    Spawn,
    Upgrade,
    Vacate,
)
from upwell.process.checker import run_checker
from upwell.process.child import Birth, describe, forget_signals, name_process, run_child, start_failed
from upwell.process.generation import (
    Generation,
    NotPrepared,
    close_logs,
    is_same_user,
    keep_members,
    logs_are_current,
    prepare,
    read_plan,
    renewed,
    reopen_logs,
    shares_logs,
)
from upwell.process.handover import Orders
from upwell.process.in_place import difference
from upwell.process.inherited import Inherited, inherited, start_successor, unused
from upwell.process.journal import Journal, failure, make_folder_of
from upwell.process.listeners import all_of, discard, of_worker
from upwell.process.parts import Parts, Plan
from upwell.process.service import Service
from upwell.process.shared_dir import SharedDir
from upwell.process.startup import daemonize, greeting, release
from upwell.process.supervisor import LOOK, Supervisor, Watched
from upwell.process.tallies import Tallies
from upwell.proxy.listen import ListenSpec

_HEARD = {
    signal.SIGHUP: "HUP",
    signal.SIGINT: "INT",
    signal.SIGQUIT: "QUIT",
    signal.SIGTERM: "TERM",
    signal.SIGUSR1: "USR1",
    signal.SIGUSR2: "USR2",
    signal.SIGWINCH: "WINCH",
}
_LONGEST_PID = 10  # digits
_SENT = {"TERM": signal.SIGTERM, "QUIT": signal.SIGQUIT, "KILL": signal.SIGKILL, "USR1": signal.SIGUSR1}


@dataclass(frozen=True, slots=True)
class Pipes:
    """`signals`: wake-ups by the signal module. `ready`: a line "pid" from each started child, and
    "pid why" from one that should be replaced. `life`: nothing is
    ever written; its write end is the master's alone, so its EOF tells the children that the master is gone."""

    signals: tuple[int, int] = field(default_factory=os.pipe)
    ready: tuple[int, int] = field(default_factory=os.pipe)
    life: tuple[int, int] = field(default_factory=os.pipe)


class Master:
    """Start with `run()`. `foreground` overrides `daemon on` (`upwell run`); `boot` is the opened compiled-in log."""

    __slots__ = (
        "_boot",
        "_code",
        "_foreground",
        "_generations",
        "_inherited",
        "_journal",
        "_orders",
        "_parts",
        "_pid_file",
        "_pid_path",
        "_pipes",
        "_said",
        "_service",
        "_shared",
        "_supervisor",
        "_tallies",
    )

    def __init__(self, parts: Parts, boot: ErrorLog, foreground: bool = False) -> None:
        self._parts = parts
        self._boot = boot
        self._foreground = foreground
        self._journal = Journal([boot])
        self._inherited = Inherited({})
        self._generations: dict[int, Generation] = {}
        self._orders: dict[int, Orders] = {}
        self._tallies = Tallies()
        self._code: int | None = None
        self._said = b""
        self._service = Service({}, 0)
        self._supervisor: Supervisor
        self._pid_path: str  # of the configuration
        self._pid_file: str  # where it is: elsewhere while another master has that path
        self._pipes: Pipes
        self._shared: SharedDir

    def __repr__(self) -> str:
        return f"<Master generations={sorted(self._generations)}>"

    def run(self) -> int:
        """Serve until told to end; returns the exit code. With `daemon on` only the process in the background
        returns; the one that was started ends with 0 once the pid file is there, or with 1."""
        journal = self._journal
        given = self._inherited = inherited(os.environ, os.getpid(), journal)
        try:
            first = prepare(self._parts, journal, self._boot, given.sockets)
        except NotPrepared:
            return 1
        for spec, sock in unused(given.sockets, [first.sockets]):
            if not given.predecessor:
                journal.warn(f'no "listen" is for the inherited socket {spec.text}, it is closed')
            sock.close()
        plan = first.plan
        for line in greeting():
            journal.notice(line)
        background = plan.daemon and not self._foreground
        released = daemonize() if background and not given.predecessor else -1
        self._service = Service(os.environ, os.getpid(), given.predecessor)
        # Whoever is told who the main process is needs not wait for the end of this one.
        self._supervisor = Supervisor(background or self._service.asked, given.predecessor > 0)
        try:
            # Whoever reads the pid file may signal at once: from here on signals are kept until somebody listens.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            make_folder_of(plan.pid)
            pidfile.write(plan.pid, os.getpid())
        except OSError as error:
            journal.emerg(f'open() "{plan.pid}" {failure(error)}')
            self._discard(all_of([first.sockets]))
            return 1
        self._pid_path = self._pid_file = plan.pid
        try:
            self._share(first)
        except OSError as error:
            journal.emerg(f"no folder for shared dictionaries: {error}")
            self._discard(all_of([first.sockets]))
            pidfile.remove(plan.pid, os.getpid())
            return 1
        journal.detach()
        if released >= 0:
            self._leave_terminal(released)
        if plan.master_process:
            return self._supervise(first)
        return self._run_alone(first)

    def _supervise(self, first: Generation) -> int:
        name_process("upwell: master")
        self._listen_to_signals()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._begin(first)
        while self._code is None:
            self._wait()
        return self._code

    def _run_alone(self, generation: Generation) -> int:
        # Here and not above: the master and the checker have no use for an event loop.
        from upwell.process.single import run_single

        name_process("upwell: single")
        self._service.tell("READY=1")
        try:
            return run_single(generation, self._journal, self._boot, self._parts, self._shared.path)
        finally:
            self._clear(all_of([generation.sockets]))

    # Events

    def _listen_to_signals(self) -> None:
        self._pipes = Pipes()
        for fd in (*self._pipes.signals, *self._pipes.ready):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self._pipes.signals[1], warn_on_full_buffer=False)
        for number in (*_HEARD, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

    def _wait(self) -> None:
        """One round: sleep until something happens, then tell the supervisor."""
        signals, ready = self._pipes.signals[0], self._pipes.ready[0]
        deadline = self._supervisor.deadline()
        poll = select.poll()
        poll.register(signals, select.POLLIN)
        poll.register(ready, select.POLLIN)
        for orders in self._orders.values():
            orders.await_room(poll)
        for number in self._supervisor.headless():
            self._orders[number].await_unheard(poll)
        longest = min(LOOK, self._service.watchdog / 2 or LOOK) * 1000 + 1
        happened = [fd for fd, _ in poll.poll(longest if deadline is None else min(longest, _milliseconds(deadline)))]
        if ready in happened:
            self._hear_ready()
        if signals in happened:
            for number in sorted(set(os.read(signals, 4096)), key=_urgency):
                if number == signal.SIGCHLD:
                    self._reap()
                elif number in _HEARD:
                    self._hear(_HEARD[signal.Signals(number)])
        for orders in self._orders.values():
            orders.flush()
        for number in self._supervisor.headless():
            self._repeat(number, headless=True)
        self._perform(self._supervisor.tick(time.monotonic()))
        for one in self._supervisor.watched(time.monotonic()):
            self._perform(self._supervisor.heard(one.pid, self._beat_of(one), time.monotonic()))
        if self._supervisor.predecessor and os.getppid() != self._inherited.predecessor:
            self._perform(self._supervisor.predecessor_gone())
        if self._tallies.is_due(time.monotonic()):
            self._tell_counts()
        self._service.alive(time.monotonic())

    def _hear(self, name: str) -> None:
        before = self._supervisor.stopping
        self._perform(self._supervisor.signalled(name, time.monotonic()))
        if self._supervisor.stopping and not before:
            successor = self._supervisor.successor
            self._service.tell(f"MAINPID={successor}" if successor else "STOPPING=1")

    def _beat_of(self, one: Watched) -> int:
        generation = self._generations[one.generation]
        if one.kind == "checker":
            return generation.table.checker_heartbeat
        return generation.table.heartbeat(_seat(generation, one.slot, one.seat))

    def _hear_ready(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._said += os.read(self._pipes.ready[0], 4096)
        *lines, self._said = self._said.split(b"\n")
        if len(self._said) > select.PIPE_BUF:
            self._said = b""  # no child of ours says it: their lines come whole
        for line in lines:
            pid, _, why = line.decode("utf-8", "replace").partition(" ")
            if not pid.isdecimal() or len(pid) > _LONGEST_PID:
                continue
            if why:
                self._perform(self._supervisor.worn(int(pid), why, time.monotonic()))
            else:
                self._perform(self._supervisor.ready(int(pid), time.monotonic()))

    def _reap(self) -> None:
        # A child that said "started" and then died is to be heard in this order.
        self._hear_ready()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            now = time.monotonic()
            was_checker = self._supervisor.is_checker(pid)
            if code >= 0:
                self._perform(self._supervisor.exited(pid, code, None, now))
            else:
                self._perform(self._supervisor.exited(pid, None, -code, now))
            if code and was_checker:
                end_leftovers(pid)  # its successor does not wait for that

    def _begin(self, generation: Generation, old: int = 0) -> None:
        """A configuration is ready to serve: give it its processes. It follows the one with the number `old`."""
        plan = generation.plan
        prepare_checks(generation.table, plan.upstreams, plan.checks, int(time.monotonic() * 1000))
        number = self._supervisor.newest + 1
        self._generations[number] = generation
        self._orders[number] = Orders(plan.upstreams, generation.table, generation.workers_end, generation.checker_end)
        self._tallies.begin(number, plan.upstreams, generation.table, old)
        timeout, patience = plan.worker_shutdown_timeout, plan.workers.hang_timeout
        self._perform(self._supervisor.loaded(generation.workers, timeout, time.monotonic(), patience))

    # Actions

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            _PERFORM[type(action)](self, action)

    def _log(self, action: Log) -> None:
        self._journal.write(action.level, action.message)

    def _send(self, action: Signal) -> None:
        number = _SENT[action.signal]
        try:
            os.kill(action.pid, number)
        except ProcessLookupError:
            return  # its exit is on the way
        except OSError as error:
            self._journal.alert(f"kill({action.pid}, {number.value}) {failure(error)}")

    def _load(self, _: Load) -> None:
        with self._service.busy():
            self._read_again()

    def _read_again(self) -> None:
        kept: dict[ListenSpec, tuple[socket.socket, ...]] = {}
        for number, generation in self._generations.items():
            if number >= self._supervisor.serving:
                kept.update(generation.sockets)
        self._service.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        old = self._current()
        self._note_orders()
        try:
            keep_members(old, self._journal)
            plan = read_plan(self._parts, self._journal)
            if self._load_in_place(old, plan):
                return
            generation = prepare(self._parts, self._journal, self._boot, kept, plan)
            self._orders[self._supervisor.current].supersede()
        except Exception as error:
            if not isinstance(error, NotPrepared):
                self._journal.alert(describe(error))  # whatever is wrong, the old one goes on
            self._perform(self._supervisor.failed())
            self._service.tell("READY=1", "STATUS=the new configuration was refused, the old one goes on")
            return
        self._follow(old, generation)

    def _load_in_place(self, old: Generation, plan: Plan) -> bool:
        """Have the processes of `old` serve `plan` if it differs in nothing but who belongs to upstreams."""
        number = self._supervisor.current
        if not self._supervisor.plain or plan.likeness is None or plan.likeness != old.plan.likeness:
            return False
        found = difference(old.plan.upstreams, old.table, old.upstreams, plan.upstreams)
        if found is None or not logs_are_current(old, self._boot) or not is_same_user(old, plan):
            return False
        if not unchanged(list_of(self._shared.path, old.table.configurations)):
            return False
        self._orders[number].write(found.orders)
        self._generations[number] = replace(old, upstreams=plan.upstreams)
        self._journal.notice(f"reconfigured in place, without new workers: {found.text}")
        self._service.tell("READY=1", f"STATUS={old.workers} workers serve")
        return True

    def _renew(self, _: Renew) -> None:
        old = self._current()
        self._note_orders()
        try:
            generation = renewed(self._parts, old)
        except (OSError, ValueError) as error:
            self._journal.emerg(describe(error))
            self._perform(self._supervisor.failed())
            return
        self._follow(old, generation)

    def _current(self) -> Generation:
        """The generation that serves, or will."""
        return self._generations[self._supervisor.current]

    def _follow(self, old: Generation, generation: Generation) -> None:
        """Begin `generation` with all that is known in the `old` one."""
        self._tell_counts()
        carry(generation.table, generation.plan.upstreams, old.table, old.plan.upstreams)
        generation.table.adopt(old.table, int(time.monotonic() * 1000))
        if not shares_logs(generation.plan, old.plan):
            generation.plan.lookups.adopt(old.plan.lookups)
            generation.plan.connections.adopt(old.plan.connections)
        self._begin(generation, self._supervisor.current)

    def _upgrade(self, _: Upgrade) -> None:
        """As nginx: the pid file makes way first, and comes back when the other master cannot be started."""
        old = self._pid_path + pidfile.OLD
        serving = self._supervisor.serving
        try:
            keep_members(self._current(), self._journal)
            pidfile.move(self._pid_path, old)
        except OSError as error:
            self._journal.alert(f'rename() "{self._pid_path}" to "{old}" {failure(error)}')
            self._perform(self._supervisor.not_upgraded())
            return
        except NotPrepared:
            self._perform(self._supervisor.not_upgraded())
            return
        self._pid_file = old
        command = [sys.executable, *sys.orig_argv[1:]]
        try:
            pid = start_successor(
                command, os.environ, [g.sockets for n, g in self._generations.items() if n >= serving]
            )
        except OSError as error:
            self._journal.alert(f'execve() failed while executing "{command[0]}" {failure(error)}')
            self._perform(self._supervisor.not_upgraded())
            self._restore(Restore())
            return
        self._perform(self._supervisor.upgrading(pid))

    def _restore(self, _: Restore) -> None:
        try:
            pidfile.move(self._pid_file, self._pid_path)
        except OSError as error:
            self._journal.alert(f'rename() "{self._pid_file}" to "{self._pid_path}" {failure(error)}')
        self._pid_file = self._pid_path

    def _serve(self, action: Serve) -> None:
        """Close the listeners that nobody newer uses, and forget what only older workers share: a zone that comes back
        begins anew, as in nginx. The pid file follows the configuration that serves."""
        serving = self._generations[action.generation]
        newer = all_of(g.sockets for n, g in self._generations.items() if n >= action.generation)
        older = all_of(g.sockets for n, g in self._generations.items() if n < action.generation)
        self._discard(_without(older, newer))
        plans = {n: g.plan.shared_files for n, g in self._generations.items()}
        used = frozenset[str]().union(*(files for n, files in plans.items() if n >= action.generation))
        self._shared.forget(frozenset[str]().union(*plans.values()) - used)
        self._journal.direct(serving.logs(self._boot))
        for number in self._orders:
            if self._supervisor.is_retired(number):
                self._repeat(number)
        self._service.tell("READY=1", f"STATUS={serving.workers} workers serve")
        path = serving.plan.pid
        if path == self._pid_path or self._supervisor.successor:
            return
        try:
            make_folder_of(path)
            pidfile.write(path, os.getpid())
            pidfile.remove(self._pid_path, os.getpid())
            self._pid_path = self._pid_file = path
        except OSError as error:
            self._journal.emerg(f'open() "{path}" {failure(error)}')

    def _note_orders(self) -> None:
        """A generation is about to be made of the current one: whatever is ordered from now on will be repeated to
        it. What was ordered before is news to others that are in the making."""
        current = self._supervisor.current
        news = self._orders[current].news()
        for number, orders in self._orders.items():
            if number > current:
                orders.repeat(news)

    def _repeat(self, number: int, headless: bool = False) -> None:
        """Have the generation that serves, or will, know what a retired one was ordered to do."""
        current, retired = self._orders[self._supervisor.current], self._orders[number]
        current.repeat(retired.news())
        if headless:
            current.repeat(retired.unheard(self._journal.error))

    def _tell_counts(self) -> None:
        """Have those that serve, or will, know what was counted in the other generations."""
        began = time.monotonic()
        self._tallies.tell([number for number in self._generations if not self._supervisor.is_retired(number)])
        self._tallies.took(began, time.monotonic(), LOOK)

    def _vacate(self, action: Vacate) -> None:
        generation = self._generations[action.generation]
        generation.table.vacate(_seat(generation, action.slot, action.seat))

    def _forget(self, action: Forget) -> None:
        self._repeat(action.generation, headless=True)
        del self._orders[action.generation]
        self._tell_counts()
        self._tallies.end(action.generation)
        gone = self._generations.pop(action.generation)
        self._discard(_without(all_of([gone.sockets]), all_of(g.sockets for g in self._generations.values())))
        gone.close(logs=not any(shares_logs(other.plan, gone.plan) for other in self._generations.values()))

    def _reopen(self, _: Reopen) -> None:
        for generation in self._generations.values():
            reopen_logs(generation.plan, self._boot, self._journal, generation.identity)

    def _deafen(self, _: Deafen) -> None:
        self._discard(all_of(g.sockets for g in self._generations.values()))

    def _exit(self, action: Exit) -> None:
        self._clear(all_of(g.sockets for g in self._generations.values()))
        self._journal.notice("exit")
        self._code = action.code

    def _spawn(self, action: Spawn) -> None:
        """Fork; the child runs and ends in here."""
        master = os.getpid()
        # Until the child has handlers of its own, a signal to it would be taken for one to the master.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                self._be_child(action)
        except OSError as error:
            self._journal.alert(f"fork() failed while spawning {action.kind!r}: {failure(error)}")
            kind, slot, number = action.kind, action.slot, action.generation
            self._perform(self._supervisor.not_spawned(kind, slot, number, time.monotonic()))
            return
        finally:
            if os.getpid() == master:
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
        now = time.monotonic()
        self._perform(self._supervisor.spawned(pid, action.kind, action.slot, action.generation, now, action.seat))

    def _be_child(self, action: Spawn) -> None:
        """Never returns."""
        code = 1
        try:
            forget_signals()
            for fd in (*self._pipes.signals, self._pipes.ready[0], self._pipes.life[1]):
                os.close(fd)
            code = run_child(lambda: self._live(action), self._journal)
        finally:
            os._exit(code)

    def _live(self, action: Spawn) -> int:
        """The child's life, with no listener but its own."""
        kind, slot = action.kind, action.slot
        generation = self._generations[action.generation]
        sockets = of_worker(generation.sockets, slot) if kind == "worker" else {}
        for sock in _without(all_of(g.sockets for g in self._generations.values()), list(sockets.values())):
            sock.close()
        self._journal.direct(generation.logs(self._boot))
        for other in self._generations.values():
            if not shares_logs(other.plan, generation.plan):
                close_logs(other.plan)
        birth = Birth(
            plan=generation.plan,
            table=generation.table,
            journal=self._journal,
            boot=self._boot,
            slot=slot,
            seat=_seat(generation, slot, action.seat),
            control=generation.workers_end if kind == "worker" else generation.checker_end,
            ready=self._pipes.ready[1],
            life=self._pipes.life[0],
            identity=generation.identity,
            shared_dir=self._shared.path,
        )
        if kind == "checker":
            return run_checker(birth, self._parts)
        try:
            from upwell.process.worker import run_worker
        except Exception as error:
            return start_failed(self._journal, error)  # an installation that lacks something will lack it again
        return run_worker(birth, sockets, self._parts)

    # Small things

    def _share(self, first: Generation) -> None:
        owner = first.identity
        self._shared = SharedDir(owner.uid, owner.gid) if owner is not None else SharedDir(-1, -1)

    def _leave_terminal(self, released: int) -> None:
        """Let the process that was started end; what libraries print goes to the error log from now on."""
        log = self._journal.destinations[0]
        if log.path != "stderr" and log.fd >= 0:
            os.dup2(log.fd, 2)
        release(released)

    def _clear(self, sockets: list[socket.socket]) -> None:
        """Leave nothing behind: listeners, pid file, shared dictionaries."""
        self._discard(sockets)
        try:
            pidfile.remove(self._pid_file, os.getpid())
        except OSError as error:
            self._journal.alert(f'unlink() "{self._pid_file}" {failure(error)}')
        self._shared.remove()

    def _discard(self, sockets: list[socket.socket]) -> None:
        """Close listeners for good. The file of a unix socket stays for whoever else listens there."""
        supervisor = self._supervisor
        discard(sockets, not (self._inherited.kept_by_others or supervisor.successor or supervisor.predecessor))


_PERFORM: dict[type, Callable[..., None]] = {
    Spawn: Master._spawn,
    Signal: Master._send,
    Load: Master._load,
    Renew: Master._renew,
    Upgrade: Master._upgrade,
    Restore: Master._restore,
    Serve: Master._serve,
    Vacate: Master._vacate,
    Forget: Master._forget,
    Reopen: Master._reopen,
    Log: Master._log,
    Deafen: Master._deafen,
    Exit: Master._exit,
}


def _seat(generation: Generation, slot: int, seat: int) -> int:
    """The number in the zone of who has that seat in that slot."""
    return slot + seat * generation.workers


def _urgency(number: int) -> int:
    """The end first (Ctrl-C reaches the children too: they are not to be replaced), deaths before the rest."""
    if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        return 0
    return 1 if number == signal.SIGCHLD else 2


def _milliseconds(deadline: float) -> float:
    """From now until `deadline`, rounded up so that the tick finds it passed."""
    return max(0.0, (deadline - time.monotonic()) * 1000 + 1)


def _without(sockets: list[socket.socket], others: list[socket.socket]) -> list[socket.socket]:
    """`sockets` that are not among `others`; the same socket is in several generations."""
    held = {id(sock) for sock in others}
    return [sock for sock in sockets if id(sock) not in held]
