"""The course of every check but lua-resty's: each target has its own times, so that thousands never march in step.

The first probe is made at once; the second falls due after a random part of the interval, and from then on they follow
each other by the interval (and a random part of `jitter`). Random times are multiples of some milliseconds, so that
several of thousands are due together: one look at the clock and at what was answered does for all of them. Between up
and down `fast_interval` holds, while down `down_interval`. How many may be probed at once is the gate's business
(`gate.py`). Pure: no socket, no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from upwell.check.spec import CheckSpec
from upwell.check.target import Target
from upwell.peers.health import Thresholds

_SOON: Final = 1.0  # seconds: a suspected target is not probed more often than this, unless its check says so itself


_GRAIN: Final = 0.02  # seconds between two times that chance can choose, or a tenth of the interval, whatever is less
_COARSE: Final = 5  # times as many for no more than _CALM probes a second; checks differ in where these times lie
_CALM: Final = 1000


class Rota:
    """`timetable` takes a time and a target, to have it probed then; a later word of an earlier time counts."""

    __slots__ = (
        "_down",
        "_fast",
        "_fresh",
        "_grain",
        "_interval",
        "_jitter",
        "_offset",
        "_random",
        "_soon",
        "_timetable",
        "changed",
        "spec",
        "targets",
        "thresholds",
    )

    def __init__(
        self, spec: CheckSpec, targets: Sequence[Target], timetable: Callable[[float, Target], None], random: Random
    ) -> None:
        self.spec = spec
        self.thresholds = Thresholds(spec.rise, spec.fall)
        self.targets: list[Target] = list(targets)
        self.changed = False
        self._interval = spec.interval
        self._jitter = max(spec.jitter, 0.0)
        calm = len(targets) <= _CALM * spec.interval
        self._grain = min(_GRAIN * _COARSE if calm else _GRAIN, spec.interval / 10) or _GRAIN
        self._offset = _GRAIN * random.randrange(_COARSE) if calm else 0.0
        self._fast = spec.fast_interval or spec.interval
        self._down = spec.down_interval or spec.interval
        self._soon = spec.fast_interval or min(spec.interval, _SOON)
        self._timetable = timetable
        self._random = random
        self._fresh = set(targets) if spec.jitter < 0 else set()
        for target in targets:
            target.course = self

    def __repr__(self) -> str:
        return f"<Rota {self.spec.type} of {self.spec.upstream}>"

    @property
    def period(self) -> float:
        return self.spec.interval + max(self.spec.jitter, 0.0) + self.spec.timeout

    def begin(self, now: float) -> None:
        for target in self.targets:
            self._place(now, target)

    def following(self, due: float) -> float:
        return 0.0 if self._jitter or self._fresh else due + self._interval

    def over(self, target: Target, health: int, now: float) -> None:
        thresholds = self.thresholds
        if health >= thresholds.top:
            period = self._soon if target.suspected else self._interval
        elif health <= 0:
            period = self._down
        else:
            period = self._fast
        if self._fresh and target in self._fresh:
            self._fresh.discard(target)
            # The same times for all checks, whenever each of them began.
            due = (
                target.due + period * self._random.random()
            ) // self._grain * self._grain + self._offset % self._grain
        else:
            # From the time that was meant, so that intervals do not grow by what a probe takes; never several at once.
            due = target.due + period
            if self._jitter:
                due += min(
                    self._random.random() * (self._jitter + self._grain) // self._grain * self._grain, self._jitter
                )
        if due <= now:
            # A probe that began late is one of many: if all of them were made now, and so from now on, they would be
            # late again and again. One that only took long is repeated at once.
            late = target.started - target.due > period / 2
            due = due + period * ((now - due) // period + 1) if late else now
        target.due = due
        self._timetable(due, target)

    def join(self, target: Target, backup: bool, now: float) -> None:
        target.course = self
        self.targets.append(target)
        if self.spec.jitter < 0:
            self._fresh.add(target)
        self._place(now, target)

    def leave(self, target: Target) -> None:
        self.targets.remove(target)
        self._fresh.discard(target)

    def left(self, target: Target) -> None: ...

    def suspect(self, target: Target, now: float) -> None:
        soon = target.started + self._soon
        if not target.probing and soon < target.due:
            self._place(max(now, soon), target)

    def _place(self, due: float, target: Target) -> None:
        target.due = due
        self._timetable(due, target)
