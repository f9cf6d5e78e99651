"""What every member of OTHERS must do: be idle until it is started, end with a verdict, and leave nothing behind."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from types import ModuleType

import pytest

from upwell.check.probe import KINDS, Verdict
from upwell.check.probes import AT_ONCE, OTHERS, PROBES, TARGETS
from upwell.check.spec import PLUS, CheckSpec
from upwell.check.target import Loop, Place, Target
from upwell.peers.peer import PeerSpec

targets = pytest.mark.parametrize("name", sorted(OTHERS))
LIMIT = 20.0
GATE = threading.Event()


def hang(peer: object) -> None:
    GATE.wait()


ENDING = {"exec": ("/bin/false",), "python": "builtins:repr", "udp": None}
HANGING = {"exec": ("/bin/sleep", "1000"), "python": "upwell_hanging:hang", "udp": None}


@pytest.fixture(autouse=True)
def hanging() -> Iterator[None]:
    module = sys.modules["upwell_hanging"] = ModuleType("upwell_hanging")
    module.hang = hang  # type: ignore[attr-defined]  # that is what a check finds there
    GATE.clear()
    yield
    GATE.set()
    del sys.modules["upwell_hanging"]


@pytest.fixture
def loop() -> Iterator[Loop]:
    one = Loop()
    yield one
    one.epoll.close()


def made(what: object, name: str, loop: Loop) -> Target:
    command = what if isinstance(what, tuple) else ()
    function = what if isinstance(what, str) else ""
    spec = CheckSpec("u", name, dialect=PLUS, timeout=LIMIT, command=command, function=function, expect="x")
    return OTHERS[name](spec, PeerSpec("app:1", ("127.0.0.1", 1)), Place(0, 0, 0), loop)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def result(target: Target, loop: Loop) -> Verdict:
    """What comes of a probe that is under way."""
    limit = time.monotonic() + LIMIT
    while True:
        assert time.monotonic() < limit
        for fd, events in loop.epoll.poll(0.1):
            verdict = loop.targets[fd].ready(fd, events, time.monotonic())
            if verdict is not None:
                return verdict


def idle(target: Target) -> bool:
    assert target.busy == target.probing
    return not target.busy


def let_go(loop: Loop) -> bool:
    """Whether nothing stays entered, once what needs a while to be gone (a killed process) is."""
    limit = time.monotonic() + LIMIT
    while loop.targets and time.monotonic() < limit:
        for fd, events in loop.epoll.poll(0.1):
            assert loop.targets[fd].ready(fd, events, time.monotonic()) is None
    return not loop.targets


def is_sound(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.passed == (verdict.why == "") and (verdict.passed or verdict.kind in KINDS)


@targets
def test_it_ends_with_a_verdict_and_can_begin_again(name: str, loop: Loop) -> None:
    target = made(ENDING[name], name, loop)
    assert idle(target)
    before = descriptors()
    for _ in range(3):
        assert target.start(time.monotonic()) is None
        assert not idle(target)
        assert target.deadline > time.monotonic()
        assert is_sound(result(target, loop))
        assert idle(target)
        assert loop.targets == {}
    assert descriptors() == before


def begun(target: Target) -> None:
    """A function must have been reached, or it has not had its time."""
    call = getattr(target, "_call", None)
    limit = time.monotonic() + LIMIT
    while call is not None and not call.begun:
        assert time.monotonic() < limit


@targets
def test_its_time_comes_to_an_end(name: str, loop: Loop) -> None:
    target = made(HANGING[name], name, loop)
    before = descriptors()
    assert target.start(1.0) is None
    assert not idle(target)
    begun(target)
    verdict = target.expire(1.0 + LIMIT)
    assert verdict is not None
    assert is_sound(verdict)
    assert verdict.kind == "timeout"
    assert verdict.why.startswith("timeout after 20.0 s ")
    assert idle(target)
    assert let_go(loop)
    assert descriptors() == before


@targets
def test_it_can_be_broken_off_at_any_time(name: str, loop: Loop) -> None:
    target = made(HANGING[name], name, loop)
    before = descriptors()
    target.close()
    assert target.broken(ValueError("odd"), 0.0) is None
    assert target.start(1.0) is None
    target.close()
    target.close()
    assert idle(target)
    assert let_go(loop)
    target = made(HANGING[name], name, loop)
    assert target.start(2.0) is None
    assert is_sound(target.broken(ValueError("odd"), 2.0))
    assert let_go(loop)
    assert descriptors() == before


def test_all_are_known_by_one_name() -> None:
    assert set(TARGETS) == set(OTHERS) | set(PROBES)
    assert not set(OTHERS) & set(PROBES)
    assert set(AT_ONCE) <= set(OTHERS)
