"""Request and response heads: what is read and what is refused, with the status and the reason, whole and in pieces."""

from __future__ import annotations

from typing import Any

import pytest

from tests.http1.reading import cases, wire
from upwell.errors import MessageError
from upwell.http1.fields import FieldReader
from upwell.http1.head import RequestHead, ResponseHead, parse_request_head, parse_response_head, refused_head
from upwell.http1.limits import DEFAULT_LIMITS, Counted, HeadLimits

REFUSED = {
    f"{group}: {name}": (wire(head), status, reason)
    for group, table in cases("heads_refused").items()
    for name, (head, status, reason) in table.items()
}
ACCEPTED: dict[str, dict[str, Any]] = {case["name"]: case for case in cases("heads_accepted")["head"]}


def _read(data: bytes, step: int, limits: HeadLimits = DEFAULT_LIMITS) -> RequestHead | None:
    """The head in `data` when it comes in pieces of `step` bytes."""
    reader = FieldReader()
    for end in range(step, len(data) + step, step):
        head = parse_request_head(data[:end], reader, limits)
        if head is not None:
            return head
    return None


@pytest.mark.parametrize("step", [1, 2, 100_000])
@pytest.mark.parametrize(("head", "status", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_bad_head_is_refused(head: bytes, status: int, reason: str, step: int) -> None:
    with pytest.raises(MessageError) as caught:
        _read(head, step)
    assert caught.value.status == status
    # In pieces the same mistake may be found before the line that a whole head would be blamed for.
    if step == 100_000:
        assert caught.value.reason == reason


@pytest.mark.parametrize("step", [1, 2, 100_000])
@pytest.mark.parametrize("case", ACCEPTED.values(), ids=ACCEPTED)
def test_a_good_head_is_read(case: dict[str, Any], step: int) -> None:
    data = wire(case["head"])
    head = _read(data + wire(case.get("rest", "")), step)
    assert head is not None
    assert head.end == len(data)
    assert (head.method, head.target, head.version) == (wire(case["method"]), wire(case["target"]), case["version"])
    section = head.section
    assert section.fields == tuple((wire(name), wire(value)) for name, value in case["fields"])
    assert section.content_length == case.get("content_length")
    assert section.chunked == case.get("chunked", False)
    if "wires" in case:
        assert section.wires == tuple(wire(line) for line in case["wires"])
    assert section.options == frozenset(wire(option) for option in case.get("options", ()))
    assert section.close == ("close" in case.get("options", ()))


def test_a_head_is_nothing_until_its_end_has_come() -> None:
    data = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    for end in range(len(data)):
        assert parse_request_head(data[:end], FieldReader()) is None
    assert parse_request_head(data, FieldReader()) is not None


LIMITS = [
    # which line has how many bytes with its line end, and the status for it where a line may have 100
    ("target", 100, None),
    ("target", 101, 414),
    ("line", 100, None),
    ("line", 101, 494),
    ("last", 13, None),  # 50 bytes, then three times 100: the empty line needs the last two
    ("last", 14, 494),
]


@pytest.mark.parametrize("step", [1, 7, 100_000])
@pytest.mark.parametrize(("what", "size", "status"), LIMITS)
def test_limits_hold_to_the_byte_whole_and_in_pieces(what: str, size: int, status: int | None, step: int) -> None:
    line = b"GET / HTTP/1.1"
    fields = [b"Host: x"]
    if what == "target":
        line = b"GET /" + b"x" * (size - 2 - len(line)) + b" HTTP/1.1"
    elif what == "line":
        fields.append(b"X: " + b"x" * (size - 5))
    else:
        fields += [b"X: " + b"x" * 80] * 3
        fields.append(b"Y: " + b"y" * (size - 5))
    data = b"\r\n".join([line, *fields, b"", b""])
    limits = HeadLimits(first=50, number=3, size=100)
    if status is None:
        assert _read(data, step, limits) is not None
        return
    with pytest.raises(MessageError) as caught:
        _read(data, step, limits)
    assert caught.value.status == status


def test_what_is_no_request_is_refused_before_its_line_ends() -> None:
    for start in (b"\x16\x03\x01", b"get /", b"GET  /", b"GET / X", b"GET / HTTP/1.1\rx", b"SSH-2"):
        with pytest.raises(MessageError) as caught:
            parse_request_head(start, FieldReader())
        assert caught.value.status == 400
    for start in (b"G", b"GET ", b"GET /", b"GET / ", b"GET / HT", b"GET / HTTP/1.1\r"):
        assert parse_request_head(start, FieldReader()) is None


@pytest.mark.parametrize(("at", "status"), [(99, 400), (100, 414)])
def test_the_first_mistake_of_a_request_line_counts(at: int, status: int) -> None:
    line = b"GET /" + b"x" * (at - 5) + b"\x00" + b"x" * 100 + b" HTTP/1.1\r\n"
    for end in (at + 2, len(line)):
        with pytest.raises(MessageError) as caught:
            parse_request_head(line[:end], FieldReader(), HeadLimits(50, 3, 100))
        assert caught.value.status == status


def test_of_a_refused_head_is_known_what_came_before_the_mistake() -> None:
    data = b"GET /a HTTP/1.1\r\nHost: x\r\nX: 1\r\nX: 2\r\nbad line\r\nY: 1\r\n\r\n"
    head = refused_head(data)
    assert (head.method, head.target, head.section.values) == (b"GET", b"/a", {b"host": b"x", b"x": b"1"})
    assert head.end == data.index(b"bad")
    assert refused_head(b"nonsense\r\nHost: x\r\n\r\n").section.values == {}


def test_field_lines_are_counted() -> None:
    data = b"GET / HTTP/1.1\r\nHost: x\r\nA: 1\r\nB_: ignored\r\nC: 3\r\n\r\n"
    assert parse_request_head(data, FieldReader(max_fields=3)) is not None
    with pytest.raises(MessageError) as caught:
        parse_request_head(data, FieldReader(max_fields=2))
    assert caught.value.status == 494


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
@pytest.mark.parametrize("ignored", [0, 1, 30])
def test_nobody_waits_for_the_end_of_too_many_field_lines(step: int, ignored: int) -> None:
    good = b"GET / HTTP/1.1\r\n" + b"a_:b\r\n" * ignored + b"a:b\r\n" * 5
    data = good + b"a:b\r\na"
    reader, counted, searched = FieldReader(max_fields=5), Counted(), 0
    for end in (*range(step, len(data), step), len(data)):
        if end >= len(good) + 5:
            with pytest.raises(MessageError) as caught:
                parse_request_head(data[:end], reader, DEFAULT_LIMITS, searched, counted)
            assert caught.value.status == 494
            break
        assert parse_request_head(data[:end], reader, DEFAULT_LIMITS, searched, counted) is None
        searched = end
        assert counted.line == data.rfind(b"\n", 0, end) + 1  # nothing before it will be counted again
    assert parse_request_head(good, FieldReader(max_fields=5)) is None


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000])
def test_nobody_waits_for_the_end_of_what_is_too_large_already(start: bytes) -> None:
    with pytest.raises(MessageError) as caught:
        parse_request_head(start + b"x" * 40_000, FieldReader())
    assert caught.value.status in (414, 494)


def test_underscores_and_odd_names_pass_where_they_are_told_to() -> None:
    data = b"GET / HTTP/1.1\r\nHost: x\r\nX_Y: 1\r\nX.Y: 2\r\n\r\n"

    def names(reader: FieldReader) -> list[bytes]:
        head = parse_request_head(data, reader)
        assert head is not None
        return [name for name, _ in head.section.fields]

    assert names(FieldReader()) == [b"host"]
    assert names(FieldReader(underscores=True)) == [b"host", b"x_y"]
    assert names(FieldReader(ignore_invalid=False)) == [b"host", b"x_y", b"x.y"]


# Responses


def _read_response(data: bytes, step: int) -> ResponseHead | None:
    """The response head in `data` when it comes in pieces of `step` bytes."""
    reader = FieldReader(ignore_invalid=False)
    for end in range(step, len(data) + step, step):
        head = parse_response_head(data[:end], reader)
        if head is not None:
            return head
    return None


RESPONSES = cases("responses")


@pytest.mark.parametrize(
    ("data", "version", "status", "line"), RESPONSES["accepted"].values(), ids=RESPONSES["accepted"]
)
@pytest.mark.parametrize("step", [1, 100_000])
def test_a_good_response_head_is_read(data: str, version: int, status: int, line: str, step: int) -> None:
    head = _read_response(wire(data), step)
    assert head is not None
    assert (head.version, head.status, head.line) == (version, status, wire(line))
    assert head.end == data.index("\r\n\r\n") + 4


@pytest.mark.parametrize("data", RESPONSES["refused"].values(), ids=RESPONSES["refused"])
@pytest.mark.parametrize("step", [1, 100_000])
def test_a_bad_response_head_is_the_upstreams_fault(data: str, step: int) -> None:
    with pytest.raises(MessageError) as caught:
        _read_response(wire(data), step)
    assert caught.value.status == 502


def test_a_response_head_has_a_size() -> None:
    data = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100 + b"\r\n\r\n"
    assert parse_response_head(data + b"content", FieldReader(), len(data)) is not None
    assert parse_response_head(data[:-1], FieldReader(), len(data)) is None
    for end in (len(data), len(data) - 1):
        with pytest.raises(MessageError):
            parse_response_head(data[:end], FieldReader(), len(data) - 1)
