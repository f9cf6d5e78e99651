"""Where content ends: the three readers, whole and in pieces."""

from __future__ import annotations

import pytest

from tests.http1.reading import cases, wire
from upwell.errors import MessageError
from upwell.http1.framing import ChunkedReader, CloseReader, LengthReader, chunk

CHUNKED = cases("chunked")


def _read(reader: ChunkedReader | LengthReader | CloseReader, data: bytes, step: int) -> tuple[bytes, bytes | None]:
    """All content of `data` in pieces of `step` bytes, and what is behind its end."""
    content = b""
    for at in range(0, len(data), step):
        piece, rest = reader.feed(data[at : at + step])
        content += piece
        if rest is not None:
            assert reader.complete
            return content, rest + data[at + step :]
    assert not reader.complete
    return content, None


@pytest.mark.parametrize("step", [1, 2, 3, 100_000])
@pytest.mark.parametrize(("name", "data", "content", "trailers", "rest"), CHUNKED["accepted"])
def test_chunks_are_read(name: str, data: str, content: str, trailers: str, rest: str, step: int) -> None:
    reader = ChunkedReader()
    assert _read(reader, wire(data), step) == (wire(content), wire(rest)), name
    assert reader.trailers == wire(trailers)


@pytest.mark.parametrize("step", [1, 2, 3, 100_000])
@pytest.mark.parametrize(("name", "data"), CHUNKED["refused"])
def test_bad_chunks_are_400(name: str, data: str, step: int) -> None:
    with pytest.raises(MessageError) as caught:
        _read(ChunkedReader(), wire(data), step)
    assert caught.value.status == 400, name


@pytest.mark.parametrize(("name", "data", "content", "trailers", "rest"), CHUNKED["accepted"])
def test_chunks_cut_off_are_never_complete(name: str, data: str, content: str, trailers: str, rest: str) -> None:
    whole = wire(data)
    for end in range(len(whole) - len(rest)):
        reader = ChunkedReader()
        _, behind = reader.feed(whole[:end])
        assert behind is None, name
        assert not reader.complete


@pytest.mark.parametrize("step", [1, 100_000])
def test_extensions_and_trailers_are_bounded_to_the_byte_whole_and_in_pieces(step: int) -> None:
    good = b"0;" + b"x" * 252 + b"\r\n\r\n"  # 256 with its line end
    assert _read(ChunkedReader(), good, step) == (b"", b"")
    with pytest.raises(MessageError):
        _read(ChunkedReader(), good.replace(b";", b";x"), step)
    good = b"0\r\n" + b"X: " + b"x" * 4000 + b"\r\n" + b"Y: " + b"y" * (8192 - 4010) + b"\r\n\r\n"
    assert len(good) == 8192 + 5
    assert _read(ChunkedReader(), good, step) == (b"", b"")
    with pytest.raises(MessageError):
        _read(ChunkedReader(), good.replace(b"X:", b"X: x"), step)


def test_nobody_waits_for_the_end_of_a_line_that_is_too_long() -> None:
    for start in (b"5;", b"0\r\nX: "):
        with pytest.raises(MessageError):
            ChunkedReader().feed(start + b"x" * 10_000)


@pytest.mark.parametrize("step", [1, 3, 100])
def test_a_length_ends_where_it_says(step: int) -> None:
    assert _read(LengthReader(5), b"helloREST", step) == (b"hello", b"REST")
    assert _read(LengthReader(5), b"hello", step) == (b"hello", b"")
    assert _read(LengthReader(6), b"hello", step) == (b"hello", None)
    assert LengthReader(0).complete


def test_until_close_never_ends_by_itself() -> None:
    reader = CloseReader()
    assert reader.feed(b"0\r\n\r\n") == (b"0\r\n\r\n", None)
    assert not reader.complete


def test_a_chunk_is_what_the_reader_reads() -> None:
    assert chunk(b"hello") == b"5\r\nhello\r\n"
    assert chunk(b"x" * 255) == b"ff\r\n" + b"x" * 255 + b"\r\n"
