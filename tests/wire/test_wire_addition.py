"""Content of other locations before and after an answer's own: in order, at the client's pace, in bounded memory."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable

import pytest

from tests.wire.joined import Joined, get, response
from upwell.proxy.addition import Adding, surrounding
from upwell.proxy.body_filters import opening
from upwell.proxy.exchange import Exchange
from upwell.proxy.forward import forward
from upwell.proxy.gzip import Compressing, Taking, compressing

HTML = "Content-Type: text/html"
TYPES = frozenset((b"text/html",))
LARGE = bytes(range(256)) * 8_000


def _text(content: bytes) -> Callable[[Exchange], Awaitable[None]]:
    async def handler(exchange: Exchange) -> None:
        exchange.respond(200, content)

    return handler


async def _large(exchange: Exchange) -> None:
    exchange.content_type = b"text/html"
    exchange.send_head()
    for at in range(0, len(LARGE), 64_000):
        exchange.write(LARGE[at : at + 64_000])
        await exchange.drained()


async def _broken(exchange: Exchange) -> None:
    exchange.send_head()
    exchange.write(b"half of")
    exchange.abort()


def _surrounded(before: bytes = b"/before", after: bytes = b"/after", packed: bool = False) -> Joined:
    async def proxied(exchange: Exchange) -> None:
        await forward(exchange, joined.spec)

    openers = [surrounding(Adding(before, after, TYPES))]
    if packed:
        openers.append(compressing(Compressing(TYPES), Taking()))
    joined = Joined(
        location={"header_filters": (opening(openers),)},
        places={
            b"/before": _text(b"[before]"),
            b"/after": _text(b"[after]"),
            b"/text": _text(b"text"),
            b"/large": _large,
            b"/broken": _broken,
            b"/proxied": proxied,
        },
    )
    return joined


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (b"/before", b"/after", b"[before]text[after]"),
        (b"/before", b"", b"[before]text"),
        (b"", b"/after", b"text[after]"),
    ],
)
def test_content_of_others_is_around_the_answer(before: bytes, after: bytes, expected: bytes) -> None:
    with _surrounded(before, after) as joined:
        client = joined.client()
        for path in ("/text", "/", "/text"):
            client.send(get(path))
            if path == "/":
                joined.origin.last.send(response(b"text", HTML, "Accept-Ranges: bytes", 'ETag: "x"'))
            answer = client.answer()
            assert (answer.body, answer.complete) == (expected, True)
            assert answer.field("accept-ranges") is answer.field("content-length") is None
            assert answer.field("etag") == ('W/"x"' if path == "/" else None)


@pytest.mark.parametrize(
    ("method", "answered", "body"),
    [
        ("HEAD", response(b"", HTML, length=4), b""),
        ("GET", response(b"text", "Content-Type: text/plain"), b"text"),
        ("GET", response(b"text", HTML, status="404 Not Found"), b"text"),
        ("GET", response(b"", HTML), b"[before][after]"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Type: text/html\r\n\r\n", b""),
    ],
)
def test_other_answers_have_none(method: str, answered: bytes, body: bytes) -> None:
    with _surrounded() as joined:
        client = joined.client()
        client.send(get(method=method))
        joined.origin.last.send(answered)
        answer = client.answer(method)
        assert (answer.body, answer.complete) == (body, True)


def test_a_peer_is_not_read_before_the_others_are_through() -> None:
    with _surrounded(b"/proxied", b"/proxied") as joined:
        client = joined.client()
        client.send(get())
        main = joined.origin[0]
        main.taken()
        main.send(response(b"", HTML, length=200_000))
        first = joined.origin[1]
        assert not main.reading()
        main.send(bytes(200_000))
        first.send(response(b"", length=10))
        for _ in range(10):
            first.send(b"b")
            joined.advance(30.0)  # the read timeout is for the one that is read
        assert len(joined.origin.connections) == 2
        [last] = [far for far in joined.origin.connections if far.taken().count(b"GET") == (2 if far is first else 1)]
        last.send(response(b"end"))
        answer = client.answer()
        assert (answer.body, answer.complete) == (b"b" * 10 + bytes(200_000) + b"end", True)


@pytest.mark.parametrize(("before", "after"), [(b"/large", b"/after"), (b"/before", b"/large"), (b"/large", b"/large")])
def test_the_client_s_pace_is_that_of_all(before: bytes, after: bytes) -> None:
    with _surrounded(before, after) as joined:
        client = joined.client()
        client.far.stall()
        client.send(get("/text"))
        joined.loop.run()
        transport = client.far.transport
        most, received = 0, b""
        while transport.pending:
            most = max(most, len(transport.pending))
            received += bytes(transport.pending)
            transport.pending.clear()
            if transport.write_paused:
                transport.write_paused = False
                client.protocol.resume_writing()
            joined.loop.run()
        assert most < 400_000
        client.far.received += received
        expected = {b"/before": b"[before]", b"/after": b"[after]", b"/large": LARGE}
        answer = client.answer()
        assert (answer.body == expected[before] + b"text" + expected[after], answer.complete) == (True, True)


@pytest.mark.parametrize(
    ("before", "after"), [(b"/large", b"/after"), (b"/before", b"/large"), (b"/proxied", b"/after")]
)
@pytest.mark.parametrize("path", ["/text", "/"])
def test_a_client_that_leaves_frees_all(before: bytes, after: bytes, path: str) -> None:
    with _surrounded(before, after) as joined:
        client = joined.client()
        client.far.stall()
        client.send(get(path))
        if path == "/":
            joined.origin[0].send(response(b"text", HTML))
        client.far.reset()
        joined.loop.run()
        assert joined.in_use == [0]
        assert [status for _, status in joined.done] == [200]


def test_what_breaks_off_leaves_no_complete_answer() -> None:
    for before, after in ((b"/broken", b""), (b"", b"/broken")):
        with _surrounded(before, after) as joined:
            client = joined.client()
            client.send(get("/text"))
            answer = client.answer()
            assert not answer.complete
            assert client.far.ended == "reset"


def test_all_of_it_is_compressed_together() -> None:
    with _surrounded(packed=True) as joined:
        client = joined.client()
        for count in (1, 100):  # of unknown length, so never too short
            client.send(get("/", "Accept-Encoding: gzip"))
            joined.origin.last.send(response(b"text" * count, HTML))
            assert gzip.decompress(client.answer().body) == b"[before]" + b"text" * count + b"[after]"


def test_all_of_it_goes_at_the_rate_that_is_set() -> None:
    def rate(exchange: Exchange) -> None:
        exchange.limit_rate = 1000

    with _surrounded(packed=True) as joined:
        for path in (b"/text", b"/large"):
            location = joined.places[path]
            location.header_filters = (*location.header_filters, rate)
        client = joined.client()
        client.send(get("/text", "Accept-Encoding: gzip"))
        joined.advance(3.0)
        answer = client.answer()
        assert (gzip.decompress(answer.body), answer.complete) == (b"[before]text[after]", True)
        client.send(get("/large"))
        joined.advance(10.0)
        assert 10_000 <= len(client.far.received) <= 12_500
