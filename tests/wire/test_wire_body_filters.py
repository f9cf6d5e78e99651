"""Content that is changed on its way to the client: piece by piece, in bounded memory, and never held back for ever."""

from __future__ import annotations

import gzip
import zlib

import pytest

from tests.wire.joined import Client, Joined, get, response
from upwell.proxy.body_filters import Opener, opening
from upwell.proxy.exchange import Exchange
from upwell.proxy.gzip import Compressing, Taking, compressing, gunzipping
from upwell.proxy.substitution import Substituting, Value, substituting

TEXT = b"".join(b"<p>line %d</p>\n" % number for number in range(20_000))
HTML = "Content-Type: text/html"
TAKES = "Accept-Encoding: gzip"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n"


def gzipped() -> Opener:
    return compressing(Compressing(frozenset((b"text/html",))), Taking())


def _filtered(*openers: Opener, flushes: bool = False) -> Joined:
    def flush(exchange: Exchange) -> None:
        exchange.flushes = True

    filters = (opening(openers),)
    return Joined(location={"header_filters": (flush, *filters) if flushes else filters})


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Reading:
    """What a client can make of compressed content so far."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.raw = b""

    def text(self) -> bytes:
        self.raw += self.client.far.taken()
        content, rest = self.raw.partition(b"\r\n\r\n")[2], b""
        while content:
            size, _, content = content.partition(b"\r\n")
            length = int(size, 16)
            rest += content[:length]
            content = content[length + 2 :]
        return zlib.decompressobj(31).decompress(rest)


@pytest.mark.parametrize("flushes", [True, False])
def test_what_a_slow_peer_sends_is_not_held_back_for_ever(flushes: bool) -> None:
    with _filtered(gzipped(), flushes=flushes) as joined:
        client = joined.client()
        client.send(get("/", TAKES))
        peer = joined.origin.last
        peer.send(CHUNKED)
        reading = Reading(client)
        told = b""
        for number in range(3):
            event = b"event %d\n" % number
            peer.send(_chunk(event))
            if not flushes:
                assert reading.text() == told  # there may be more at once, and more is shorter together
                joined.advance(0.3)
            told += event
            assert reading.text() == told
        peer.send(b"0\r\n\r\n")
        assert reading.text() == told
        assert reading.raw.endswith(b"\r\n0\r\n\r\n")
    assert joined.done == [(b"GET / HTTP/1.1", 200)]


def test_pieces_of_any_size_come_out_whole_on_a_connection_that_lives_on() -> None:
    with _filtered(gzipped()) as joined:
        client = joined.client()
        for size in (1, 7, 1000, 40_000):
            client.send(get("/", TAKES))
            peer = joined.origin.last
            peer.send(CHUNKED)
            for at in range(0, 100_000 if size > 100 else 2000, size):
                peer.send(_chunk(TEXT[at : at + size]))
            peer.send(b"0\r\n\r\n")
            answer = client.answer()
            assert answer.complete
            assert gzip.decompress(answer.body) == TEXT[: len(gzip.decompress(answer.body))] != b""
        assert len(joined.origin.connections) == 1


def test_an_old_client_gets_compressed_content_that_ends_with_the_connection() -> None:
    opener = compressing(Compressing(None), Taking(version=10))
    with _filtered(opener) as joined:
        client = joined.client()
        client.send(get("/", TAKES, "Connection: keep-alive", version="1.0"))
        joined.origin.last.send(response(TEXT, HTML))
        answer = client.answer()
        assert gzip.decompress(answer.body) == TEXT
        assert (answer.field("connection"), answer.complete) == ("close", True)


def test_a_peer_that_breaks_off_leaves_an_answer_that_nobody_takes_for_complete() -> None:
    with _filtered(gzipped()) as joined:
        client = joined.client()
        client.send(get("/", TAKES))
        peer = joined.origin.last
        peer.send(CHUNKED + _chunk(TEXT[:1000]))
        peer.finish()
        answer = client.answer()
        assert not answer.complete
        assert client.far.ended == "reset"


def test_a_client_that_leaves_while_content_is_held_back_frees_the_peer() -> None:
    with _filtered(gzipped()) as joined:
        client = joined.client()
        client.send(get("/", TAKES))
        peer = joined.origin.last
        peer.send(CHUNKED + _chunk(b"something"))
        client.far.reset()
        assert peer.closed()
        joined.advance(1.0)  # the flush that was planned finds nobody
        assert joined.in_use == [0]


# gunzip

UNPACKED = (gunzipping(Taking()),)
PACKED = ("Content-Type: text/plain", "Content-Encoding: gzip")


def test_compressed_content_is_unpacked_for_those_who_do_not_take_it() -> None:
    packed = gzip.compress(TEXT)
    with _filtered(*UNPACKED) as joined:
        client = joined.client()
        for fields, body in (((), TEXT), ((TAKES,), packed)):
            client.send(get("/", *fields))
            joined.origin.last.send(response(packed, *PACKED, 'ETag: "x"', "Accept-Ranges: bytes"))
            joined.loop.run()
            answer = client.answer()
            assert (answer.body, answer.complete) == (body, True)
            kept = ("gzip", '"x"', "bytes") if fields else (None, 'W/"x"', None)
            assert tuple(answer.field(name) for name in ("content-encoding", "etag", "accept-ranges")) == kept


PACKED_CHUNKS = CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")


@pytest.mark.parametrize("wire", [response(b"", *PACKED), PACKED_CHUNKS + b"0\r\n\r\n"])
def test_an_answer_without_content_that_says_it_is_compressed_is_one_without_content(wire: bytes) -> None:
    with _filtered(*UNPACKED) as joined:
        client = joined.client()
        for _ in range(2):
            client.send(get("/"))
            joined.origin.last.send(wire)
            joined.loop.run()
            answer = client.answer()
            assert (answer.body, answer.complete, answer.field("content-encoding")) == (b"", True, None)


@pytest.mark.parametrize("size", [1, 3, 50])
def test_several_streams_one_behind_the_other_are_one_content(size: int) -> None:
    packed = gzip.compress(b"one, ") + gzip.compress(b"two, ") + gzip.compress(b"three")
    with _filtered(*UNPACKED) as joined:
        client = joined.client()
        client.send(get())
        peer = joined.origin.last
        peer.send(response(b"", *PACKED, length=len(packed)))
        for at in range(0, len(packed), size):
            peer.send(packed[at : at + size])
        answer = client.answer()
        assert (answer.body, answer.complete) == (b"one, two, three", True)


@pytest.mark.parametrize("packed", [gzip.compress(TEXT)[:-9], b"this is nothing that was compressed", b"\x1f\x8b"])
def test_what_cannot_be_unpacked_to_its_end_is_no_complete_answer(packed: bytes) -> None:
    with _filtered(*UNPACKED) as joined:
        client = joined.client()
        client.send(get())
        joined.origin.last.send(response(packed, *PACKED))
        joined.loop.run()
        answer = client.answer()
        assert (answer.status, answer.complete) == (200, False)
        assert client.far.ended == "reset"
        assert any("inflate() failed" in line for line in joined.log.lines)


@pytest.mark.parametrize("known", [True, False])
def test_a_few_bytes_that_stand_for_many_do_not_fill_memory(known: bool) -> None:
    """64 MB in 64 KB: while the client takes nothing, neither its buffer nor the peer's reading goes on."""
    packed = gzip.compress(bytes(64 << 20))
    with _filtered(*UNPACKED) as joined:
        client = joined.client()
        client.far.stall()
        client.send(get())
        peer = joined.origin.last
        peer.send(response(packed, *PACKED) if known else response(b"", *PACKED, length=len(packed)))
        if not known:
            peer.send(packed)
        joined.advance(1.0)
        transport = client.far.transport
        most = len(transport.pending)
        assert most < 1 << 20
        received = 0
        while not client.far.closed() and len(transport.pending):
            most = max(most, len(transport.pending))
            client.far.received += transport.pending
            transport.pending.clear()
            received += len(client.far.taken())
            if transport.write_paused:
                transport.write_paused = False
                client.protocol.resume_writing()
            joined.loop.run()
        assert most < 1 << 20
        assert received > 64 << 20
        assert joined.done == [(b"GET / HTTP/1.1", 200)]


def test_others_have_their_turns_while_they_are_sent_to_a_client_that_reads_fast() -> None:
    packed = gzip.compress(bytes(16 << 20))
    with _filtered(*UNPACKED) as joined:
        client = joined.client()
        client.send(get())
        seen: list[int] = []

        def turn() -> None:
            seen.append(len(client.far.received))
            if len(seen) < 1000:
                joined.loop.call_soon(turn)

        joined.loop.call_soon(turn)
        joined.origin.last.send(response(packed, *PACKED))
        joined.loop.run()
        assert len(client.answer().body) == 16 << 20
        assert len(set(seen)) > 30


def test_a_client_that_leaves_in_the_middle_of_them_frees_all() -> None:
    packed = gzip.compress(bytes(16 << 20))
    with _filtered(*UNPACKED) as joined:
        client = joined.client()
        client.far.stall()
        client.send(get())
        joined.origin.last.send(response(packed, *PACKED))
        client.far.reset()
        joined.advance(1.0)
        assert joined.in_use == [0]
        assert joined.done == [(b"GET / HTTP/1.1", 200)]


def test_content_is_unpacked_and_packed_anew_by_what_comes_in_between() -> None:
    packed = gzip.compress(TEXT)
    with _filtered(gunzipping(Taking(proxied=frozenset(("off",)))), gzipped()) as joined:
        client = joined.client()
        client.send(get("/", TAKES))
        joined.origin.last.send(response(packed, HTML, "Content-Encoding: gzip"))
        assert client.answer().body == packed


# sub_filter


def _value(text: bytes) -> Value:
    def value(_: Exchange) -> bytes:
        return text

    return value


def _sub(*pairs: tuple[bytes, bytes], once: bool = False, keeps: bool = False) -> Opener:
    made = tuple((_value(pattern), _value(text)) for pattern, text in pairs)
    return substituting(Substituting(made, once, frozenset((b"text/html",)), keeps))


SUBSTITUTED: list[tuple[tuple[tuple[bytes, bytes], ...], bytes, bytes, bytes]] = [
    # pairs, content, what comes of it, what comes of it if each is replaced once
    (((b"a", b"b"),), b"aAxa", b"bbxb", b"bAxa"),
    (((b"Abc", b"<>"),), b"xabcABCab", b"x<><>ab", b"x<>ABCab"),
    (((b"aab", b"-"),), b"aaab aaaab", b"a- aa-", b"a- aaaab"),
    (((b"abab", b"-"),), b"ababab", b"-ab", b"-ab"),
    (((b"abc", b"1"), (b"b", b"2")), b"abd abc b", b"a2d 1 2", b"a2d 1 b"),
    (((b"ab", b"1"), (b"abc", b"2")), b"abc abc", b"1c 1c", b"1c 2"),
    (((b"abc", b"2"), (b"ab", b"1")), b"abc abx ab", b"2 1x 1", b"2 1x ab"),
    (((b"<head>", b"<head><x>"), (b"</body>", b"")), b"<HEAD></BODY></body>", b"<head><x>", b"<head><x></body>"),
    (((b".*", b"+"),), b"a.*b", b"a+b", b"a+b"),
    (((b"x", b"xx"),), b"xx", b"xxxx", b"xxx"),
    (((b"", b"never"), (b"y", b"z")), b"xy", b"xz", b"xz"),
    (((b"\xc3\xa4", b"ae"),), "Ää".encode(), b"\xc3\x84ae", b"\xc3\x84ae"),
]


@pytest.mark.parametrize(("pairs", "content", "all_of_them", "first"), SUBSTITUTED)
def test_what_is_replaced_does_not_depend_on_where_pieces_end(
    pairs: tuple[tuple[bytes, bytes], ...], content: bytes, all_of_them: bytes, first: bytes
) -> None:
    for once, expected in ((False, all_of_them), (True, first)):
        with _filtered(_sub(*pairs, once=once)) as joined:
            client = joined.client()
            for size in (1, 2, 3, len(content)):
                client.send(get())
                peer = joined.origin.last
                peer.send(CHUNKED)
                for at in range(0, len(content), size):
                    peer.send(_chunk(content[at : at + size]))
                peer.send(b"0\r\n\r\n")
                answer = client.answer()
                assert (answer.body, answer.complete) == (expected, True), size


def test_only_what_may_be_the_start_of_a_match_waits() -> None:
    with _filtered(_sub((b"</body>", b"!</body>"))) as joined:
        client = joined.client()
        client.send(get())
        peer = joined.origin.last
        peer.send(CHUNKED + _chunk(b"data: 1\n\n"))
        assert client.far.taken().endswith(b"data: 1\n\n\r\n")
        peer.send(_chunk(b"data: </bo"))
        assert client.far.taken() == _chunk(b"data: ")
        peer.send(_chunk(b"at>"))
        assert client.far.taken() == _chunk(b"</boat>")


@pytest.mark.parametrize(
    ("keeps", "fields", "status", "expected"),
    [
        (False, (HTML, 'ETag: "x"', "Last-Modified: Mon, 01 Jan 2001 00:00:00 GMT"), "200 OK", (None, None)),
        (True, (HTML, 'ETag: "x"', "Last-Modified: now"), "200 OK", ('W/"x"', "now")),
        (True, (HTML, 'ETag: W/"x"', "Last-Modified: now"), "404 Not Found", ('W/"x"', "now")),
        (True, (HTML, "ETag: x", "Last-Modified: now"), "200 OK", (None, "now")),
        (False, ("Content-Type: text/plain", 'ETag: "x"', "Last-Modified: now"), "200 OK", ('"x"', "now")),
        (False, ('ETag: "x"',), "200 OK", ('"x"', None)),
    ],
)
def test_the_head_says_what_became_of_the_content(
    keeps: bool, fields: tuple[str, ...], status: str, expected: tuple[str | None, str | None]
) -> None:
    with _filtered(_sub((b"a", b"bb"), keeps=keeps)) as joined:
        client = joined.client()
        for method in ("GET", "HEAD"):
            client.send(get(method=method))
            content = response(b"an a", *fields, status=status)
            joined.origin.last.send(content if method == "GET" else content[:-4])
            answer = client.answer(method)
            changed = HTML in fields
            body = b"" if method == "HEAD" else b"bbn bb" if changed else b"an a"
            assert (answer.body, answer.complete) == (body, True)
            assert (answer.field("etag"), answer.field("last-modified")) == expected
            assert answer.field("content-length") == (None if changed else "4")


def test_replaced_content_is_compressed_behind_that() -> None:
    with _filtered(*UNPACKED, _sub((b"line", b"row")), gzipped()) as joined:
        client = joined.client()
        client.send(get("/", TAKES))
        joined.origin.last.send(response(TEXT, HTML))
        assert gzip.decompress(client.answer().body) == TEXT.replace(b"line", b"row")
