"""Conditions and byte ranges without a server: what holds for any field. What nginx says is in the system tests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upwell.http1.conditions import BEFORE, EXACT, OFF, names_tag, parse_date, verdict
from upwell.http1.ranges import is_of_bytes, parse_ranges, part_head, parts_end
from upwell.proxy.clock import http_date

_FIELDS = st.text("bytes=0123456789-, \tx", max_size=60).map(str.encode)


@given(st.integers(0, 253_402_300_799))
def test_a_date_is_read_as_it_was_written(seconds: int) -> None:
    assert parse_date(http_date(seconds)) == seconds


@given(st.binary(max_size=60))
def test_any_bytes_are_a_date_or_none(text: bytes) -> None:
    found = parse_date(text)
    assert found is None or found >= 0


@given(_FIELDS, st.integers(0, 120), st.integers(1, 5))
def test_ranges_are_inside_and_no_more_than_the_whole(field: bytes, length: int, most: int) -> None:
    found = parse_ranges(b"bytes=" + field, length, most)
    if found:
        assert len(found) <= most
        assert sum(end - start for start, end in found) <= length
        assert all(0 <= start < end <= length for start, end in found)


@pytest.mark.parametrize(
    ("field", "most", "expected"),
    [
        (b"bytes=0-0", 9, [(0, 1)]),
        (b"bytes=-3,2-", 9, None),
        (b"bytes=-3, 0-1", 9, [(7, 10), (0, 2)]),
        (b"bytes=0-1,3-4", 1, None),
        (b"bytes=10-", 9, ()),
        (b"bytes=" + b"9" * 5000 + b"-", 9, ()),
        (b"bytes=0-1;", 9, ()),
    ],
)
def test_ranges(field: bytes, most: int, expected: list[tuple[int, int]] | None) -> None:
    found = parse_ranges(field, 10, most)
    assert (None if found is None else list(found)) == (None if expected is None else list(expected))


def test_parts_are_announced_in_full() -> None:
    assert is_of_bytes(b"Bytes=0-1")
    assert not is_of_bytes(b"bytes=")
    assert part_head(b"B", b"a/b", 1, 3, 9) == b"\r\n--B\r\nContent-Type: a/b\r\nContent-Range: bytes 1-2/9\r\n\r\n"
    assert part_head(b"B", None, 1, 3, 9) == b"\r\n--B\r\nContent-Range: bytes 1-2/9\r\n\r\n"
    assert parts_end(b"B") == b"\r\n--B--\r\n"


@given(st.lists(st.sampled_from([b'"a"', b'W/"a"', b'"b"', b'"a', b"x", b"", b'"a"x']), max_size=5), st.booleans())
def test_a_tag_is_named_where_one_of_the_list_is_it(listed: list[bytes], weak: bool) -> None:
    named = any(one == b'"a"' or (weak and one == b'W/"a"') for one in listed)
    for comma in (b",", b", ", b" ,\t"):
        assert names_tag(comma.join(listed), b'"a"', weak) is named


@pytest.mark.parametrize(
    ("values", "since", "expected"),
    [
        ({}, EXACT, 0),
        ({b"if-modified-since": http_date(100)}, EXACT, 304),
        ({b"if-modified-since": http_date(101)}, EXACT, 0),
        ({b"if-modified-since": http_date(101)}, BEFORE, 304),
        ({b"if-modified-since": http_date(99)}, BEFORE, 0),
        ({b"if-modified-since": http_date(100)}, OFF, 0),
        ({b"if-unmodified-since": http_date(99)}, EXACT, 412),
        ({b"if-unmodified-since": b"rubbish"}, EXACT, 412),
        ({b"if-match": b'"x"'}, EXACT, 412),
        ({b"if-none-match": b'"t"', b"if-match": b'"t"'}, EXACT, 304),
        ({b"if-none-match": b"*", b"if-modified-since": http_date(99)}, EXACT, 0),
    ],
)
def test_verdicts(values: dict[bytes, bytes], since: int, expected: int) -> None:
    assert verdict(values, b'"t"', 100, since) == expected
