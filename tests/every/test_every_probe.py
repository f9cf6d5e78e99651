"""What every member of PROBES must do: begin, end with a verdict, and begin again."""

from __future__ import annotations

import pytest

from upwell.check.match import MAX_LINE
from upwell.check.probe import KINDS, Verdict
from upwell.check.probes import PROBES
from upwell.check.spec import CheckSpec

probes = pytest.mark.parametrize("name", sorted(PROBES))


def made(name: str) -> CheckSpec:
    return CheckSpec("u", name, b"GET / HTTP/1.0\r\n\r\n", statuses=(200,), verify=False)


@probes
def test_it_says_how_its_errors_begin(name: str) -> None:
    probe = PROBES[name](made(name), "app:1")
    assert probe.sending.startswith("failed to ")
    assert probe.receiving.startswith("failed to ")


@probes
def test_an_end_is_a_verdict_and_it_can_begin_again(name: str) -> None:
    probe = PROBES[name](made(name), "app:1")
    for _ in range(3):
        first = probe.open()
        verdict = first if isinstance(first, Verdict) else probe.feed(b"")
        assert isinstance(verdict, Verdict)
        assert verdict.passed == (verdict.why == "")
        assert verdict.passed or verdict.kind in KINDS
        assert probe.finished


@probes
def test_no_amount_of_nonsense_is_kept(name: str) -> None:
    probe = PROBES[name](made(name), "app:1")
    answer = probe.open()
    taken = 0
    while not isinstance(answer, Verdict):
        answer = probe.feed(b"\x00" * 1024)
        taken += 1024
        assert taken <= 8 * MAX_LINE
    assert answer.passed is (taken == 0)
