"""When the targets of a check are probed: at once, spread, faster in trouble, slower when down; how many at once."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from upwell.check.gate import Gate
from upwell.check.rota import Rota
from upwell.check.spec import PLUS, CheckSpec
from upwell.check.target import TALKING, Loop, Place, Target
from upwell.peers.peer import PeerSpec


def silent(spec: CheckSpec, number: int, loop: Loop) -> Target:
    """One that nothing is done with."""
    return Target(spec, PeerSpec(f"127.0.0.1:{number}", ("127.0.0.1", number)), Place(number, 0, 0), loop)


def rota(count: int = 1, **changes: object) -> tuple[Rota, list[Target], list[tuple[float, Target]]]:
    settings: dict[str, object] = {"interval": 10.0, "rise": 2, "fall": 3, "dialect": PLUS} | changes
    spec = CheckSpec("u", **settings)  # type: ignore[arg-type]  # a test's shorthand
    loop = Loop()
    targets: list[Target] = [silent(spec, number, loop) for number in range(count)]
    told: list[tuple[float, Target]] = []
    return Rota(spec, targets, lambda due, target: told.append((due, target)), Random(7)), targets, told


def test_all_are_probed_at_once_and_then_spread() -> None:
    course, targets, told = rota(1000)
    course.begin(100.0)
    assert [due for due, _ in told] == [100.0] * 1000
    told.clear()
    for target in targets:
        course.over(target, 4, 100.1)
    dues = sorted(due - 100.0 for due, _ in told)
    assert dues[0] >= 0.09
    assert dues[-1] <= 10.1
    tenths = [sum(step <= due < step + 1 for due in dues) for step in range(10)]
    assert min(tenths) > 60


def test_where_many_are_probed_some_hundreds_are_due_together() -> None:
    for count, interval, slots in ((500, 1.0, 2), (250, 1.0, 2), (10_000, 1.0, 40), (2_000, 2.0, 8), (50, 1.0, 10)):
        course, targets, told = rota(count, interval=interval)
        course.begin(100.0)
        told.clear()
        for target in targets:
            course.over(target, 4, 100.01)
        dues = [due for due, _ in told]
        assert min(dues) > 100.01
        assert max(dues) <= 100.01 + interval + 1e-6
        assert len({round(due, 6) for due in dues}) == slots
        most = max(dues.count(due) for due in set(dues))
        assert most < 1.5 * count / slots + 10


def most_together(course: Rota, targets: list[Target], told: list[tuple[float, Target]], turns: int = 1) -> int:
    """How many of them are due at one time after so many probes of each."""
    for _ in range(turns):
        told.clear()
        for target in targets:
            course.over(target, 4, target.due + 0.01)
    dues = [round(due, 4) for due, _ in told]
    return max(dues.count(due) for due in set(dues))


def test_where_a_probe_is_dear_few_are_due_together() -> None:
    for kind in ("https", "tls", "grpc"):
        course, targets, told = rota(300, interval=2.0, type=kind)
        course.begin(100.0)
        assert most_together(course, targets, told) < 30


def test_those_that_join_later_are_as_far_apart_as_if_they_had_been_there() -> None:
    course, _, told = rota(1, interval=1.0)
    course.begin(100.0)
    loop = Loop()
    targets = [silent(course.spec, number, loop) for number in range(1, 4000)]
    for target in targets:
        course.join(target, False, 100.0)
    assert most_together(course, targets, told) < 400


def test_jitter_is_as_fine_as_many_probes_need() -> None:
    course, targets, told = rota(10_000, interval=1.0, jitter=0.5)
    course.begin(100.0)
    assert most_together(course, targets, told, 8) < 400


def test_a_first_failure_is_looked_into_as_fast_as_was_asked_for_where_many_are_probed_too() -> None:
    course, targets, told = rota(400, interval=1.0, fast_interval=0.05)
    course.begin(100.0)
    told.clear()
    for target in targets:
        course.over(target, 2, 100.01)
    assert max(due for due, _ in told) <= 100.06 + 1e-6


def test_then_the_interval_is_kept_from_due_to_due() -> None:
    course, (target,), told = rota()
    course.begin(0.0)
    course.over(target, 4, 0.2)
    first = target.due
    course.over(target, 4, first + 0.3)
    assert target.due == first + 10.0
    course.over(target, 4, first + 10.0 + 25.0)
    assert told[-1] == (first + 35.0, target)


def test_who_began_late_keeps_his_turn_and_who_took_long_goes_at_once() -> None:
    course, (target,), _ = rota(jitter=0.0)
    target.due, target.started = 100.0, 100.1
    course.over(target, 4, 112.0)
    assert target.due == 112.0
    target.due, target.started = 100.0, 108.0
    course.over(target, 4, 131.0)
    assert target.due == 140.0


def test_trouble_is_looked_into_fast_and_the_dead_are_left_in_peace() -> None:
    course, (target,), _ = rota(fast_interval=1.0, down_interval=60.0, jitter=0.0)
    for health, period in ((4, 10.0), (3, 1.0), (2, 1.0), (0, 60.0), (1, 1.0)):
        target.due = 100.0
        course.over(target, health, 100.0)
        assert target.due == 100.0 + period


def test_jitter_adds_a_random_part() -> None:
    course, (target,), told = rota(jitter=4.0)
    for _ in range(200):
        target.due = 0.0
        course.over(target, 4, 0.0)
    dues = [due for due, _ in told]
    assert all(10.0 <= due <= 14.0 for due in dues)
    assert max(dues) - min(dues) > 3.5


def test_a_suspected_peer_is_probed_soon_but_not_again_and_again() -> None:
    course, (target,), told = rota(jitter=0.0)
    target.started, target.due = 100.0, 110.0
    course.suspect(target, 103.0)
    assert told == [(103.0, target)]
    target.started, target.due = 103.0, 113.0
    course.suspect(target, 103.2)
    assert told[-1] == (104.0, target)
    course.suspect(target, 103.3)
    assert len(told) == 2


def test_a_suspected_peer_is_probed_again_soon_until_it_passes() -> None:
    course, (target,), _ = rota(jitter=0.0, fast_interval=2.0, down_interval=60.0)
    target.suspected = 99.0
    for health, period in ((4, 2.0), (3, 2.0), (0, 60.0)):
        target.due = 100.0
        course.over(target, health, 100.0)
        assert target.due == 100.0 + period
    target.suspected = 0.0
    target.due = 100.0
    course.over(target, 4, 100.0)
    assert target.due == 110.0


def test_a_suspected_peer_that_is_being_probed_is_left_alone() -> None:
    course, (target,), told = rota(jitter=0.0)
    target.started, target.due, target.stage = 100.0, 110.0, TALKING
    course.suspect(target, 103.0)
    assert told == []


def test_a_gate_lets_in_as_many_as_it_has_places_for() -> None:
    _, targets, _ = rota(5)
    gate = Gate(2)
    assert [gate.enter(target) for target in targets] == [True, True, False, False, False]
    assert gate.enter(targets[0])
    assert gate.leave(targets[2]) is None
    assert gate.leave(targets[0]) is targets[2]
    assert gate.leave(targets[1]) is targets[3]
    assert gate.leave(targets[2]) is targets[4]
    assert gate.leave(targets[3]) is None
    assert gate.enter(targets[0])


def test_black_holes_get_half_of_the_places_and_are_not_forgotten() -> None:
    _, targets, _ = rota(40)
    slow, well = targets[:20], targets[20:]
    for target in slow:
        target.slow = True
    gate = Gate(8)
    assert sum(gate.enter(target) for target in slow) == 4
    held = [target for target in well if gate.enter(target)]
    assert len(held) == 4
    assert gate.leave(held[0]) is well[4]
    gate.leave(slow[0])
    gate.leave(slow[1])
    following = gate.leave(slow[2])
    assert following is not None
    assert following.slow


def test_a_single_place_goes_round() -> None:
    _, targets, _ = rota(4)
    slow, well = targets[:2], targets[2:]
    for target in slow:
        target.slow = True
    gate = Gate(1)
    served = dict.fromkeys(targets, 0)
    for number, target in enumerate(targets):
        target.due = float(number)
    waiting = [target for target in targets if not gate.enter(target)]
    holder = targets[0]
    assert waiting == targets[1:]
    for turn in range(40):
        served[holder] += 1
        following = gate.leave(holder)
        holder.due = 10.0 + turn
        assert following is not None
        assert not gate.enter(holder)
        holder = following
    assert [served[target] for target in (*slow, *well)] == [10, 10, 10, 10]


@given(st.integers(0, 5), st.lists(st.tuples(st.booleans(), st.integers(0, 11)), max_size=200))
def test_whoever_asks_is_let_in_at_some_point(most: int, steps: list[tuple[bool, int]]) -> None:
    _, targets, _ = rota(12)
    for target in targets[::3]:
        target.slow = True
    gate = Gate(most)
    held: set[Target] = set()
    waiting: set[Target] = set()
    for enters, number in steps:
        target = targets[number]
        if enters:
            if target not in waiting:
                (held if gate.enter(target) else waiting).add(target)
        elif target in held:
            held.discard(target)
            following = gate.leave(target) if most else None
            if following is not None:
                waiting.discard(following)
                held.add(following)
        assert not most or len(held) <= most
    for _ in range(100):
        if held:
            following = gate.leave(held.pop())
            if following is not None:
                waiting.discard(following)
                held.add(following)
    assert not waiting
