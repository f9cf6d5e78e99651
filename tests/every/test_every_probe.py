"""What every member of PROBES must do, in whatever dialect: begin, end with a verdict, and begin again."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upwell.check.match import MAX_LINE
from upwell.check.probe import KINDS, Draining, Probe, Verdict
from upwell.check.probes import PROBES
from upwell.check.spec import PLUS, RESTY, CheckSpec

probes = pytest.mark.parametrize(("name", "dialect"), list(product(sorted(PROBES), (RESTY, PLUS))))


def made(name: str, dialect: str) -> Probe:
    request = b"GET / HTTP/1.0\r\n\r\n"
    spec = CheckSpec("u", name, request, statuses=(200,), verify=False, dialect=dialect, expect="^good")
    return PROBES[name](spec, "app:1")


@probes
def test_it_says_how_its_errors_begin(name: str, dialect: str) -> None:
    probe = made(name, dialect)
    assert probe.sending.startswith("failed to ")
    assert probe.receiving.startswith("failed to ")
    assert probe.doing


@probes
def test_an_end_is_a_verdict_and_it_can_begin_again(name: str, dialect: str) -> None:
    probe = made(name, dialect)
    for _ in range(3):
        first = probe.open()
        verdict = first if isinstance(first, Verdict) else probe.feed(b"")
        assert isinstance(verdict, Verdict)
        assert verdict.passed == (verdict.why == "")
        assert verdict.passed or verdict.kind in KINDS
        assert probe.finished


@probes
def test_no_amount_of_nonsense_is_kept(name: str, dialect: str) -> None:
    probe = made(name, dialect)
    answer = probe.open()
    taken = 0
    while not isinstance(answer, Verdict):
        answer = probe.feed(b"\x00" * 1024)
        taken += 1024
        assert taken <= 8 * MAX_LINE
    assert answer.passed is (taken == 0)


@probes
@settings(max_examples=30)
@given(pieces=st.lists(st.binary(min_size=1, max_size=60), max_size=5))
def test_whatever_comes_nothing_is_raised_and_the_words_fit(name: str, dialect: str, pieces: list[bytes]) -> None:
    probe = made(name, dialect)
    answer = probe.open()
    for piece in [*pieces, b""]:
        if isinstance(answer, Verdict):
            if isinstance(probe, Draining) and not probe.finished and piece:
                assert isinstance(probe.drain(piece), bytes)
        else:
            answer = probe.feed(piece)
    assert isinstance(answer, Verdict)
    assert answer.why.isprintable()
    assert len(answer.why.encode()) <= 246
