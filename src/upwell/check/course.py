"""What a course is: order and times in which the targets of one check are probed. No socket, no zone, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from upwell.check.spec import CheckSpec
from upwell.peers.health import Thresholds

if TYPE_CHECKING:
    from upwell.check.target import Target


class Course(Protocol):
    """One CheckSpec at work. There are two: lua-resty's cycles (`cycle.py`), and the rota of all others (`rota.py`).

    `changed` says that a transition has happened which the course has not told anybody yet.
    """

    spec: CheckSpec
    thresholds: Thresholds
    changed: bool

    @property
    def targets(self) -> Sequence[Target]:
        """All its targets, primaries first."""
        ...

    @property
    def period(self) -> float:
        """How long it takes at most until each target was probed once, in seconds."""
        ...

    def begin(self, now: float) -> None:
        """The check is new: have the first probes made at once."""
        ...

    def following(self, due: float) -> float:
        """When a target that is due at `due` will be due again if its probe passes in time as the ones before, so that
        `over` need not be asked; 0.0: that is not known."""
        ...

    def over(self, target: Target, health: int, now: float) -> None:
        """The probe of `target` is over (or void); `health` is the word after it."""
        ...

    def join(self, target: Target, backup: bool, now: float) -> None:
        """A peer joined: have its first probe made at once, or when its turn comes."""
        ...

    def leave(self, target: Target) -> None:
        """A peer left; a probe of it may be under way, whose end is told by `left`."""
        ...

    def left(self, target: Target) -> None:
        """What was under way at a peer that left is over."""
        ...

    def suspect(self, target: Target, now: float) -> None:
        """Requests at `target` failed: find out soon."""
        ...


class Starter(Protocol):
    """What a course asks of the checker."""

    def start(self, target: Target) -> bool:
        """Begin one probe; false when it is already over (`over` is not called then)."""
        ...
