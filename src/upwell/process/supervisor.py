"""What the master does when something happens: events in, actions out.

Knows children, generations and nginx's signals. Must not know how a process is made, a signal sent, a file opened or
what time it is: `now` (seconds of any monotonic clock) is an argument, actions are data that `master` carries out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from upwell.log import ALERT, EMERG, NOTICE

Kind = Literal["worker", "checker"]

TITLES: dict[Kind, str] = {"worker": "worker process", "checker": "checker process"}

FATAL = 2
"""The exit code of a child that cannot start and would fail again (nginx's code for it)."""

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
"""Seconds between two looks at a checker's heartbeat."""

PATIENCE = 10
START_PATIENCE = 60
"""After how many looks in a row that found the same beat a checker is taken for stuck; the second is for one that has
not said "started". Looks are counted, not seconds: where all processes stood still (or the master alone was late), a
single late look finds out, and the checker has its chance before the next one."""

_NUMBERS = {"HUP": 1, "INT": 2, "QUIT": 3, "USR1": 10, "USR2": 12, "TERM": 15, "WINCH": 28}
_CONSEQUENCES = {
    "HUP": "reconfiguring",
    "INT": "exiting",
    "QUIT": "shutting down",
    "TERM": "exiting",
    "USR1": "reopening logs",
    "USR2": "ignoring: upwell cannot hand over to a new binary yet",
    "WINCH": "ignoring: upwell cannot stop its workers alone yet",
}


@dataclass(frozen=True, slots=True)
class Spawn:
    """Make a process of `kind` for `slot` (0..workers-1; a checker's is 0) of `generation`."""

    kind: Kind
    slot: int
    generation: int


@dataclass(frozen=True, slots=True)
class Signal:
    """Send `signal` ("TERM", "QUIT", "KILL", "USR1") to the child `pid`."""

    pid: int
    signal: str


@dataclass(frozen=True, slots=True)
class Load:
    """Read the configuration again and answer with `loaded` or `failed`."""


@dataclass(frozen=True, slots=True)
class Serve:
    """`generation` serves from now on: listeners that it does not use are closed, its pid file is the one."""

    generation: int


@dataclass(frozen=True, slots=True)
class Forget:
    """The last process of `generation` is gone: its zone, control sockets and logs can go."""

    generation: int


@dataclass(frozen=True, slots=True)
class Reopen:
    """Open the log files anew (before the workers are told to: they may not be allowed to create them)."""


@dataclass(frozen=True, slots=True)
class Log:
    """Write `message` to the error log at `level`."""

    level: int
    message: str


@dataclass(frozen=True, slots=True)
class Deafen:
    """Close all listeners: what connects from now on is refused instead of waiting for nobody."""


@dataclass(frozen=True, slots=True)
class Exit:
    """Nothing is left to look after: remove the pid file and end with `code`."""

    code: int


Action = Spawn | Signal | Load | Serve | Forget | Reopen | Log | Deafen | Exit


@dataclass(slots=True)
class _Child:
    pid: int
    kind: Kind
    slot: int
    generation: int
    since: float
    ready: bool = False
    leaving: bool = False
    kill_at: float | None = None
    look_at: float | None = None
    beat: int = 0
    silent: int = 0


@dataclass(slots=True)
class _Slot:
    """One place to be filled: who is in it, how many quick deaths in a row it saw, when it is filled again."""

    quick_deaths: int = 0
    spawn_at: float | None = None
    pid: int | None = None
    given_up: bool = False


@dataclass(slots=True)
class _Generation:
    workers: int
    shutdown_timeout: float
    slots: dict[tuple[Kind, int], _Slot]
    retired: bool = False


class Supervisor:
    """The master's policy. Every event returns the actions that it asks for, in the order to carry them out.

    A generation is what one reading of the configuration made: its workers (slots 0..n-1) and one checker. The newest
    generation whose workers were all ready serves; older ones get QUIT at that moment, their checker TERM.
    """

    __slots__ = ("_children", "_generations", "_newest", "_serving", "_stopping")

    def __init__(self) -> None:
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

    def loaded(self, workers: int, shutdown_timeout: float, now: float) -> list[Action]:
        """A configuration was read and its listeners are open: a new generation of `workers` processes begins.

        `shutdown_timeout` is `worker_shutdown_timeout` in seconds, 0 for none. Its number is one more than the last.
        """
        self._newest += 1
        slots: dict[tuple[Kind, int], _Slot] = {("checker", 0): _Slot()}
        slots.update({("worker", slot): _Slot() for slot in range(workers)})
        self._generations[self._newest] = _Generation(workers, shutdown_timeout, slots)
        actions: list[Action] = [Log(NOTICE, "start worker processes")]
        actions += [Spawn(kind, slot, self._newest) for kind, slot in slots]
        return actions

    def failed(self) -> list[Action]:
        """The configuration could not be used: whatever serves goes on serving."""
        return []

    def spawned(self, pid: int, kind: Kind, slot: int, generation: int, now: float) -> list[Action]:
        """The child asked for by `Spawn` runs as `pid`."""
        child = self._children[pid] = _Child(pid, kind, slot, generation, now)
        if kind == "checker":
            child.look_at = now + LOOK
        place = self._generations[generation].slots[kind, slot]
        place.pid = pid
        place.spawn_at = None
        return [Log(NOTICE, f"start {TITLES[kind]} {pid}")]

    def not_spawned(self, kind: Kind, slot: int, generation: int, now: float) -> list[Action]:
        """The process could not be made (out of memory, out of processes): tried again after a wait."""
        place = self._generations[generation].slots[kind, slot]
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
        return self._hand_over(child.generation, now)

    def is_checker(self, pid: int) -> bool:
        child = self._children.get(pid)
        return child is not None and child.kind == "checker"

    def exited(self, pid: int, code: int | None, signal: int | None, now: float) -> list[Action]:
        """The child ended, with exit `code` or by `signal` (the other one None)."""
        child = self._children.pop(pid, None)
        if child is None:
            return []
        actions: list[Action] = [_obituary(child, code, signal)]
        place = self._generations[child.generation].slots[child.kind, child.slot]
        if place.pid == pid:  # else its successor is there already
            place.pid = None
        if self._stopping or child.leaving or self._generations[child.generation].retired:
            return actions + self._settle(child.generation)
        if code == FATAL and child.kind == "worker":
            place.given_up = True
            text = f"{TITLES[child.kind]} {pid} exited with fatal code {code} and cannot be respawned"
            actions.append(Log(ALERT, text))
            return actions + self._give_up(child.generation, now)
        place.quick_deaths = place.quick_deaths + 1 if now - child.since < QUICK else 0
        wait = _wait(place.quick_deaths)
        if wait:
            place.spawn_at = now + wait
            return actions
        return [*actions, Spawn(child.kind, child.slot, child.generation)]

    def heard(self, generation: int, beat: int, now: float) -> list[Action]:
        """The last beat of the checker of `generation` is `beat` (any number that changes as long as it is well).

        A checker that is stuck is killed, and replaced without waiting for its end: a process
        that hangs in the system may not end for a long time, but none runs a step further once it is killed.
        """
        child = self._checker(generation)
        if child is None or child.look_at is None or child.look_at > now:
            return []
        child.look_at = now + LOOK
        child.silent = child.silent + 1 if beat == child.beat else 0
        child.beat = beat
        if child.silent < (PATIENCE if child.ready else START_PATIENCE):
            return []
        child.look_at = None
        child.leaving = True
        pid = child.pid
        words = f"has given no sign of life for {child.silent * LOOK:.0f} seconds or more, it is killed and replaced"
        return [
            Log(ALERT, f"{TITLES[child.kind]} {pid} {words}"),
            Signal(pid, "KILL"),
            Spawn(child.kind, child.slot, generation),
        ]

    def signalled(self, name: str, now: float) -> list[Action]:
        """The master got the signal `name` ("HUP", "TERM", "INT", "QUIT", "USR1", "USR2", "WINCH")."""
        consequence = _CONSEQUENCES[name]
        if name == "HUP" and self._stopping:
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
            actions += [Log(NOTICE, "reconfiguring"), Load()]
        elif name == "USR1":
            actions += [Log(NOTICE, "reopening logs"), Reopen()]
            actions += [Signal(pid, "USR1") for pid in self._children]
        return actions

    def tick(self, now: float) -> list[Action]:
        """Time went by: what is due is done."""
        actions: list[Action] = []
        for child in list(self._children.values()):
            if child.kill_at is not None and child.kill_at <= now:
                child.kill_at = now + TERM_GRACE
                actions.append(Signal(child.pid, "KILL"))
        if self._stopping:
            return actions
        for number, generation in self._generations.items():
            if generation.retired:
                continue
            for (kind, slot), place in generation.slots.items():
                if place.spawn_at is not None and place.spawn_at <= now:
                    place.spawn_at = None
                    actions.append(Spawn(kind, slot, number))
        return actions

    def deadline(self) -> float | None:
        """The moment at which `tick` has something to do; None: never, unless another event comes first. `heard` has to
        be told every LOOK seconds besides."""
        moments = [child.kill_at for child in self._children.values() if child.kill_at is not None]
        if not self._stopping:
            for generation in self._generations.values():
                if not generation.retired:
                    moments += [p.spawn_at for p in generation.slots.values() if p.spawn_at is not None]
        return min(moments, default=None)

    def _checker(self, number: int) -> _Child | None:
        """The checker of generation `number`, while one is wanted and there."""
        generation = self._generations.get(number)
        if self._stopping or generation is None or generation.retired:
            return None
        pid = generation.slots["checker", 0].pid
        return None if pid is None else self._children.get(pid)

    def _hand_over(self, number: int, now: float) -> list[Action]:
        """Let generation `number` serve once all its workers are ready, and the older ones leave."""
        generation = self._generations[number]
        if self._stopping or generation.retired or number <= self._serving:
            return []
        ready = sum(c.ready for c in self._children.values() if c.generation == number and c.kind == "worker")
        if ready < generation.workers:
            return []
        self._serving = number
        actions: list[Action] = [Serve(number)]
        for older in [n for n in self._generations if n < number]:
            self._generations[older].retired = True
            actions += self._leave([c for c in self._children.values() if c.generation == older], now)
            actions += self._settle(older)
        return actions

    def _give_up(self, number: int, now: float) -> list[Action]:
        """A worker of generation `number` cannot start: an unserving generation goes, a serving one thins out."""
        generation = self._generations[number]
        if number > self._serving and self._serving:
            generation.retired = True
            text = "the new configuration could not be started, the old one goes on"
            actions: list[Action] = [Log(EMERG, text), Serve(self._serving)]
            actions += self._end([c for c in self._children.values() if c.generation == number], "TERM", now)
            return actions + self._settle(number)
        if all(place.given_up for (kind, _), place in generation.slots.items() if kind == "worker"):
            self._stopping = "FATAL"
            actions = [Log(EMERG, "no worker process could be started, exiting")]
            actions += self._end(list(self._children.values()), "TERM", now)
            return actions + self._settle(0)
        return []

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
