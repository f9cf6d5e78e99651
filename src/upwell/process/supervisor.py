"""What the master does when something happens: events in, actions out.

Knows children, generations and nginx's signals. Must not know how a process is made, a signal sent, a file opened or
what time it is: `now` (seconds of any monotonic clock) is an argument, actions are data that `master` carries out.
"""

from __future__ import annotations

from dataclasses import dataclass

from upwell.log import ALERT, CRIT, EMERG, NOTICE
from upwell.process.actions import (
    Action,
    Deafen,
    Exit,
    Forget,
    Kind,
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

TITLES: dict[Kind, str] = {"worker": "worker process", "checker": "checker process"}

FATAL = 2
"""The exit code of a child that cannot start and would fail again (nginx's code for it)."""

SCARCE = 3
"""The exit code of a child that could not start for want of memory, descriptors or room: where its configuration serves
already it is tried again."""

QUICK = 1.0
"""A child that lived for less than this many seconds died quickly: the next one of its slot waits."""

FIRST_WAIT = 0.25
LAST_WAIT = 10.0
"""Seconds before a spawn after the second quick death in a row, and what the doubling ends at."""

TERM_GRACE = 1.5
"""Seconds from TERM until KILL (nginx signals again with doubling pauses and kills after about as long)."""

TIMEOUT_GRACE = 1.0
"""Seconds that a worker gets beyond its own `worker_shutdown_timeout` before the master ends it."""

LOOK = 1.0
"""Seconds between two looks at a heartbeat."""

PATIENCE = 10
START_PATIENCE = 60
"""After how many looks in a row that found the same beat a checker is taken for stuck; the second is for one that has
not said "started". (A worker has its configured patience, once it has.) Looks are counted, not seconds: where all
processes stood still (or the master alone was late), a single late look finds out, and the checker has its chance
before the next one."""

_NUMBERS = {"HUP": 1, "INT": 2, "QUIT": 3, "USR1": 10, "USR2": 12, "TERM": 15, "WINCH": 28}
_CONSEQUENCES = {
    "HUP": "reconfiguring",
    "INT": "exiting",
    "QUIT": "shutting down",
    "TERM": "exiting",
    "USR1": "reopening logs",
    "USR2": "changing binary",
    "WINCH": "stop accepting connections",
}
_IN_FRONT = "ignoring: in the foreground, the end of this process would be taken for the end of the service"
_TWO_ALREADY = (
    "the changing binary signal is ignored: you should shutdown or "  # nginx's sentence
    "terminate before either old or new binary's process"
)


@dataclass(slots=True)
class _Child:
    pid: int
    kind: Kind
    slot: int
    generation: int
    seat: int
    since: float
    ready: bool = False
    leaving: bool = False
    kill_at: float | None = None
    look_at: float | None = None
    beat: int = 0
    silent: int = 0


@dataclass(slots=True)
class _Slot:
    """One place to be filled: who is in it (who comes, while somebody else still serves there), how many quick deaths
    in a row it saw, when it is filled again. `keeps`: its worker stays however worn, for no other one can start."""

    quick_deaths: int = 0
    spawn_at: float | None = None
    pid: int | None = None
    seat: int = 0
    given_up: bool = False
    keeps: bool = False


@dataclass(slots=True)
class _Generation:
    workers: int
    shutdown_timeout: float
    slots: dict[tuple[Kind, int], _Slot]
    patience: float
    retired: bool = False

    @property
    def awaited(self) -> int:
        """How many workers it has when it is complete: one that cannot be started is waited for no more."""
        return self.workers - sum(place.given_up for (kind, _), place in self.slots.items() if kind == "worker")

    @property
    def hopeless(self) -> bool:
        """Whether no worker can be started."""
        return not self.awaited


@dataclass(frozen=True, slots=True)
class Watched:
    """A child whose heartbeat is due to be looked at."""

    pid: int
    kind: Kind
    slot: int
    generation: int
    seat: int


class Supervisor:
    """The master's policy. Every event returns the actions that it asks for, in the order to carry them out.

    A generation is what one reading of the configuration made: its workers (slots 0..n-1) and one checker. The newest
    generation whose workers were all ready serves; older ones get QUIT at that moment, their checker TERM.

    `background`: nobody waits for the end of this very process, so that another master may take its place.
    `predecessor`: another master handed its listeners over and still runs.
    """

    __slots__ = (
        "_background",
        "_children",
        "_generations",
        "_newest",
        "_predecessor",
        "_resting",
        "_serving",
        "_stopping",
        "_successor",
    )

    def __init__(self, background: bool = True, predecessor: bool = False) -> None:
        self._background = background
        self._predecessor = predecessor
        self._successor = 0
        self._resting = False
        self._children: dict[int, _Child] = {}
        self._generations: dict[int, _Generation] = {}
        self._newest = 0
        self._serving = 0
        self._stopping = ""

    def __repr__(self) -> str:
        state = self._stopping or "running"
        return f"<Supervisor {state} serving={self._serving} children={len(self._children)}>"

    @property
    def newest(self) -> int:
        """The number of the last generation that was loaded; 0 before the first."""
        return self._newest

    @property
    def serving(self) -> int:
        """The generation that serves; 0 before the first one is ready."""
        return self._serving

    @property
    def current(self) -> int:
        """The generation that serves, or, before the first one is ready, the newest one that will."""
        return self._serving or max(n for n, generation in self._generations.items() if not generation.retired)

    @property
    def plain(self) -> bool:
        """Whether there is one generation that serves, or will, and all is to go on with it."""
        going = sum(not generation.retired for generation in self._generations.values())
        return going == 1 and not self._stopping and not self._resting

    def is_retired(self, number: int) -> bool:
        """Whether that generation has come to its end, or is about to."""
        return number not in self._generations or self._generations[number].retired

    def headless(self) -> list[int]:
        """Retired generations whose checker is gone for good: nobody hears their last workers."""
        with_checker = {child.generation for child in self._children.values() if child.kind == "checker"}
        return [n for n, generation in self._generations.items() if generation.retired and n not in with_checker]

    @property
    def stopping(self) -> bool:
        """Whether all is being brought to an end."""
        return bool(self._stopping)

    @property
    def successor(self) -> int:
        """The pid of the master that was started to take over; 0: there is none."""
        return self._successor

    @property
    def predecessor(self) -> bool:
        """Whether the master that handed its listeners over still runs."""
        return self._predecessor

    def loaded(self, workers: int, shutdown_timeout: float, now: float, patience: float = 0.0) -> list[Action]:
        """A configuration was read and its listeners are open: a new generation of `workers` processes begins.

        `shutdown_timeout` is `worker_shutdown_timeout` in seconds, 0 for none, and `patience` how long a worker may go
        without a sign of life. Its number is one more than the last.
        """
        self._newest += 1
        self._resting = False
        slots: dict[tuple[Kind, int], _Slot] = {("checker", 0): _Slot()}
        slots.update({("worker", slot): _Slot() for slot in range(workers)})
        self._generations[self._newest] = _Generation(workers, shutdown_timeout, slots, patience)
        actions: list[Action] = [Log(NOTICE, "start worker processes")]
        actions += [Spawn(kind, slot, self._newest) for kind, slot in slots]
        return actions

    def failed(self) -> list[Action]:
        """The configuration could not be used: whatever serves goes on serving."""
        return []

    def spawned(self, pid: int, kind: Kind, slot: int, generation: int, now: float, seat: int = 0) -> list[Action]:
        """The child asked for by `Spawn` runs as `pid`."""
        child = self._children[pid] = _Child(pid, kind, slot, generation, seat, now)
        if kind == "checker":
            child.look_at = now + LOOK
        place = self._generations[generation].slots[kind, slot]
        place.pid = pid
        place.seat = seat
        place.spawn_at = None
        return [Log(NOTICE, f"start {TITLES[kind]} {pid}")]

    def not_spawned(self, kind: Kind, slot: int, generation: int, now: float) -> list[Action]:
        """The process could not be made (out of memory, out of processes): tried again after a wait."""
        place = self._generations[generation].slots[kind, slot]
        served = self._children.get(place.pid or 0)
        if served is not None and not served.leaving:
            return []  # it was to be replaced, goes on, and will say so again; its seat is not free
        place.pid = None
        place.quick_deaths = max(2, place.quick_deaths + 1)
        place.spawn_at = now + _wait(place.quick_deaths)
        return []

    def ready(self, pid: int, now: float) -> list[Action]:
        """The child has started: a worker accepts, a checker listens to its control socket."""
        child = self._children.get(pid)
        if child is None:
            return []
        child.ready = True
        child.silent = 0
        if child.kind == "worker" and self._generations[child.generation].patience:
            child.look_at = now + LOOK
        actions = self._leave([c for c in self._predecessors(child) if not c.leaving], now)
        return actions + self._hand_over(child.generation, now)

    def worn(self, pid: int, why: str, now: float) -> list[Action]:
        """The worker has reached one of its limits and says so again and again until it is told to end: another one
        starts beside it and takes over when it is ready. Never two at a time, and never while any slot is not served.
        """
        child = self._children.get(pid)
        if child is None or child.leaving or self._stopping or self._resting or child.generation != self._serving:
            return []
        places = self._generations[child.generation].slots
        if places["worker", child.slot].keeps or not all(
            place.pid is not None and self._children[place.pid].ready and not self._children[place.pid].leaving
            for (kind, _), place in places.items()
            if kind == "worker"
        ):
            return []
        if self._predecessors(child):
            return []  # who had the other seat still ends
        return [
            Log(NOTICE, f"{TITLES[child.kind]} {pid} {why}, it is replaced"),
            Spawn("worker", child.slot, child.generation, 1 - child.seat),
        ]

    def is_checker(self, pid: int) -> bool:
        child = self._children.get(pid)
        return child is not None and child.kind == "checker"

    def exited(self, pid: int, code: int | None, signal: int | None, now: float) -> list[Action]:
        """The child ended, with exit `code` or by `signal` (the other one None)."""
        if pid == self._successor:
            return self._alone_again(code, signal)
        child = self._children.pop(pid, None)
        if child is None:
            return []
        actions: list[Action] = [_obituary(child, code, signal)]
        place = self._generations[child.generation].slots[child.kind, child.slot]
        replaced = place.pid not in (pid, None)
        if not replaced:
            place.pid = None
        empty = replaced or child.leaving or self._generations[child.generation].retired
        empty &= child.kind == "worker" and not self._stopping
        if empty and all(one.seat != child.seat for one in self._predecessors(child)):
            actions.append(Vacate(child.slot, child.generation, child.seat))
        if self._stopping or child.leaving or self._resting or self._generations[child.generation].retired:
            return actions + self._settle(child.generation)
        if replaced:
            return actions  # its successor is there already
        scarce = code == SCARCE and child.generation == self._serving
        if code in (FATAL, SCARCE) and not scarce and child.kind == "worker":
            text = f"{TITLES[child.kind]} {pid} exited with fatal code {code} and cannot be respawned"
            actions.append(Log(ALERT, text))
            before = [one for one in self._predecessors(child) if not one.leaving]
            if before:
                place.pid, place.seat, place.keeps = before[0].pid, before[0].seat, True
                return [*actions, Log(ALERT, f"{TITLES[child.kind]} {place.pid} goes on in spite of its limit")]
            place.given_up = True
            return actions + self._give_up(child.generation, now)
        place.keeps = False
        place.quick_deaths = place.quick_deaths + 1 if scarce or now - child.since < QUICK else 0
        wait = _wait(place.quick_deaths)
        if wait:
            place.spawn_at = now + wait
            return actions
        return [*actions, Spawn(child.kind, child.slot, child.generation, child.seat)]

    def watched(self, now: float) -> list[Watched]:
        """Whose heartbeat is to be looked at now, and said with `heard`."""
        return [
            Watched(child.pid, child.kind, child.slot, child.generation, child.seat)
            for child in self._children.values()
            if child.look_at is not None and child.look_at <= now and self._stopping not in ("TERM", "FATAL")
        ]

    def heard(self, pid: int, beat: int, now: float) -> list[Action]:
        """The last beat of a child is `beat` (any number that changes as long as it is well).

        One that is stuck is killed, and replaced without waiting for its end: a process
        that hangs in the system may not end for a long time, but none runs a step further once it is killed.
        """
        child = self._children.get(pid)
        if child is None or child.look_at is None or child.look_at > now:
            return []
        child.look_at = now + LOOK
        child.silent = child.silent + 1 if beat == child.beat else 0
        child.beat = beat
        generation = self._generations[child.generation]
        if child.silent < self._patience_with(child):
            return []
        child.look_at = None
        wanted = not (child.leaving or self._stopping or self._resting or generation.retired)
        child.leaving = True
        words = f"has given no sign of life for {child.silent * LOOK:.0f} seconds or more, it is killed"
        text = f"{TITLES[child.kind]} {pid} {words}{' and replaced' if wanted else ''}"
        actions: list[Action] = [Log(ALERT, text), Signal(pid, "KILL")]
        if wanted and generation.slots[child.kind, child.slot].pid == pid:
            actions.append(Spawn(child.kind, child.slot, child.generation, child.seat))
        return actions

    def upgrading(self, pid: int) -> list[Action]:
        """Another master was started as `pid`, and has the listeners."""
        self._successor = pid
        return [Log(NOTICE, f"start new binary process {pid}")]

    def not_upgraded(self) -> list[Action]:
        """No other master could be started: all is as before."""
        return []

    def predecessor_gone(self) -> list[Action]:
        """The master that handed its listeners over has ended."""
        self._predecessor = False
        return [Log(NOTICE, "old binary process is gone")]

    def signalled(self, name: str, now: float) -> list[Action]:
        """The master got the signal `name` ("HUP", "TERM", "INT", "QUIT", "USR1", "USR2", "WINCH")."""
        consequence = _CONSEQUENCES[name]
        if self._stopping and name in ("HUP", "USR2", "WINCH"):
            consequence = "ignoring"
        elif name in ("USR2", "WINCH") and not self._background:
            consequence = _IN_FRONT
        elif name == "USR2" and (self._predecessor or self._successor):
            consequence = "ignoring"
        actions: list[Action] = [Log(NOTICE, f"signal {_NUMBERS[name]} (SIG{name}) received, {consequence}")]
        if name in ("TERM", "INT"):
            self._stopping = "TERM"
            actions += self._end(list(self._children.values()), "TERM", now)
            actions += self._settle(0)
        elif name == "QUIT" and not self._stopping:
            self._stopping = "QUIT"
            actions += self._leave(list(self._children.values()), now)
            actions += [Deafen(), *self._settle(0)]
        elif name == "HUP" and not self._stopping:
            # The other master has the pid file and the configuration: this one comes back with what it had.
            again = self._resting and self._successor
            actions += [Renew()] if again else [Log(NOTICE, "reconfiguring"), Load()]
        elif name == "USR1":
            actions += [Log(NOTICE, "reopening logs"), Reopen()]
            actions += [Signal(pid, "USR1") for pid in self._children]
        elif name == "WINCH" and consequence == _CONSEQUENCES[name]:
            self._resting = True
            for generation in self._generations.values():
                for place in generation.slots.values():
                    place.spawn_at = None
            actions += self._leave(list(self._children.values()), now)
        elif name == "USR2" and consequence == _CONSEQUENCES[name]:
            actions += [Log(NOTICE, "changing binary"), Upgrade()]
        elif name == "USR2" and (self._predecessor or self._successor):
            actions.append(Log(CRIT, _TWO_ALREADY))
        return actions

    def tick(self, now: float) -> list[Action]:
        """Time went by: what is due is done."""
        actions: list[Action] = []
        for child in list(self._children.values()):
            if child.kill_at is not None and child.kill_at <= now:
                child.kill_at = now + TERM_GRACE
                actions.append(Signal(child.pid, "KILL"))
        if self._stopping or self._resting:
            return actions
        for number, generation in self._generations.items():
            if generation.retired:
                continue
            for (kind, slot), place in generation.slots.items():
                if place.spawn_at is not None and place.spawn_at <= now:
                    place.spawn_at = None
                    actions.append(Spawn(kind, slot, number, place.seat))
        return actions

    def deadline(self) -> float | None:
        """The moment at which `tick` has something to do; None: never, unless another event comes first. `watched` has
        to be asked every LOOK seconds besides."""
        moments = [child.kill_at for child in self._children.values() if child.kill_at is not None]
        if not self._stopping and not self._resting:
            for generation in self._generations.values():
                if not generation.retired:
                    moments += [p.spawn_at for p in generation.slots.values() if p.spawn_at is not None]
        return min(moments, default=None)

    def _patience_with(self, child: _Child) -> float:
        """After how many looks in vain it is taken for stuck."""
        if child.kind == "worker":
            return self._generations[child.generation].patience / LOOK
        return PATIENCE if child.ready else START_PATIENCE

    def _predecessors(self, child: _Child) -> list[_Child]:
        """The others in the slot of `child`."""
        place = (child.kind, child.slot, child.generation)
        return [
            one
            for one in self._children.values()
            if child.kind == "worker" and (one.kind, one.slot, one.generation) == place and one.pid != child.pid
        ]

    def _alone_again(self, code: int | None, signal: int | None) -> list[Action]:
        """The other master has ended before this one: this one serves again."""
        how = f"with code {code}" if signal is None else f"on signal {signal}"
        level = NOTICE if code == 0 else ALERT
        actions: list[Action] = [Log(level, f"new binary process {self._successor} exited {how}"), Restore()]
        self._successor = 0
        if self._resting and not self._stopping:
            actions.append(Renew())
        return actions

    def _hand_over(self, number: int, now: float) -> list[Action]:
        """Let generation `number` serve once all its workers are ready, and the older ones leave."""
        generation = self._generations[number]
        if self._stopping or self._resting or generation.retired or number <= self._serving:
            return []
        ready = sum(c.ready for c in self._children.values() if c.generation == number and c.kind == "worker")
        if generation.hopeless or ready < generation.awaited:
            return []
        self._serving = number
        actions: list[Action] = [Serve(number)]
        for older in [n for n in self._generations if n < number]:
            self._generations[older].retired = True
            actions += self._leave([c for c in self._children.values() if c.generation == older], now)
            actions += self._settle(older)
        return actions

    def _give_up(self, number: int, now: float) -> list[Action]:
        """A worker of generation `number` cannot start: one that does not serve yet goes, if there is another one that
        serves or may; one that serves thins out."""
        generation = self._generations[number]
        others = [n for n, one in self._generations.items() if n != number and not one.retired and not one.hopeless]
        if number > self._serving and others:
            generation.retired = True
            older = min(others) < number
            text = f"the {'new' if older else 'old'} configuration could not be started, "
            if any(c.generation in others and c.kind == "worker" and not c.leaving for c in self._children.values()):
                text += "the old one goes on" if older else "the new one follows"
            else:
                text += "nobody serves until a reload can be"  # WINCH has sent the old ones away
            actions: list[Action] = [Log(EMERG, text)]
            actions += [Serve(self._serving)] if self._serving else []
            actions += self._end([c for c in self._children.values() if c.generation == number], "TERM", now)
            return actions + self._settle(number)
        if generation.hopeless and not others:
            self._stopping = "FATAL"
            actions = [Log(EMERG, "no worker process could be started, exiting")]
            actions += self._end(list(self._children.values()), "TERM", now)
            return actions + self._settle(0)
        return self._hand_over(number, now)

    def _leave(self, children: list[_Child], now: float) -> list[Action]:
        """Ask workers to end gracefully; their checker, which holds no exchange, ends at once."""
        actions: list[Action] = []
        for child in children:
            if child.kind == "checker":
                actions += self._end([child], "TERM", now)
            elif not child.leaving:
                child.leaving = True
                timeout = self._generations[child.generation].shutdown_timeout
                child.kill_at = now + timeout + TIMEOUT_GRACE if timeout else None
                actions.append(Signal(child.pid, "QUIT"))
        return actions

    def _end(self, children: list[_Child], signal: str, now: float) -> list[Action]:
        actions: list[Action] = []
        for child in children:
            child.leaving = True
            child.look_at = None
            child.kill_at = min(now + TERM_GRACE, child.kill_at if child.kill_at is not None else now + TERM_GRACE)
            actions.append(Signal(child.pid, signal))
        return actions

    def _settle(self, number: int) -> list[Action]:
        """Say what has come to its end: generation `number` without a child, the master without any."""
        actions: list[Action] = []
        if number and self._generations[number].retired and not self._alive(number):
            del self._generations[number]
            actions.append(Forget(number))
        if self._stopping and not self._children:
            actions.append(Exit(1 if self._stopping == "FATAL" else 0))
        return actions

    def _alive(self, number: int) -> bool:
        return any(child.generation == number for child in self._children.values())


def _wait(quick_deaths: int) -> float:
    """Seconds before a slot is filled again after so many quick deaths in a row."""
    return 0.0 if quick_deaths < 2 else min(LAST_WAIT, FIRST_WAIT * 2.0 ** (quick_deaths - 2))


def _obituary(child: _Child, code: int | None, signal: int | None) -> Log:
    if signal is not None:
        return Log(ALERT, f"{TITLES[child.kind]} {child.pid} exited on signal {signal}")
    return Log(NOTICE, f"{TITLES[child.kind]} {child.pid} exited with code {code}")
