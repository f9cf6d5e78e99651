"""No pattern of the grammar takes more than linear time: on so many bytes a worse one runs into the test's time-out."""

from __future__ import annotations

import re

import pytest

from upwell.errors import MessageError
from upwell.http1 import syntax
from upwell.http1.fields import FieldReader

MANY = 300_000
FILLERS = [b" ", b"\t", b"a", b"A", b"0", b"a ", b" \t", b"/a", b"/.", b".", b":", b"%", b";", b"\xe9", b"~\t"]
STARTS = {
    "FIELD_LINE": [b"", b"X:", b"X: a", b"X"],
    "REQUEST_LINE": [b"", b"GET ", b"GET /", b"GET / "],
    "REQUEST_LINE_BEGUN": [b"", b"GET ", b"GET /", b"GET / "],
    "STATUS_LINE": [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 "],
    "CHUNK_HEAD": [b"", b"5", b"5;", b"5 ;"],
    "HOST": [b"", b"[", b"a:"],
    "ABSOLUTE_TARGET": [b"", b"http:", b"http://"],
    "CONTENT_LENGTH": [b"", b"5"],
    "FIELD_LINE_BEGUN": [b"", b"X", b"X:", b"X: "],
    "TOKEN": [b""],
    "PLAIN_NAME": [b""],
    "UNDERSCORE_NAME": [b""],
    "BARE_LF": [b"", b"\r"],
    "LINE_END": [b""],
    "SECRET_NAME": [b"", b"sess", b"a-"],
    "HOST_LINE": [b"", b"\r\n", b"\r\nHost:", b"\r\nHost: "],
}
SEARCHED = {"BARE_LF", "LINE_END", "HOST_LINE", "SECRET_NAME"}


def test_no_pattern_is_left_out() -> None:
    assert {name for name, value in vars(syntax).items() if isinstance(value, re.Pattern)} == set(STARTS)


@pytest.mark.parametrize("name", STARTS)
def test_a_pattern_takes_linear_time(name: str) -> None:
    pattern: re.Pattern[bytes] = getattr(syntax, name)
    for start in STARTS[name]:
        for filler in FILLERS:
            for end in (b"", b"\0"):
                data = start + filler * (MANY // len(filler)) + end
                if name in SEARCHED:
                    pattern.search(data)
                else:
                    pattern.fullmatch(data)
                    pattern.match(data)


@pytest.mark.parametrize("blank", [b" ", b"\t"])
def test_a_line_of_blanks_is_read_and_refused_like_any_other(blank: bytes) -> None:
    reader = FieldReader(max_line=2 * MANY)
    assert reader.read(b"X:" + blank * MANY + b"\r\n").fields == ((b"x", b""),)
    assert reader.read(b"X:" + blank * MANY + b"a" + b"\r\n").fields == ((b"x", b"a"),)
    for bad in (b"\0", b"a\0", b"\x7f"):
        with pytest.raises(MessageError):
            reader.read(b"X:" + blank * MANY + bad + b"\r\n")
