"""The course of every check but lua-resty's: each target has its own times, so that thousands never march in step.

The first probe is made at once; the second falls due after a random part of the interval, and from then on they follow
each other by the interval (and a random part of `jitter`). Random times are multiples of a grain, so that where there
are many probes some hundreds are due together: what the processor has at hand for one does for the next, and a probe
among hundreds costs half of what it costs alone. Between up and down `fast_interval` holds, while down `down_interval`.
How many may be probed at once is the gate's business (`gate.py`). Pure: no socket, no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from upwell.check.spec import CheckSpec
from upwell.check.target import Target
from upwell.peers.health import Thresholds

_SOON: Final = 1.0  # seconds: a suspected target is not probed more often than this, unless its check says so itself

_GRAIN: Final = 0.1  # seconds between two times that chance can choose, or a tenth of the interval, whatever is less
_BUSY: Final = 100  # probes a second of one check, from which on these times lie
_TOGETHER: Final = 250  # so many probes apart, but half the interval at most
_DEAR: Final = frozenset(("https", "tls", "grpc", "exec", "python"))
_DEAR_TOGETHER: Final = 10  # of these: a handshake costs as much as dozens of other probes, and those behind it wait
_SHIFT: Final = 0.02  # seconds; the times of different checks lie some of these apart


class Rota:
    """`timetable` takes a time and a target, to have it probed then; a later word of an earlier time counts."""

    __slots__ = (
        "_down",
        "_fast",
        "_fresh",
        "_grain",
        "_interval",
        "_jitter",
        "_laid",
        "_offset",
        "_random",
        "_soon",
        "_spread",
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
        self._grain = self._spread = 0.0
        self._laid = 0
        self._lay(len(targets))
        self._offset = _SHIFT * random.randrange(max(int(self._spread / _SHIFT), 1))
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
            # The same times for all targets, whenever each of them began.
            spread = min(self._spread, period) or self._spread
            slot = 1 + int(self._random.random() * max(round(period / spread), 1))
            due = ((now - self._offset) // spread + slot) * spread + self._offset
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
        if 4 * len(self.targets) > 5 * self._laid:
            self._lay(len(self.targets))
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

    def _lay(self, count: int) -> None:
        """How far the times that chance can choose lie apart, for `count` targets."""
        self._laid = count
        interval = self.spec.interval
        self._grain = self._spread = min(_GRAIN, interval / 10) or _GRAIN
        if count > _BUSY * interval > 0:
            together = _DEAR_TOGETHER if self.spec.type in _DEAR else _TOGETHER
            self._spread = min(together * interval / count, interval / 2)
            self._grain = min(self._grain, self._spread)

    def _place(self, due: float, target: Target) -> None:
        target.due = due
        self._timetable(due, target)
