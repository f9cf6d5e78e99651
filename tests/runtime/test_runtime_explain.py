"""What `upwell explain` promises of time is what the checks keep; and how it names times and numbers."""

from __future__ import annotations

from random import Random
from typing import cast

import pytest

from upwell.check.rota import Rota
from upwell.check.spec import PLUS, CheckSpec
from upwell.check.target import Target
from upwell.runtime.explain import count_of, detection, recovery, time_of


class _Target:
    """Of a target, what a rota looks at."""

    def __init__(self) -> None:
        self.due = self.started = 0.0
        self.suspected = self.probing = False
        self.course: object = None


def _turns(spec: CheckSpec, random: Random) -> tuple[float, float]:
    """How long after its death a peer was turned down, and after its return up again, for one course of events."""
    target = _Target()
    due: list[float] = []
    rota = Rota(spec, [cast(Target, target)], lambda at, _: due.append(at), random)
    rota.begin(0.0)
    dies = spec.interval * (3 + random.random() * 3)
    returns = dies + detection(spec) + spec.interval * (1 + random.random() * 5) + spec.timeout
    health, now = rota.thresholds.initial(True), 0.0
    down = up = -1.0
    while up < 0:
        now = max(now, due.pop())
        target.started = now
        lives = now < dies or now >= returns
        # A peer that is dead says nothing until the time is up; one that lives answers at once.
        now += 0.0 if lives else spec.timeout
        health, _ = rota.thresholds.observe(health, lives)
        if down < 0 and not rota.thresholds.is_up(health):
            down = now
        if down >= 0 and now >= returns and rota.thresholds.is_up(health):
            up = now
        rota.over(cast(Target, target), health, now)
    return down - dies, up - returns


@pytest.mark.pure_only(reason="a compiled course takes no stand-in for a target")
@pytest.mark.parametrize("seed", range(40))
def test_a_peer_is_never_longer_in_use_than_explained(seed: int) -> None:
    random = Random(seed)
    worst_down = worst_up = 0.0
    spec = CheckSpec(
        "app",
        dialect=PLUS,
        interval=random.choice([0.5, 1.0, 5.0]),
        timeout=random.choice([0.1, 1.0, 7.0]),
        fall=random.randint(1, 4),
        rise=random.randint(1, 3),
        jitter=random.choice([-1.0, 0.0, 0.5]),
        fast_interval=random.choice([0.0, 0.2]),
        down_interval=random.choice([0.0, 0.3, 9.0]),
    )
    for _ in range(300):
        down, up = _turns(spec, random)
        worst_down, worst_up = max(worst_down, down), max(worst_up, up)
    assert worst_down <= detection(spec) + 1e-9
    assert worst_up <= recovery(spec) + 1e-9
    # and not much less, or the promise would be worth little
    assert worst_down > 0.75 * detection(spec) - 0.5 * (max(spec.jitter, 0) * spec.fall)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0005, "0.5 ms"),
        (0.25, "250 ms"),
        (1.0, "1 s"),
        (2.5, "2.5 s"),
        (90.0, "90 s"),
        (3600.0, "1 h"),
        (86400.0, "1 d"),
    ],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert time_of(seconds) == words


def test_numbers_in_words() -> None:
    assert [count_of(1, "pass"), count_of(2, "pass"), count_of(3, "peer")] == ["1 pass", "2 passes", "3 peers"]
