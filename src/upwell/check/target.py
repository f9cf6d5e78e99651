"""One peer under one check, as the checker's loop sees it, whatever way it is probed. It knows no health and no log.

A target has at most one probe at a time. Each step is answered with a verdict or None (not yet). What it waits for are
descriptors in the loop's epoll: it enters itself in `targets` under each, and takes itself out when it closes them.
"""

from __future__ import annotations

from collections.abc import Callable
from select import epoll
from typing import TYPE_CHECKING, Final

from upwell.check.probe import Verdict
from upwell.check.spec import DEFAULT_TIMEOUT, RESTY, CheckSpec
from upwell.peers.peer import PeerSpec

if TYPE_CHECKING:
    from upwell.check.course import Course
    from upwell.check.gate import Gate


class NoSocket(Exception):
    """The system gave no socket, process or thread, or could not use it; this says nothing about the peer. `word` says
    why, `doing` what failed."""

    def __init__(self, word: str, doing: str = "create stream socket") -> None:
        super().__init__(word)
        self.word = word
        self.doing = doing


IDLE: Final = 0
RESTING: Final = 1
LINGERING: Final = 2
CONNECTING: Final = 3
TALKING: Final = 4
"""Where a target stands: nothing goes on; something is kept for the next probe; the verdict is given, but it is not
over; a verdict is still to come, from LINGERING on there is a deadline."""


class Place:
    """Where a target's state is: the peer's row in the zone, the first word of its check slot, and of its record.

    `recent` is how many passes were noted there in short (zone/layout.py: RECENT_*), `turn` the place of the next one's
    time among the last, and `status` the one that such a pass has.
    """

    __slots__ = ("at", "recent", "record", "row", "status", "turn")

    def __init__(self, row: int, at: int, record: int) -> None:
        self.row = row
        self.at = at
        self.record = record
        self.recent = 0
        self.turn = 0
        self.status = 0


MOST_KEPT: Final = 1 << 19


class Loop:
    """What a target needs of the loop it lives in; `connections` says how many are in use at the peer of a row. `kept`
    connections are held open from one probe to the next, `most_kept` at most.

    `spawns`: processes are started from here. Each has all descriptors until its program begins, so epoll goes on
    telling of one that was closed here in the meantime, by a number that may be another's then: while `spawns`, take a
    descriptor out of epoll before it is closed.
    """

    __slots__ = ("connections", "epoll", "kept", "most_kept", "spawns", "targets")

    def __init__(self, connections: Callable[[int], int] = lambda row: 0, most_kept: int = MOST_KEPT) -> None:
        self.epoll = epoll()
        self.targets: dict[int, Target] = {}
        self.connections = connections
        self.spawns = False
        self.kept = 0
        self.most_kept = most_kept


class Target:
    """The base of everything that can be probed; `timeout` is in seconds, of one operation or (`whole`) of a probe.

    While `busy`, `deadline` says when the present operation has taken too long; the owner then calls `expire`.
    `started` is when the present or last probe began, `due` when the next one shall; `at` (the time in its timetable
    that counts), `queued`, `suspected` (when requests last failed at the peer since it passed, 0.0: they did not),
    `slow` (the last probe timed out), `well` (one more pass changes nothing and nobody waits for it), `lagged`
    (how late the owner had been in all when this probe began), `not_before` (when it may be probed next), `waiting`
    (for its turn), `gone` (its peer left), `gates` (what it needs a place of before it is probed) and `course` belong
    to the owner.
    """

    __slots__ = (
        "at",
        "course",
        "deadline",
        "due",
        "gates",
        "gone",
        "lagged",
        "loop",
        "name",
        "not_before",
        "place",
        "queued",
        "slow",
        "stage",
        "started",
        "suspected",
        "timeout",
        "waiting",
        "well",
        "whole",
    )

    course: Course

    def __init__(self, spec: CheckSpec, peer: PeerSpec, place: Place, loop: Loop) -> None:
        self.name = peer.name
        self.timeout = spec.timeout if spec.timeout > 0 else DEFAULT_TIMEOUT
        self.whole = spec.dialect != RESTY
        self.place = place
        self.loop = loop
        self.stage = IDLE
        self.deadline = 0.0
        self.due = 0.0
        self.at = 0.0
        self.started = 0.0
        self.queued = False
        self.suspected = 0.0
        self.slow = False
        self.well = False
        self.lagged = 0.0
        self.not_before = 0.0
        self.waiting = False
        self.gone = False
        self.gates: tuple[Gate, ...] = ()

    @property
    def busy(self) -> bool:
        """Whether something is going on that can take too long, be it only letting the peer finish."""
        return self.stage >= LINGERING

    @property
    def probing(self) -> bool:
        """Whether a verdict is still to come."""
        return self.stage >= CONNECTING

    def hears(self, now: float) -> bool:
        """Whether the peer still sends what belongs to the last probe, and has time for it. To be asked when the next
        one is due: who has said nothing more since it was asked before is not waited for."""
        return False

    def start(self, now: float) -> Verdict | None:
        """Begin a probe. Raises NoSocket, with `started` set and nothing begun."""
        raise NotImplementedError

    def ready(self, fd: int, events: int, now: float) -> Verdict | None:
        """epoll reported `events` for this target's descriptor `fd`. Raises NoSocket, with nothing left."""
        raise NotImplementedError

    def expire(self, now: float) -> Verdict | None:
        """`deadline` has passed."""
        raise NotImplementedError

    def broken(self, error: Exception, now: float) -> Verdict | None:
        """`start` or `ready` raised `error`: the failure of this probe, or None if its verdict was given before."""
        raise NotImplementedError

    def close(self) -> None:
        """Give up whatever is going on, and let go of everything; it waits for nobody. What needs a while to be gone (a
        killed process) stays in the loop's `targets` until it is."""
        raise NotImplementedError


def timed_out(timeout: float, doing: str) -> str:
    """A time-out in words for people: "timeout after 1.0 s reading the status line"."""
    return f"timeout after {timeout:.1f} s {doing}" if timeout >= 1 else f"timeout after {timeout:g} s {doing}"
