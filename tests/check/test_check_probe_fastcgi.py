"""The fastcgi probe: its request as records, and responses whole, odd and wrong; tests/system has a real PHP-FPM."""

from __future__ import annotations

import pytest

from tests.check.talking import talk, told, why
from upwell.check.probes.fastcgi import FastcgiProbe
from upwell.check.spec import PLUS, TENGINE, CheckSpec, MatchSpec

STDOUT, STDERR, END = 6, 7, 3
FINE = b"Content-Type: text/html\r\n\r\nhello"


def record(kind: int, content: bytes, padding: int = 0) -> bytes:
    return bytes((1, kind, 0, 1)) + len(content).to_bytes(2, "big") + bytes((padding, 0)) + content + bytes(padding)


def response(head: bytes = FINE, stderr: bytes = b"", padding: int = 0) -> bytes:
    first = record(STDERR, stderr, padding) if stderr else b""
    return first + record(STDOUT, head, padding) + record(STDOUT, b"") + record(END, bytes(8))


def probe(match: MatchSpec | None = None, keep: float = 0.0, dialect: str = PLUS) -> FastcgiProbe:
    params = (("SCRIPT_FILENAME", "/ping.php"), ("LONG", "x" * 200))
    return FastcgiProbe(
        CheckSpec("u", "fastcgi", dialect=dialect, params=params, match=match, keepalive_time=keep), "php:9000"
    )


def test_the_request() -> None:
    sent, _ = talk(probe(), response())
    assert sent == (
        record(1, b"\0\1\0\0\0\0\0\0")
        + record(4, b"\x0f\x09SCRIPT_FILENAME/ping.php" + b"\x04\x80\0\0\xc8LONG" + b"x" * 200)
        + record(4, b"")
        + record(5, b"")
    )
    kept, _ = talk(probe(keep=60.0), response())
    assert kept[:16] == record(1, b"\0\1\1\0\0\0\0\0")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (FINE, 200),
        (b"Status: 204 No Content\r\n\r\n", 204),
        (b"status:301\nLocation: /x\n\n", 301),
        (b"Location: /x\r\n\r\n", 302),
        (b"X: 1\r\nSTATUS: 200\r\n\r\n", 200),
    ],
)
@pytest.mark.parametrize("padding", [0, 7, 255])
def test_the_status_of_a_response(head: bytes, status: int, padding: int) -> None:
    assert told(probe(), response(head, padding=padding)) == (True, "", "", status, "", b"")
    assert told(probe(keep=60.0), response(head, b"note", padding)) == (True, "", "", status, "", b"")


def test_the_head_may_come_in_records_of_one_byte() -> None:
    pieces = b"".join(record(STDOUT, FINE[at : at + 1], 3) for at in range(len(FINE)))
    assert told(probe(), pieces).passed


def test_the_rules_are_the_match_blocks() -> None:
    assert why(probe(MatchSpec()), response(b"Status: 500\r\n\r\n")) == ""
    two = MatchSpec(statuses=((200, 299),), words="2xx")
    assert why(probe(two), response(b"Status: 302\r\n\r\n")) == "status: status 302, want 2xx"
    gone = response(b"Status: 404 Not Found\r\n\r\nFile not found.", b"Primary script unknown")
    assert why(probe(), gone) == "status: status 404, want 200-399 (Primary script unknown)"
    assert told(probe(), gone).status == 404


def test_what_comes_on_stderr_first_fails_for_tengine_alone() -> None:
    noted = response(stderr=b"PHP message: notice\n")
    assert told(probe(), noted).passed
    assert why(probe(dialect=TENGINE), noted) == "status: FastCGI stderr: PHP message: notice"
    assert told(probe(dialect=TENGINE), response() + record(STDERR, b"x")).passed
    flood = record(STDERR, b"\xff" * 60_000)
    assert why(probe(dialect=TENGINE), flood)[:30] == "status: FastCGI stderr: \\xff\\x"


def test_a_kept_connection_is_read_to_the_end_of_the_request() -> None:
    one = probe(keep=60.0)
    whole = response()
    for again in (False, True):
        sent, verdict = talk(one, whole, range(len(whole)), again=again)
        assert verdict.passed
        assert (one.finished, one.reusable) == (True, True)
        assert sent[:2] == b"\1\1"
    talk(one, whole + b"\1")
    assert not one.reusable
    talk(one, whole[:-1])
    assert not one.reusable


def test_without_one_the_head_is_the_verdict() -> None:
    one = probe()
    one.open()
    assert one.feed(record(STDOUT, FINE)) == (True, "", "", 200, "", b"")
    assert not one.finished


def test_an_endless_answer_is_left_at_some_point() -> None:
    one = probe(keep=60.0)
    one.open()
    answer = one.feed(record(STDOUT, FINE))
    for _ in range(100):
        if answer != b"":
            break
        answer = one.feed(record(STDOUT, b"x" * 0xFFFF))
    assert answer == (True, "", "", 200, "", b"")
    assert not one.reusable
    one.open()
    answer = b""
    for _ in range(100):
        if answer != b"":
            break
        answer = one.feed(record(STDERR, b"x" * 0xFFFF))
    assert answer == (False, "protocol", "bad FastCGI: no head in 1048576 bytes", 0, "", b"")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "closed: connection closed before the FastCGI response"),
        (record(STDOUT, b"Status: 200\r\n"), "closed: connection closed before the FastCGI response"),
        (record(STDERR, b"oops"), "closed: connection closed before the FastCGI response (oops)"),
        (b"HTTP/1.1 400 Bad Request\r\n", "protocol: bad FastCGI: version 72, want 1"),
        (record(11, bytes(8)), "protocol: bad FastCGI: record of type 11"),
        (b"\1\6\0\2\0\0\0\0", "protocol: bad FastCGI: request 2, want 1"),
        (record(END, b"\0" * 4), "protocol: bad FastCGI: FCGI_END_REQUEST of 4 bytes, want 8"),
        (record(STDOUT, b""), "protocol: bad FastCGI: stdout closed before the end of the head"),
        (record(END, bytes(8)), "protocol: bad FastCGI: request ended before the end of the head"),
        (record(END, b"\0\0\0\0\2\0\0\0"), "status: FastCGI: overloaded"),
        (record(END, b"\0\0\0\0\1\0\0\0"), "status: FastCGI: cannot multiplex"),
        (record(END, b"\0\0\0\0\x09\0\0\0"), "status: FastCGI: protocol status 9"),
        (response(b"Status: abc\r\n\r\n"), 'protocol: bad FastCGI: Status "abc"'),
        (response(b"Status: 0200\r\n\r\n"), 'protocol: bad FastCGI: Status "0200"'),
        (response(b"Status: 2000\r\n\r\n"), 'protocol: bad FastCGI: Status "2000"'),
        (response(b"<html>\r\n\r\n"), 'protocol: bad FastCGI: line "<html>" in the head'),
        (response(b"\r\n\r\n"), 'protocol: bad FastCGI: line "" in the head'),
        (response(b"X: " + b"x" * 20_000), "protocol: bad FastCGI: head of more than 16384 bytes"),
    ],
)
@pytest.mark.parametrize("keep", [0.0, 60.0])
def test_each_way_to_fail(answer: bytes, words: str, keep: float) -> None:
    one = probe(keep=keep)
    assert why(one, answer) == words
    assert one.finished
    assert not one.reusable
