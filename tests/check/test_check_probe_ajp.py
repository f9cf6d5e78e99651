"""The ajp probe: CPong and nothing else."""

from __future__ import annotations

import pytest

from tests.check.talking import talk, why
from upwell.check.probes.ajp import AjpProbe
from upwell.check.spec import TENGINE, CheckSpec


@pytest.fixture
def probe() -> AjpProbe:
    return AjpProbe(CheckSpec("u", "ajp", dialect=TENGINE), "t:8009")


def test_cping_and_cpong(probe: AjpProbe) -> None:
    sent, verdict = talk(probe, b"AB\x00\x01\x09", range(5))
    assert (sent, verdict.passed, probe.reusable) == (b"\x12\x34\x00\x01\x0a", True, True)
    sent, verdict = talk(probe, b"AB\x00\x01\x09", again=True)
    assert (sent, verdict.passed, probe.reusable) == (b"\x12\x34\x00\x01\x0a", True, True)
    assert talk(probe, b"AB\x00\x01\x09AB")[1].passed
    assert not probe.reusable


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "closed: connection closed before CPong"),
        (b"AB\x00\x01", "closed: connection closed before CPong"),
        (b"HTTP/1.1 400", 'protocol: not AJP: the answer begins with "H"'),
        (b"AX\x00\x01\x09", 'protocol: not AJP: the answer begins with "AX"'),
        (b"\x12\x34\x00\x01\x09", 'protocol: not AJP: the answer begins with "\\x12"'),
        (b"AB\x00\x02\x05\x01", "protocol: AJP packet of 2 bytes, want CPong's 1"),
        (b"AB\xff\xff\x09", "protocol: AJP packet of 65535 bytes, want CPong's 1"),
        (b"AB\x00\x01\x06", "protocol: AJP packet of type 6, want CPong (9)"),
    ],
)
def test_each_way_to_fail(probe: AjpProbe, answer: bytes, words: str) -> None:
    assert why(probe, answer) == words
    assert not probe.reusable
