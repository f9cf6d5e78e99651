"""Functions as probes: real threads, what they may return, and what becomes of those that do not come back."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.check.probing import LIMIT, Make, probings
from upwell.check import functions
from upwell.check.functions import EventLoops, NoThread, Threads, import_trial, one_line, resolve, words_of
from upwell.check.probes.python import CheckedPeer
from upwell.check.report import Report
from upwell.peers.peer import PeerSpec

PEER = PeerSpec("127.0.0.1:8080", ("127.0.0.1", 8080), server="app:8080")
OTHER = PeerSpec("unix:/run/app.sock", "/run/app.sock", server="unix:/run/app.sock")
Check = Callable[..., Any]


@pytest.fixture
def probing(tmp_path: Path) -> Iterator[Make]:
    with probings(tmp_path, PEER) as make:
        yield make


@pytest.fixture
def named() -> Iterator[Callable[[Check], str]]:
    """A name under which a check finds a function of the test."""
    module = ModuleType("upwell_functions_of_a_test")
    sys.modules[module.__name__] = module

    def name(function: Check) -> str:
        module.function = function  # type: ignore[attr-defined]  # that is the point
        return f"{module.__name__}:function"

    yield name
    del sys.modules[module.__name__]


Named = Callable[[Check], str]


def raising(error: BaseException) -> Check:
    def check(peer: CheckedPeer) -> None:
        raise error

    return check


def returning(value: object) -> Check:
    return lambda peer: value


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


async def later(value: object) -> object:
    await asyncio.sleep(0)
    return value


@pytest.mark.parametrize("value", [None, True])
def test_none_and_true_pass(probing: Make, named: Named, value: object) -> None:
    p = probing()
    p.check(type="python", function=named(returning(value)))
    assert [p.why(), p.why()] == ["", ""]
    assert p.up()


@pytest.mark.parametrize(
    ("check", "why"),
    [
        (returning(False), "returned False"),
        (returning("12 orders\n  wait"), "12 orders wait"),
        (returning(""), "returned str, want None, True, False or a text"),
        (returning(1), "returned int, want None, True, False or a text"),
        (returning("x" * 1000), "x" * 200),
        (raising(ValueError("no such\nshop\x00")), "ValueError: no such shop?"),
        (raising(KeyError()), "KeyError"),
        (raising(Unspeakable()), "Unspeakable"),
        (raising(SystemExit(3)), "SystemExit: 3"),
        (raising(KeyboardInterrupt()), "KeyboardInterrupt"),
        (lambda: None, "TypeError: <lambda>() takes 0 positional arguments but 1 was given"),
    ],
)
def test_all_else_fails_with_words(probing: Make, named: Named, check: Check, why: str) -> None:
    p = probing()
    p.check(type="python", function=named(check))
    assert p.why().replace("test_check_probe_python.", "") == why
    assert p.record().kind == 10  # "function"
    assert not p.up()


def test_it_is_told_whom_to_ask(probing: Make, named: Named) -> None:
    told: list[CheckedPeer] = []
    p = probing(PEER, OTHER)
    p.check(type="python", function=named(told.append), port=81, interval=1000.0)
    p.until(lambda: len(told) == 2)
    assert sorted(told, key=lambda peer: peer.name) == [
        CheckedPeer("u", "127.0.0.1:8080", ("127.0.0.1", 81), "app:8080"),
        CheckedPeer("u", "unix:/run/app.sock", "/run/app.sock", "unix:/run/app.sock"),
    ]


@pytest.mark.parametrize(("value", "why"), [(None, ""), (True, ""), ("shut", "shut")])
def test_an_async_function_is_awaited(probing: Make, named: Named, value: object, why: str) -> None:
    threads: set[str] = set()

    async def check(peer: CheckedPeer) -> object:
        threads.add(threading.current_thread().name)
        return await later(value)

    p = probing()
    p.check(type="python", function=named(check))
    assert [p.why(), p.why()] == [why, why]
    assert threads == {"upwell-async"}


def test_an_async_function_that_raises_fails(probing: Make, named: Named) -> None:
    async def check(peer: CheckedPeer) -> None:
        await later(None)
        raise SystemExit("done")

    p = probing()
    p.check(type="python", function=named(check))
    assert [p.why(), p.why()] == ["SystemExit: done"] * 2


def test_an_object_and_what_returns_an_awaitable_are_functions_too(probing: Make, named: Named) -> None:
    class Check:
        async def __call__(self, peer: CheckedPeer) -> object:
            return await later("object")

    for check, why in ((Check(), "object"), (lambda peer: later("awaited"), "awaited")):
        p = probing()
        p.check(type="python", function=named(check))
        assert p.why() == why


def test_functions_do_not_wait_for_each_other(probing: Make, named: Named) -> None:
    """Each returns when the other has begun."""
    meeting = threading.Barrier(2)
    p = probing(PEER, OTHER)
    p.check(type="python", function=named(lambda peer: None if meeting.wait(LIMIT) >= 0 else "late"))
    p.until(lambda: p.state(0).passes > 0 and p.state(1).passes > 0)


def test_one_that_hangs_is_given_up_and_never_joined_by_itself(probing: Make, named: Named) -> None:
    gate = threading.Semaphore(0)
    most = calls = 0
    now = 0

    def check(peer: CheckedPeer) -> None:
        nonlocal most, calls, now
        calls += 1
        now += 1
        most = max(most, now)
        gate.acquire()
        now -= 1

    p = probing()
    name = named(check)
    before = len(os.listdir("/proc/self/fd"))
    p.check(type="python", function=name)
    p.until(lambda: calls == 1)
    p.skew = LIMIT + 0.02
    assert p.why() == f"timeout after {LIMIT:.1f} s running {name}"
    assert p.record().kind == 1  # "timeout"
    p.skew += 12.0
    assert p.why() == "still running since 32 s"
    assert p.why() == "still running since 32 s"
    # The probe that could not begin took no time, and was not late by as much as the one before takes.
    assert p.state().latency < 1_000_000
    assert p.table.checker_lateness >= 0
    assert (calls, most) == (1, 1)
    assert len(os.listdir("/proc/self/fd")) == before
    gate.release(1000)
    p.until(lambda: p.state().passes > 2)
    assert most == 1


def test_an_async_one_that_hangs_is_cancelled(probing: Make, named: Named) -> None:
    ends: list[str] = []

    async def check(peer: CheckedPeer) -> None:
        ends.append("begun")
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    p = probing()
    name = named(check)
    p.check(type="python", function=name, interval=1000.0)
    p.until(lambda: ends == ["begun"])
    p.skew = LIMIT + 0.02
    assert p.why() == f"timeout after {LIMIT:.1f} s running {name}"
    p.until(lambda: ends == ["begun", "cancelled"])


def test_one_that_blocks_the_event_loop_is_not_the_others_fault(probing: Make, named: Named) -> None:
    gate = threading.Event()
    calls: list[str] = []

    async def check(peer: CheckedPeer) -> None:
        calls.append(peer.name)
        if calls[0] == peer.name and len(calls) == 1:
            gate.wait(10 * LIMIT)  # a mistake, as people make it

    p = probing(PEER, OTHER)
    name = named(check)
    p.check(type="python", function=name, interval=0.2)
    p.until(lambda: bool(calls))
    held = time.monotonic() + 0.1
    p.until(lambda: time.monotonic() > held)
    p.skew = LIMIT + 0.02
    bad = [PEER.name, OTHER.name].index(calls[0])
    # The other one gets no verdict, then a loop that is not blocked, and passes there.
    p.until(lambda: p.state(bad).fails > 1 and p.state(1 - bad).passes > 0)
    assert p.state(1 - bad).fails == 0
    assert p.record(bad).history[-1].why == f"timeout after {LIMIT:.1f} s running {name}"
    assert p.record(bad).why.startswith("still running since")
    assert f"error: healthcheck: failed to call {name}: {name} blocks the event loop" in p.lines()
    assert p.table.voids.probes > 0
    assert calls.count(calls[0]) == 1  # no probe overlaps itself, whatever became of the loop
    gate.set()
    p.until(lambda: p.state(bad).passes > 0)


def test_calls_that_were_waiting_when_another_blocks_their_loop_begin_again_elsewhere(
    probing: Make, named: Named
) -> None:
    """All had begun, so that no new one asks for a loop by itself."""
    gate = threading.Event()
    calls: list[str] = []
    steps: list[bool] = []
    ends: list[str] = []

    async def check(peer: CheckedPeer) -> None:
        calls.append(peer.name)
        if len(calls) > 2:
            return
        while len(calls) < 2:  # noqa: ASYNC110  # of one loop
            await asyncio.sleep(0)
        if peer.name == calls[0]:
            gate.wait(10 * LIMIT)
            return
        try:
            while True:
                steps.append(gate.is_set())
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    p = probing(PEER, OTHER)
    name = named(check)
    p.check(type="python", function=name, interval=0.2)
    p.until(lambda: len(calls) == 2)
    held = time.monotonic() + 0.1
    p.until(lambda: time.monotonic() > held)
    p.skew = LIMIT + 0.02
    bad = [PEER.name, OTHER.name].index(calls[0])
    p.until(lambda: p.state(bad).fails > 0 and p.state(1 - bad).passes > 0)
    assert p.state(1 - bad).fails == 0
    assert calls.count(calls[0]) == 1
    gate.set()
    p.until(lambda: p.state(bad).passes > 0)
    p.until(lambda: bool(ends))
    assert ends == ["cancelled"]
    assert not any(steps)  # it never went on beside the one that had taken its place


@pytest.mark.filterwarnings("error")
def test_a_call_that_is_given_up_before_its_first_step_makes_none(recwarn: pytest.WarningsRecorder) -> None:
    calls: list[object] = []

    async def check(what: object) -> None:
        calls.append(what)

    begun = threading.Event()
    gate = threading.Event()

    async def block(what: object) -> None:
        begun.set()
        gate.wait(LIMIT)

    async def end(what: object) -> None:
        over.set()

    over = threading.Event()
    for made in (check, lambda what: check(what)):
        begun.clear()
        gate.clear()
        over.clear()
        functions.Call(block, 0, -1, "one").start()
        assert begun.wait(LIMIT)
        given_up = functions.Call(made, 1, -1, "one")
        given_up.start()
        limit = time.monotonic() + LIMIT
        while made is not check and not given_up.begun:
            assert time.monotonic() < limit
        given_up.give_up()
        functions.Call(end, 2, -1, "one").start()
        gate.set()
        assert over.wait(LIMIT)
    assert calls == []
    assert not recwarn.list


def test_what_another_call_took_away_is_given_back_once(probing: Make, named: Named) -> None:
    """One that waits when the loop is held for a while has that time more; a silent peer is found out all the same."""
    waiting = threading.Event()
    over = threading.Event()

    async def check(peer: CheckedPeer) -> None:
        if peer.name == PEER.name:
            waiting.set()
            await asyncio.sleep(1000)
        while not waiting.is_set():  # noqa: ASYNC110  # of several loops, if it went wrong
            await asyncio.sleep(0)
        time.sleep(0.2)  # noqa: ASYNC251  # that is the point
        over.set()

    p = probing(PEER, OTHER)
    p.check(type="python", function=named(check), interval=1000.0, jitter=0.0)  # no other probe in between
    p.until(over.is_set)
    p.until(lambda: p.state(1).passes == 1)
    p.skew = LIMIT + 0.02
    p.until(lambda: p.state(0).fails == 1)
    assert p.record(0).why.startswith(f"timeout after {LIMIT:.1f} s running")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOBUFS, errno.EADDRNOTAVAIL])
def test_a_function_that_gets_no_descriptor_says_nothing(probing: Make, named: Named, number: int) -> None:
    calls: list[CheckedPeer] = []

    def check(peer: CheckedPeer) -> None:
        calls.append(peer)
        if len(calls) < 4:
            raise OSError(number, os.strerror(number))

    p = probing()
    name = named(check)
    p.check(type="python", function=name)
    p.until(lambda: p.state().passes > 0)
    assert p.state().fails == 0
    assert f"error: healthcheck: failed to call {name}: {os.strerror(number).lower()}" in p.lines()


def test_without_a_descriptor_for_its_event_loop_it_says_nothing(
    probing: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    def refuse() -> asyncio.AbstractEventLoop:
        nonlocal tries
        tries += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def check(peer: CheckedPeer) -> None:
        await asyncio.sleep(0)

    module = ModuleType("upwell_function_without_a_loop")
    module.check = check  # type: ignore[attr-defined]  # that is the point
    monkeypatch.setitem(sys.modules, module.__name__, module)
    p = probing()
    with monkeypatch.context() as lacking:
        lacking.setattr(asyncio, "new_event_loop", refuse)
        p.check(type="python", function=f"{module.__name__}:check")
        p.until(lambda: tries > 2)
        assert p.state().fails == 0
    p.until(lambda: p.state().passes > 0)


def test_a_function_that_blocks_holds_up_no_other(probing: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    begun = threading.Event()

    async def bad(peer: CheckedPeer) -> None:
        begun.set()
        gate.wait(LIMIT)

    async def good(peer: CheckedPeer) -> None:
        await asyncio.sleep(0)

    module = ModuleType("upwell_functions_of_this_test")
    module.bad, module.good = bad, good  # type: ignore[attr-defined]  # that is the point
    monkeypatch.setitem(sys.modules, module.__name__, module)
    p = probing()
    p.check(type="python", function=f"{module.__name__}:bad")
    p.until(begun.is_set)
    p.check(type="python", function=f"{module.__name__}:good", interval=0.01)
    p.until(lambda: p.table.checks(0)[1].passes > 2)
    assert p.table.checks(0)[1].fails == 0
    gate.set()


def test_loops_are_bounded_shared_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "_HELD", 0.0)
    loops = EventLoops(2)
    first, second = loops.of("", "a"), loops.of("", "b")
    assert first is not second
    assert loops.of("", "a") is first
    shared = loops.of("", "c")
    assert shared is second  # the one with fewer calls
    with pytest.raises(NoThread, match="2 event loops are blocked"):
        loops.of("notify", "a")
    for _ in range(2):
        second.less()
    second.hold(functions.Call(print, None, -1))  # given up, and it does not let go
    for _ in range(2):
        assert loops.of("", "b") is first
    second.release()
    second.replace()
    limit = time.monotonic() + LIMIT
    while not second.ended:
        assert time.monotonic() < limit
    assert loops.of("notify", "a") not in (first, second)


def test_a_checker_that_ends_waits_for_nobody(probing: Make, named: Named) -> None:
    gate = threading.Event()
    begun = threading.Event()

    def check(peer: CheckedPeer) -> None:
        begun.set()
        gate.wait()

    p = probing()
    p.check(type="python", function=named(check))
    p.until(begun.is_set)
    p.checker.close()
    gate.set()
    p.checker = p.make()


def test_a_process_with_a_hanging_function_ends(tmp_path: Path) -> None:
    code = """
import threading, time
from upwell.check.functions import Call
for function in (lambda _: time.sleep(1000), __import__("asyncio").sleep):
    Call(function, 1000, -1).start()
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, timeout=LIMIT, check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_without_threads_nothing_is_known(probing: Make, named: Named, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Threads(0)
    monkeypatch.setattr(functions, "_threads", lambda pid: full)
    p = probing()
    before = len(os.listdir("/proc/self/fd"))
    spec = p.check(type="python", function=named(returning("bad")))
    p.until(lambda: sum("0 threads are busy" in line for line in p.lines()) > 1)
    assert p.state().fails == 0
    # The peer's own line tells of it, as long as it is so.
    [peer] = Report(p.table, [p.spec], [spec], dict).peers(p.spec, {spec.identity: spec})
    assert peer.checks[0].void == "failed to call a function: 0 threads are busy"
    assert len(os.listdir("/proc/self/fd")) == before
    monkeypatch.undo()
    assert p.why() == "bad"
    [peer] = Report(p.table, [p.spec], [spec], dict).peers(p.spec, {spec.identity: spec})
    assert peer.checks[0].void == ""


def test_calls_that_hang_leave_threads_to_others() -> None:
    threads = Threads(8)
    gate = threading.Event()

    def job() -> None:
        gate.wait()

    for whose, share in (("one", 4), ("another", 2), ("a third", 1)):
        for _ in range(share):
            threads.submit(job, whose)
        with pytest.raises(NoThread, match="calls that have not come back hold its share of the threads"):
            threads.submit(job, whose)
    gate.set()
    limit = time.monotonic() + LIMIT
    while "0 busy" not in repr(threads):
        assert time.monotonic() < limit
    threads.submit(job, "one")


def test_a_check_whose_functions_hang_takes_no_thread_from_another(
    probing: Make, named: Named, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Threads(4)
    monkeypatch.setattr(functions, "_threads", lambda pid: few)
    gate = threading.Event()

    def check(peer: CheckedPeer) -> str | None:
        if peer.address[1] != 7:
            gate.wait()
        return "bad"

    peers = [PeerSpec(f"127.0.0.1:{port}", ("127.0.0.1", port)) for port in range(81, 87)]
    p = probing(*peers)
    name = named(check)
    p.check(type="python", function=name, timeout=0.1)
    p.until(lambda: sum(p.state(row).fails > 0 for row in range(6)) == 2 and p.record(5).void_at > 0)
    p.check(type="python", function=name, port=7)
    p.until(lambda: all(p.table.checks(row)[1].fails > 0 for row in range(6)))
    assert {p.table.record(row, 1).why for row in range(6)} == {"bad"}
    gate.set()


def test_threads_are_used_again_and_bounded() -> None:
    threads = Threads(2)
    gate = threading.Semaphore(0)
    seen: list[int] = []

    def job() -> None:
        seen.append(threading.get_ident())
        gate.acquire()

    threads.submit(job)
    threads.submit(job)
    with pytest.raises(NoThread, match="2 threads are busy"):
        threads.submit(job)
    gate.release()
    limit = time.monotonic() + LIMIT
    while "1 idle" not in repr(threads):
        assert time.monotonic() < limit
    threads.submit(job)
    gate.release(2)
    while "2 idle" not in repr(threads):
        assert time.monotonic() < limit
    assert len(seen) == 3
    assert len(set(seen)) == 2


@pytest.mark.parametrize(
    ("text", "function", "words"),
    [
        ("def well(peer): ...", "m:well", ""),
        ("class A:\n  class B:\n    well = print", "m:A.B.well", ""),
        ("", "m:well", 'no "well" in module m'),
        ("well = 3", "m:well", "m:well is not a function"),
        ("import no.such", "m:well", "cannot import m: ModuleNotFoundError: No module named 'no'"),
        ("exit(3)", "m:well", "cannot import m: SystemExit: 3"),
        ("def well(:", "m:well", "cannot import m: SyntaxError: invalid syntax (m.py, line 1)"),
    ],
)
def test_where_a_function_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, function: str, words: str
) -> None:
    (tmp_path / "m.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert import_trial(function, lambda: None) == words
    assert "m" not in sys.modules
    try:
        if words:
            with pytest.raises(ValueError, match=re.escape(words)):
                resolve(function)
        else:
            assert callable(resolve(function))
    finally:
        sys.modules.pop("m", None)


def test_an_import_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.py").write_text("import time\ntime.sleep(1000)")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert import_trial("m:well", lambda: None, patience=0.05) == "the import takes longer than 0.05 s"
    (tmp_path / "m.py").write_text("import os\nos._exit(3)")
    assert import_trial("m:well", lambda: None) == "the import ended the process"


def test_what_cannot_be_imported_has_failed(probing: Make) -> None:
    p = probing()
    p.check(type="python", function="upwell.nosuch:well")
    assert p.why() == "cannot import upwell.nosuch: ModuleNotFoundError: No module named 'upwell.nosuch'"
    assert p.record().kind == 10


def test_words_fit_on_a_line() -> None:
    assert one_line(" a\tb\r\nc\x1b[1m é ") == "a b c?[1m é"
    assert words_of(OSError(2, "No such file", "/x")) == "FileNotFoundError: [Errno 2] No such file: '/x'"
