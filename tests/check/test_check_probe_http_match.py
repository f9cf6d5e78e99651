"""The http probe of all dialects but lua-resty's, without a socket: any split of an answer gives the same verdict."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from upwell.check.probe import KINDS, Verdict
from upwell.check.probes.http_match import MAX_HEAD, HttpMatchProbe
from upwell.check.rules import MOST_CONTENT
from upwell.check.spec import PLUS, TENGINE, CheckSpec, HeaderRule, MatchSpec

GET = b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"
GOOD = Verdict(True, status=200)
DATE = b"Date: Sun, 06 Nov 1994 08:49:3%d GMT\r\n"


def spec(request: bytes = GET, **changes: Any) -> CheckSpec:
    return CheckSpec("u", "http", request, dialect=PLUS, keepalive_time=60, **changes)


def body(pattern: str, turned: bool = False) -> MatchSpec:
    return MatchSpec(statuses=((200, 399),), body=pattern, body_not=turned)


def bad(kind: str, why: str, status: int = 0) -> Verdict:
    return Verdict(False, kind, why, status)


class Told:
    """What became of one probe fed piece by piece; after the verdict the rest is drained, as the caller does."""

    def __init__(self, probe: HttpMatchProbe, pieces: list[bytes], closes: bool) -> None:
        self.verdict: Verdict | None = None
        for piece in [*pieces, b""] if closes else pieces:
            if self.verdict is None:
                answer = probe.feed(piece)
                self.verdict = answer if isinstance(answer, Verdict) else None
            elif not probe.finished and piece:
                probe.drain(piece)
        self.finished, self.reusable = probe.finished, probe.reusable


def split(answer: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, *(cut for cut in cuts if cut < len(answer)), len(answer)})
    return [answer[a:b] for a, b in pairwise(places) if a < b]


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
ANSWERS: list[tuple[CheckSpec, bytes, Verdict, bool, bool]] = [
    # check, answer, verdict, finished, reusable
    (spec(), OK + b"Content-Length: 2\r\n\r\nok", GOOD, True, True),
    (spec(), OK + DATE % 1 + b"Content-Length: 2\r\n\r\nok", GOOD, True, True),
    (spec(), OK + b"Content-Length: 2\r\nConnection: close\r\n\r\nok", GOOD, True, False),
    (spec(), OK + b"Content-Length: 3\r\n\r\nok", GOOD, False, False),
    (spec(), OK + CHUNKED + b"2\r\nok\r\n0\r\n\r\n", GOOD, True, True),
    (spec(), OK + CHUNKED + b"2\r\nok\r\n", GOOD, False, False),
    (spec(), OK + CHUNKED + b"zz\r\n", GOOD, True, False),
    (spec(), OK + b"\r\nuntil the end", GOOD, False, False),
    (spec(), b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", GOOD, True, False),
    (spec(), b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", GOOD, True, True),
    (spec(), b"HTTP/1.1 204 No\r\n\r\n", Verdict(True, status=204), True, True),
    (spec(), b"HTTP/1.1 304 Not\r\nContent-Length: 9\r\n\r\n", Verdict(True, status=304), True, True),
    (spec(), b"HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 103\r\nLink: x\r\n\r\n" + OK + b"\r\n", GOOD, False, False),
    (spec(), b"HTTP/1.1 101 Up\r\n\r\n", bad("status", "status 101, want 200-399", 101), True, False),
    (
        spec(),
        b"HTTP/1.1 503 \r\nContent-Length: 1\r\n\r\nx",
        bad("status", "status 503, want 200-399", 503),
        True,
        True,
    ),
    (spec(b"HEAD / HTTP/1.1\r\n\r\n"), OK + b"Content-Length: 900\r\n\r\n", GOOD, True, True),
    (spec(b"GET / HTTP/1.0\r\n\r\n"), OK + b"Content-Length: 0\r\n\r\n", GOOD, True, False),
    (spec(b"GET / HTTP/1.1\r\nconnection:close\r\n\r\n"), OK + b"Content-Length: 0\r\n\r\n", GOOD, True, False),
    (spec(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"), OK + b"Content-Length: 0\r\n\r\n", GOOD, True, True),
    (spec(match=body("OK$")), OK + b"Content-Length: 6\r\n\r\nall OK", GOOD, True, True),
    (spec(match=body("OK$")), OK + CHUNKED + b"5\r\nall O\r\n1\r\nK\r\n0\r\n\r\n", GOOD, True, True),
    (spec(match=body("OK$")), OK + b"\r\nall OK", GOOD, True, False),
    (
        spec(match=body("OK")),
        OK + b"Content-Length: 2\r\n\r\nno",
        bad("body", 'body does not match ~ "OK"', 200),
        True,
        True,
    ),
    (
        spec(match=body("OK", turned=True)),
        OK + b"Content-Length: 2\r\n\r\nOK",
        bad("body", 'body matches "OK", want !~', 200),
        True,
        True,
    ),
    (
        spec(match=body("OK")),
        OK + b"Content-Length: 0\r\n\r\n",
        bad("body", 'body does not match ~ "OK"', 200),
        True,
        True,
    ),
    (
        spec(match=body("OK")),
        OK + b"Content-Length: 3\r\n\r\nOK",
        bad("closed", "connection closed in the content", 200),
        True,
        False,
    ),
    (
        spec(match=body("OK")),
        OK + CHUNKED + b"2\r\nOK\r\n",
        bad("closed", "connection closed in the content", 200),
        True,
        False,
    ),
    (
        spec(match=body("OK")),
        OK + CHUNKED + b"zz\r\n",
        bad("protocol", "bad answer: invalid chunked body", 200),
        True,
        False,
    ),
    (
        spec(match=MatchSpec(headers=(HeaderRule("X-A", "=", "1"),))),
        OK + b"X-A: 2\r\nContent-Length: 0\r\n\r\n",
        bad("header", 'header X-A is "2", want "1"', 200),
        True,
        True,
    ),
    (
        spec(match=MatchSpec(require=("$upstream_http_x_a",))),
        OK + b"X-A: 0\r\nContent-Length: 0\r\n\r\n",
        bad("require", 'required "$upstream_http_x_a" is "0"', 200),
        True,
        True,
    ),
    (spec(), b"", bad("closed", "connection closed before the status line"), True, False),
    (spec(), b"HTTP/1.1 2", bad("closed", "connection closed in the status line"), True, False),
    (spec(), OK + b"X: y\r\n", bad("closed", "connection closed in the header"), True, False),
    (spec(), b"HTTP/1.1 100 \r\n\r\n", bad("closed", "connection closed before the status line"), True, False),
    (spec(), b"HTTP/1.1 20 OK\r\n\r\n", bad("protocol", 'bad status line: "HTTP/1.1 20 OK"'), True, False),
    (spec(), OK + b"X\r\n\r\n", bad("protocol", 'bad answer: invalid header: "X"'), True, False),
    (spec(), OK + b"X: y\nZ: 1\r\n\r\n", bad("protocol", "bad answer: bare LF in header"), True, False),
    (
        spec(),
        OK + b"Content-Length: 1x\r\n\r\n",
        bad("protocol", 'bad answer: invalid "Content-Length" header: "Content-Length: 1x"'),
        True,
        False,
    ),
    (spec(), OK + b"X: " + b"y" * MAX_HEAD, bad("protocol", "bad answer: too big header"), True, False),
]


@pytest.mark.parametrize(("check", "answer", "verdict", "finished", "reusable"), ANSWERS)
@settings(max_examples=40)
@given(cuts=st.lists(st.integers(0, 120), max_size=6))
def test_any_split_gives_the_same_verdict(
    check: CheckSpec, answer: bytes, verdict: Verdict, finished: bool, reusable: bool, cuts: list[int]
) -> None:
    probe = HttpMatchProbe(check, "app:1")
    for number in range(3):
        # The second time round everything is known already.
        assert (probe.open() if number < 2 or not probe.reusable else probe.again()) == check.request
        told = Told(probe, split(answer, cuts), closes=verdict.kind == "closed" or (answer + b"$").endswith(b"OK$"))
        assert told.verdict == verdict
        assert (told.finished, told.reusable) == (finished, reusable)


@given(cuts=st.lists(st.integers(0, 40), max_size=6))
def test_another_protocol_is_called_so(cuts: list[int]) -> None:
    probe = HttpMatchProbe(spec(), "app:1")
    probe.open()
    told = Told(probe, split(b"SSH-2.0-OpenSSH_9.2\r\n", cuts), closes=True)
    assert told.verdict is not None
    assert told.verdict.kind == "protocol"
    assert told.verdict.why.startswith('bad status line: "S')


def test_the_line_of_another_protocol_is_shown() -> None:
    probe = HttpMatchProbe(spec(), "app:1")
    probe.open()
    assert probe.feed(b"\xff\x15\x03\x01" + b"x" * 900) == bad(
        "protocol", f'bad status line: "\\xFF\\x15\\x03\\x01{"x" * 41}..."'
    )


def test_the_verdict_waits_for_no_more_than_it_needs() -> None:
    probe = HttpMatchProbe(spec(), "app:1")
    probe.open()
    assert probe.feed(OK + b"Content-Length: 5\r\n\r\n") == GOOD
    assert not probe.finished
    probe.drain(b"hell")
    assert not probe.finished
    probe.drain(b"o")
    assert (probe.finished, probe.reusable) == (True, True)
    refusing = HttpMatchProbe(spec(match=body("OK")), "app:1")
    refusing.open()
    assert refusing.feed(b"HTTP/1.1 500 \r\nContent-Length: 5\r\n\r\n") == bad(
        "status", "status 500, want 200-399", 500
    )


def test_more_than_was_announced_ends_the_connection() -> None:
    for framing, content in ((b"Content-Length: 2\r\n\r\n", b"ok"), (CHUNKED, b"2\r\nok\r\n0\r\n\r\n")):
        probe = HttpMatchProbe(spec(), "app:1")
        probe.open()
        assert probe.feed(OK + framing + content + b"!") == GOOD
        assert (probe.finished, probe.reusable) == (True, False)


def test_only_the_first_256_kilobytes_of_content_count() -> None:
    size = MOST_CONTENT + 10
    for place, passed in ((MOST_CONTENT - 2, True), (MOST_CONTENT - 1, False)):
        content = b"." * place + b"OK" + b"." * (size - place - 2)
        for step in (size, 8192, 8191):
            probe = HttpMatchProbe(spec(match=body("OK")), "app:1")
            probe.open()
            pieces = [content[at : at + step] for at in range(0, size, step)]
            told = Told(probe, [OK + b"Content-Length: %d\r\n\r\n" % size, *pieces], closes=False)
            assert told.verdict is not None
            assert told.verdict.passed is passed
            assert (told.finished, told.reusable) == (True, True)


def test_what_it_does_is_told_for_the_words_of_a_time_out() -> None:
    probe = HttpMatchProbe(spec(match=body("OK")), "app:1")
    probe.open()
    told = [probe.doing]
    for piece in (b"HTTP/1.1 100", b" Go\r\nX: y", b"\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nOK"):
        assert probe.feed(piece) == b""
        told.append(probe.doing)
    line, header, content = "reading the status line", "reading the header", "reading the content"
    assert told == [line, line, header, line, content]
    probe.open()
    assert probe.doing == line


def test_interim_answers_without_end_are_refused() -> None:
    probe = HttpMatchProbe(spec(), "app:1")
    probe.open()
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    for _ in range(MAX_HEAD // len(interim)):
        assert probe.feed(interim) == b""
    assert probe.feed(interim) == bad("protocol", "interim answers without end")


def test_a_date_does_not_hide_what_else_has_changed() -> None:
    probe = HttpMatchProbe(spec(match=MatchSpec(headers=(HeaderRule("X", "=", "1"),))), "app:1")

    def ask(date: bytes, x: bytes) -> Verdict:
        probe.open()
        answer = probe.feed(OK + date + b"X: " + x + b"\r\nContent-Length: 0\r\n\r\n")
        assert isinstance(answer, Verdict)
        return answer

    for second in range(3):
        assert ask(DATE % second, b"1").passed
        assert not ask(DATE % second, b"2").passed
    assert ask(b"", b"1").passed
    hidden = b"Date: " + b"Sun, 06 Nov 1994\r\nX: 2\r\nY: GMT\r\n"
    assert not ask(hidden, b"1").passed or len(hidden) != 37
    smuggled = b"Date: Sun, 06\r\nTransfer-Encoding: x GMT\r\n"
    assert ask(smuggled, b"1").kind == "protocol"


def test_a_rule_about_the_date_sees_each_date() -> None:
    for match in (
        MatchSpec(headers=(HeaderRule("Date", "~", "08:49:31"),)),
        MatchSpec(headers=(HeaderRule("date", "!~", "08:49:32"),)),
    ):
        probe = HttpMatchProbe(spec(match=match), "app:1")
        for second in (1, 2, 1):
            probe.open()
            answer = probe.feed(OK + DATE % second + b"Content-Length: 0\r\n\r\n")
            assert isinstance(answer, Verdict)
            assert answer.passed is (second == 1)


def test_the_same_head_with_other_content_is_another_answer() -> None:
    check = spec(match=body("OK"))
    one, other = HttpMatchProbe(check, "app:1"), HttpMatchProbe(check, "app:2")
    for content in (b"OK", b"no", b"no", b"OK"):
        for probe in (one, other):
            probe.open()
            answer = probe.feed(OK + b"Content-Length: 2\r\n\r\n" + content)
            assert isinstance(answer, Verdict)
            assert answer.passed is (content == b"OK")


def test_many_different_heads_are_all_read() -> None:
    probe = HttpMatchProbe(spec(match=MatchSpec(headers=(HeaderRule("X", "~", "[02468]$"),))), "app:1")
    for number in range(1000):
        probe.open()
        answer = probe.feed(OK + b"X: %d\r\nContent-Length: 0\r\n\r\n" % number)
        assert isinstance(answer, Verdict)
        assert answer.passed is (number % 2 == 0)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_nonsense_is_never_a_pass_and_never_raises(answer: bytes, cuts: list[int]) -> None:
    assume(not answer.startswith(b"HTTP/"))  # that might make sense
    for prefix in (b"", b"HTTP/1.1 500 ", b"HTTP/1.1 500 \r\nTransfer-Encoding: chunked\r\n\r\n"):
        probe = HttpMatchProbe(spec(), "app:1")
        probe.open()
        told = Told(probe, split(prefix + answer, cuts), closes=True)
        assert told.verdict is not None
        assert not told.verdict.passed
        assert told.verdict.kind in KINDS
        assert len(told.verdict.why.encode()) <= 246


def test_a_check_without_a_request_asks_for_the_root() -> None:
    asked = HttpMatchProbe(CheckSpec("u", "http", dialect=PLUS, host="app.test"), "app:1").open()
    assert asked.startswith(b"GET / HTTP/1.1\r\nHost: app.test\r\nUser-Agent: upwell/")
    assert asked.endswith(b" (health check)\r\nConnection: close\r\n\r\n")
    kept = HttpMatchProbe(CheckSpec("u", "http", dialect=PLUS, keepalive_time=9), "app:1").open()
    assert kept.startswith(b"GET / HTTP/1.1\r\nHost: u\r\n")
    assert b"Connection" not in kept


def test_a_check_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="bad regular expression"):
        HttpMatchProbe(spec(match=body("(")), "app:1")


LENIENT = [
    (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", GOOD),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", GOOD),
    (b"HTTP/1.1 200 OK\r\n", GOOD),
    (b"HTTP/1.1 200 OK\nup\n", GOOD),
    (b"HTTP/1.1 503 Busy\nX: y\n\n", bad("status", "status 503, want 200-399", 503)),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\n\n", GOOD),
]


@pytest.mark.parametrize(("answer", "verdict"), LENIENT)
@pytest.mark.parametrize("cuts", [[], [3], [12], [17, 20], list(range(90))])
def test_tengine_s_checks_look_at_the_status_line_alone(answer: bytes, verdict: Verdict, cuts: list[int]) -> None:
    probe = HttpMatchProbe(CheckSpec("u", "http", GET, dialect=TENGINE, keepalive_time=60), "t:80")
    for _ in range(2):
        probe.open()
        told = Told(probe, split(answer, cuts), closes=False)
        assert told.verdict == verdict
        assert not told.finished  # what follows is read: the peer meets no reset
        assert not told.reusable
    strict = HttpMatchProbe(spec(), "t:80")
    strict.open()
    assert Told(strict, split(answer, cuts), closes=True).verdict != verdict


@pytest.mark.parametrize("answer", [b"ICY 200 OK\r\n\r\n", b"HTTP/1.1 OK\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", b""])
def test_what_has_no_status_line_fails_in_tengine_s_dialect_too(answer: bytes) -> None:
    probe = HttpMatchProbe(CheckSpec("u", "http", GET, dialect=TENGINE), "t:80")
    probe.open()
    told = Told(probe, split(answer, []), closes=True)
    assert told.verdict is not None
    assert not told.verdict.passed


def test_a_good_answer_to_tengine_s_check_keeps_its_connection() -> None:
    probe = HttpMatchProbe(CheckSpec("u", "http", GET, dialect=TENGINE, keepalive_time=60), "t:80")
    probe.open()
    told = Told(probe, [OK + b"Content-Length: 2\r\n\r\nok"], closes=False)
    assert (told.verdict, told.finished, told.reusable) == (GOOD, True, True)


def test_interim_answers_count_for_their_own_probe() -> None:
    """Many probes of one kept connection, each answered with a 103 first."""
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload; as=style\r\n\r\n"
    probe = HttpMatchProbe(spec(), "app")
    probe.open()
    for _ in range(2 * MAX_HEAD // len(early)):
        assert probe.feed(early + OK + b"Content-Length: 2\r\n\r\nok") == GOOD
        assert probe.reusable
        assert probe.again() == GET
    # Within one probe they are bounded.
    assert probe.feed(early * (MAX_HEAD // len(early) + 1)) == bad("protocol", "interim answers without end")
