"""The http probe without a socket: any split of the answer gives the same verdict."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upwell.check.match import MAX_LINE
from upwell.check.probe import Verdict
from upwell.check.probes.http import HttpProbe
from upwell.check.spec import CheckSpec

RECEIVING = "failed to receive status line from app:1"
CLOSED = Verdict(False, "closed", "connection closed before the status line", 0, f"{RECEIVING}: closed")
REQUEST = b"GET / HTTP/1.0\r\n\r\n"


def bad(status: int) -> Verdict:
    return Verdict(False, "status", f"status {status}, want 200", status, f"bad status code from app:1: {status}")


def ask(probe: HttpProbe, pieces: list[bytes]) -> bytes | Verdict:
    assert probe.open() == REQUEST
    for piece in pieces:
        answer = probe.feed(piece)
        if answer != b"":
            return answer
    return b""


def probe(*statuses: int) -> HttpProbe:
    return HttpProbe(CheckSpec("u", request=REQUEST, statuses=statuses), "app:1")


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n", Verdict(True, status=200)),
        (b"HTTP/1.1 200 OK\n", Verdict(True, status=200)),
        (b"HT\rTP/1.1 200\r OK\r\n", Verdict(True, status=200)),
        (
            b"HTTP/1.1 503 Busy\r\n",
            bad(503),
        ),
        (b"hello\r\n", Verdict(False, "protocol", "bad status line: hello", 0, "bad status line from app:1: hello")),
        (b"\n", Verdict(False, "protocol", "bad status line: ", 0, "bad status line from app:1: ")),
        (b"HTTP/1.1 200 OK", CLOSED),
        (b"", CLOSED),
    ],
)
@given(cuts=st.lists(st.integers(0, 40), max_size=6))
def test_any_split_gives_the_same_verdict(answer: bytes, verdict: Verdict, cuts: list[int]) -> None:
    places = sorted({0, *(cut for cut in cuts if cut < len(answer)), len(answer)})
    pieces = [answer[a:b] for a, b in pairwise(places)]
    one = probe(200)
    for _ in range(2):
        assert ask(one, [piece for piece in pieces if piece] + [b""]) == verdict


def test_a_line_without_end_is_refused_at_the_cap() -> None:
    one = probe(200)
    one.open()
    sent = 0
    answer: bytes | Verdict = b""
    while answer == b"":
        answer = one.feed(b"x" * 1000)
        sent += 1000
        assert sent <= MAX_LINE + 1000
    assert answer == Verdict(False, "protocol", "status line too long", 0, f"{RECEIVING}: line too long")


def test_a_new_conversation_forgets_the_last_one() -> None:
    one = probe(200)
    assert ask(one, [b"HTTP/1.1 2"]) == b""
    assert ask(one, [b"HTTP/1.1 500 Oops\r\n"]) == Verdict(
        False, "status", "status 500, want 200", 500, "bad status code from app:1: 500"
    )
    assert ask(one, [b"HTTP/1.1 200 OK\r\n"]) == Verdict(True, status=200)


def test_finished_says_whether_more_may_come() -> None:
    one = probe()
    finished = []
    for pieces in ([b"\r\n\r\n"], [b"\r\n\r\nok"], [b""]):
        ask(one, [b"HTTP/1.1 200 OK\r\nContent-Length: 2" + pieces[0]] if pieces[0] else pieces)
        finished.append(one.finished)
    assert finished == [False, True, True]
