"""HTTP/1.1 reading holds at any split of the bytes, and what upwell reads and passes on, h11 reads alike."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import h11
from hypothesis import example, given
from hypothesis import strategies as st

from upwell.errors import MessageError
from upwell.http1.fields import FieldReader
from upwell.http1.framing import ChunkedReader, LengthReader, chunk
from upwell.http1.head import RequestHead, ResponseHead, parse_request_head, parse_response_head
from upwell.http1.limits import HeadLimits
from upwell.http1.target import normalise

# Bytes that are dear to parsers, more often than chance would have them.
ODD = st.sampled_from(
    [
        b"\r\n",
        b"\r",
        b"\n",
        b"\0",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"0",
        b"5",
        b"a",
        b"\x0b",
        b"\x7f",
        b"\xe9",
        b"%",
        b"/",
    ]
)
LINES = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"POST /a?b HTTP/1.1\r\n",
        b"GET / HTTP/1.0\r\n",
        b"GET http://x/ HTTP/1.1\r\n",
        b"GET / HTTP/2.0\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 204\r\n",
        b"Host: x\r\n",
        b"Host: y:80\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"X-A: b\r\n",
        b" folded\r\n",
        b"\r\n",
    ]
)
WIRE = st.lists(st.one_of(LINES, ODD, st.binary(max_size=3)), max_size=12).map(b"".join)
HEAD = st.lists(st.one_of(LINES, ODD), max_size=8).map(
    lambda parts: b"GET /x HTTP/1.1\r\nHost: x\r\n" + b"".join(parts) + b"\r\n\r\n"
)
CUTS = st.lists(st.integers(0, 200), max_size=8)


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(at)]


Parse = Callable[[bytes], "RequestHead | ResponseHead | None"]


def _outcome(parse: Parse, data: bytes, cuts: list[int]) -> tuple[Any, ...]:
    """What a growing buffer gives in the end: refused with which status, waiting, or the head and its end."""
    buffer = b""
    for piece in _pieces(data, cuts):
        buffer += piece
        try:
            head = parse(buffer)
        except MessageError as error:
            return ("refused", error.status)
        if isinstance(head, RequestHead):
            return ("read", head.end, head.method, head.target, head.version, head.section.fields, head.section.wires)
        if head is not None:
            return ("read", head.end, head.line, head.version, head.section.fields, head.section.wires)
    return ("waiting",)


def _check_splits(parse: Parse, data: bytes, cuts: list[int]) -> None:
    whole = _outcome(parse, data, [])
    split = _outcome(parse, data, cuts)
    if whole[0] == "refused" or split[0] == "refused":
        # Which of several mistakes is found first may depend on what has come; that it is refused may not.
        assert whole[0] == split[0] == "refused"
    else:
        assert split == whole


@given(st.one_of(WIRE, HEAD), CUTS)
@example(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", [1, 15, 16, 24, 25, 26])
@example(b"\r\n\r\n", [2])
def test_a_request_head_is_the_same_at_any_split(data: bytes, cuts: list[int]) -> None:
    _check_splits(lambda buffer: parse_request_head(buffer, FieldReader()), data, cuts)


@given(st.one_of(WIRE, HEAD), CUTS, st.integers(10, 60), st.integers(1, 3), st.integers(10, 60))
@example(b"GET / HTTP/1.1\r\n", [11], 10, 1, 10)
@example(b"GET / HTTP/1.1\r\nHost: x\r\n", [15], 15, 1, 10)
def test_limits_are_the_same_at_any_split(data: bytes, cuts: list[int], first: int, number: int, size: int) -> None:
    limits = HeadLimits(first, number, size)
    _check_splits(lambda buffer: parse_request_head(buffer, FieldReader(), limits), data, cuts)


@given(st.one_of(WIRE, WIRE.map(lambda rest: b"HTTP/1.1 200 OK\r\n" + rest)), CUTS, st.integers(20, 200))
def test_a_response_head_is_the_same_at_any_split(data: bytes, cuts: list[int], head: int) -> None:
    _check_splits(lambda buffer: parse_response_head(buffer, FieldReader(ignore_invalid=False), head), data, cuts)


@given(WIRE)
def test_a_reader_that_remembers_says_the_same_again(data: bytes) -> None:
    reader = FieldReader()
    first = _outcome(lambda buffer: parse_request_head(buffer, reader), data, [])
    assert _outcome(lambda buffer: parse_request_head(buffer, reader), data, []) == first


CHUNKS = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=20).map(chunk),
        st.sampled_from(
            [b"0\r\n", b"\r\n", b"5;a=b\r\n", b"X: y\r\n", b"00\r\n\r\n", b"A\r\n", b"fffffffffffffff\r\n"]
        ),
        ODD,
    ),
    max_size=10,
).map(b"".join)


def _content(data: bytes, cuts: list[int]) -> tuple[Any, ...]:
    reader = ChunkedReader()
    content = b""
    pieces = _pieces(data, cuts)
    for number, piece in enumerate(pieces):
        try:
            more, rest = reader.feed(piece)
        except MessageError as error:
            return ("refused", error.status)
        content += more
        if rest is not None:
            assert reader.complete
            return ("read", content, reader.trailers, rest + b"".join(pieces[number + 1 :]))
    assert not reader.complete
    return ("waiting", content)


@given(CHUNKS, CUTS)
@example(b"5\r\nhello\r\n0\r\nX: y\r\n\r\nrest", [1, 2, 3, 8, 9, 10, 13, 20, 21, 22])
def test_chunks_are_the_same_at_any_split(data: bytes, cuts: list[int]) -> None:
    whole = _content(data, [])
    split = _content(data, cuts)
    if "waiting" in (whole[0], split[0]) and "refused" in (whole[0], split[0]):
        # A line that can no longer become a good one is refused at once or when its end comes, never accepted.
        whole, split = _content(data + b"\r\n" * 2 + b"x" * 300, []), _content(data + b"\r\n" * 2 + b"x" * 300, cuts)
        assert whole[0] == split[0] == "refused"
    else:
        assert split == whole


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=6), CUTS, st.binary(max_size=10))
def test_chunks_that_were_written_are_read(pieces: list[bytes], cuts: list[int], rest: bytes) -> None:
    data = b"".join(chunk(piece) for piece in pieces) + b"0\r\n\r\n" + rest
    assert _content(data, cuts) == ("read", b"".join(pieces), b"", rest)


@given(st.binary(max_size=60), st.integers(1, 60), CUTS)
def test_a_length_is_the_same_at_any_split(data: bytes, length: int, cuts: list[int]) -> None:
    reader = LengthReader(length)
    content = b""
    behind: bytes | None = None
    pieces = _pieces(data, cuts)
    for number, piece in enumerate(pieces):
        more, behind = reader.feed(piece)
        content += more
        if behind is not None:
            behind += b"".join(pieces[number + 1 :])
            break
    assert content == data[:length]
    assert behind == (data[length:] if len(data) >= length else None)


# Beside h11


def _by_h11(data: bytes) -> h11.Request:
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    server.receive_data(data)
    event = server.next_event()
    assert isinstance(event, h11.Request)
    return event


def _passed_on(head: RequestHead) -> bytes:
    """The head as it goes to a peer: start line, then the field lines that were read."""
    version = head.version - 10
    return b"%b %b HTTP/1.%d\r\n%b\r\n" % (head.method, head.target, version, b"".join(head.section.wires))


@given(st.one_of(WIRE, HEAD))
@example(b"GET /\xe9 HTTP/1.1\r\nHost: x\r\n\r\n")
@example(b"GET / HTTP/1.0\r\nX: a\x0b\r\n\r\n")
def test_what_upwell_passes_on_h11_reads_alike(data: bytes) -> None:
    try:
        head = parse_request_head(data, FieldReader())
    except MessageError:
        return
    if head is None:
        return
    passed = _passed_on(head)
    if any(byte >= 0x80 for byte in head.target):
        # nginx passes such targets as they are; h11 takes none, so it gets to see the rest.
        target = b"/"
        passed = passed.replace(head.target, target, 1)
    else:
        target = head.target
    theirs = _by_h11(passed)
    assert (theirs.method, theirs.target) == (head.method, target)
    ours = [
        # h11 gives framing fields in its own form
        (name, value.lower() if name == b"transfer-encoding" else value)
        for name, value in head.section.fields
    ]
    assert list(theirs.headers) == ours
    # And it ends where upwell says: what follows is content or the next request for both.
    assert passed.endswith(b"\r\n\r\n")
    assert passed.count(b"\r\n\r\n") == 1


@given(st.lists(st.sampled_from([b"/", b".", b"..", b"a", b"%2e", b"%2F", b"%41", b"%00", b"%", b"?"]), max_size=12))
def test_a_normalised_path_has_nothing_left_to_normalise(parts: list[bytes]) -> None:
    path = b"/" + b"".join(parts).replace(b"?", b"%3f")
    try:
        uri = normalise(path)
    except MessageError:
        return
    assert uri.startswith(b"/")
    assert b"//" not in uri
    assert not {b".", b".."} & set(uri.split(b"/"))
    assert b"\0" not in uri
