"""Status lines as lua-resty reads them, and when an answer is known to be whole."""

from __future__ import annotations

import pytest

from upwell.check.match import is_whole, problem, status_of


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"HTTP/1.1 200 OK", 200),
        (b"HTTP/1.0 302", 302),
        (b"http/1.1 \t 404 Not Found", 404),
        (b"HTTP/2.0 200abc", 200),
        (b"HTTP/10.12 200", 200),
        (b"HTTP/1.1 0200", 200),
        (b"HTTP/1.1 " + b"9" * 5000, 999999999),
        (b"HTTP/1.1", 0),
        (b"HTTP/1 200 OK", 0),
        (b" HTTP/1.1 200 OK", 0),
        (b"SSH-2.0-OpenSSH_9.2", 0),
        (b"", 0),
    ],
)
def test_the_status_of_a_line(line: bytes, status: int) -> None:
    assert status_of(line) == status


def test_without_statuses_any_line_passes() -> None:
    assert problem(b"garbage", 0, ()) is None
    assert problem(b"HTTP/1.1 500 Oops", 500, ()) is None


def test_with_statuses_only_those_pass() -> None:
    assert problem(b"HTTP/1.1 302 Found", 302, {200, 302}) is None
    assert problem(b"HTTP/1.1 500 Oops", 500, {200}) == ("bad status code from", "500")
    assert problem(b"\xff\xfe nonsense", 0, {200}) == ("bad status line from", "\udcff\udcfe nonsense")
    # A status of 0 is a code like another; it is the line that was good.
    assert problem(b"HTTP/1.1 0 Zero", 0, {200}) == ("bad status code from", "0")


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length:5\r\n\r\nhello", True),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil close", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", False),
        (b"HTTP/1.1 200 OK\r\n\r\nContent-Length: 1\r\n", False),
    ],
)
def test_whole_answers(data: bytes, whole: bool) -> None:
    assert is_whole(data, head_request=False) is whole


def test_an_answer_to_head_ends_with_its_head() -> None:
    assert is_whole(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", head_request=True)
    assert not is_whole(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n", head_request=True)
