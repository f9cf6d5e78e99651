"""A probe's conversation without a socket: what it sends, and its verdict, whatever the pieces of the answer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from upwell.check.probe import Probe, Verdict


def talk(probe: Probe, answer: bytes, cuts: Iterable[int] = (), again: bool = False) -> tuple[bytes, Verdict]:
    """(all that the probe sent, its verdict); the peer sends `answer`, cut at `cuts`, and closes."""
    first = probe.again() if again else probe.open()
    if isinstance(first, Verdict):
        return b"", first
    sent = first
    places = sorted({cut % (len(answer) + 1) for cut in cuts} | {0, len(answer)})
    pieces = [answer[low:high] for low, high in itertools.pairwise(places)]
    for piece in [*pieces, b""]:
        told = probe.feed(piece)
        if isinstance(told, Verdict):
            return sent, told
        sent += told
    raise AssertionError("no verdict although the peer has closed")


def told(probe: Probe, answer: bytes) -> Verdict:
    """The verdict on `answer`, which is the same in one piece and byte by byte."""
    _, whole = talk(probe, answer)
    _, pieces = talk(probe, answer, range(len(answer)))
    assert pieces == whole
    return whole


def why(probe: Probe, answer: bytes) -> str:
    """ "kind: words" of a failure, "" of a pass."""
    verdict = told(probe, answer)
    assert verdict.passed == (verdict.kind == "") == (verdict.why == "")
    return f"{verdict.kind}: {verdict.why}" if verdict.kind else ""
