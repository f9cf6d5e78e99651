"""Content in both directions: streamed with back-pressure, limited, given up on by either side, answered early."""

from __future__ import annotations

import pytest

from tests.wire.joined import CHUNKED, HIGH_WATER, LAST, Joined, chunks, get, post, response

BIG = bytes(range(256)) * 400  # 102,400 bytes: beyond the body buffer and the high-water mark
NO_LIMIT = {"max_body_size": 0}
STREAMING = {"request_buffering": False}


def _chunked_post(*pieces: bytes, end: bytes = LAST) -> bytes:
    return get("/", "Transfer-Encoding: chunked", method="POST") + chunks(*pieces) + end


def test_content_within_the_buffer_is_read_before_a_peer_is_asked() -> None:
    with Joined() as joined:
        client = joined.client()
        wire = post(b"0123456789")
        client.send(wire[:-5])
        assert joined.origin.connections == []
        client.send(wire[-5:])
        assert joined.origin.last.taken() == b"POST / HTTP/1.1\r\nHost: peers\r\nContent-Length: 10\r\n\r\n0123456789"
        joined.origin.last.send(response())
        assert client.answer("POST").status == 200


def test_chunked_content_within_the_buffer_goes_with_its_length() -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(_chunked_post(b"01234", b"56789", end=b"0\r\nX-Trailer: 1\r\n\r\n"))
        assert joined.origin.last.taken() == b"POST / HTTP/1.1\r\nHost: peers\r\nContent-Length: 10\r\n\r\n0123456789"
        joined.origin.last.send(response())
        assert client.answer("POST").status == 200


def test_an_empty_content_is_announced_as_such() -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(post(b""))
        assert b"\r\nContent-Length: 0\r\n" in joined.origin.last.taken()
        joined.origin.last.send(response())
        assert client.answer("POST").status == 200
        client.send(_chunked_post())
        assert joined.origin.last.taken().endswith(b"\r\nContent-Length: 0\r\n\r\n")
        joined.origin.last.send(response())
        assert client.answer("POST").status == 200


@pytest.mark.parametrize("step", [1000, 10_000, 200_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_larger_content_streams(step: int, chunked: bool) -> None:
    with Joined(spec=STREAMING) as joined:
        client = joined.client()
        pieces = [BIG[at : at + 10_000] for at in range(0, len(BIG), 10_000)]
        wire = _chunked_post(*pieces) if chunked else post(BIG)
        for at in range(0, len(wire), step):
            client.send(wire[at : at + step])
        head, _, body = joined.origin.last.taken().partition(b"\r\n\r\n")
        if b"Transfer-Encoding" in head:
            assert body.endswith(LAST)
            assert len(body) > len(BIG)
        else:
            assert head.endswith(b"Content-Length: 102400")
            assert body == BIG
        joined.origin.last.send(response(b"thanks"))
        assert client.answer("POST").body == b"thanks"
        # The connection to the peer ended cleanly on both sides, so it is used again.
        client.send(get())
        joined.origin.last.send(response(b"next"))
        assert client.answer().body == b"next"
        assert len(joined.origin.connections) == 1


def test_streaming_begins_before_the_content_is_complete() -> None:
    with Joined(spec=STREAMING) as joined:
        client = joined.client()
        wire = post(BIG)
        client.send(wire[:30_000])
        got = len(joined.origin.last.received)
        assert got > 16_384
        client.send(wire[30_000:50_000])
        assert len(joined.origin.last.received) >= got + 20_000
        client.send(wire[50_000:])
        joined.origin.last.send(response())
        assert client.answer("POST").status == 200


def test_a_slow_peer_holds_back_its_client() -> None:
    with Joined(spec=STREAMING, location=NO_LIMIT) as joined:
        client = joined.client()
        total = 4_000_000
        client.send(post(bytes(20_000), length=total))
        peer = joined.origin.last
        peer.stall()
        sent = 20_000
        while client.far.reading() and sent < total:
            client.send(bytes(20_000))
            sent += 20_000
        assert sent < HIGH_WATER + 60_000
        joined.advance(50)  # below the send time-out nobody is blamed
        peer.take()
        assert client.far.reading()
        while sent < total:
            client.send(bytes(20_000))
            sent += 20_000
        assert peer.taken().partition(b"\r\n\r\n")[2] == bytes(total)
        peer.send(response(b"took it"))
        assert client.answer("POST").body == b"took it"


def test_a_peer_that_takes_nothing_any_more_is_given_up() -> None:
    with Joined(spec=STREAMING, location=NO_LIMIT) as joined:
        client = joined.client()
        client.send(post(bytes(20_000), length=4_000_000))
        joined.origin.last.stall()
        while client.far.reading():
            client.send(bytes(20_000))
        joined.advance(61)
        assert client.answer("POST").status == 504
        assert joined.in_use == [0]
        assert joined.origin.last.closed()
        assert any("while sending request to upstream" in line for line in joined.log.lines)


def test_a_slow_connection_is_no_reason_to_take_in_everything() -> None:
    with Joined(spec=STREAMING, location=NO_LIMIT) as joined:
        joined.origin.mode = "hang"
        client = joined.client()
        client.send(post(bytes(20_000), length=4_000_000))
        sent = 0
        while client.far.reading() and sent < 4_000_000:
            client.send(bytes(20_000))
            sent += 20_000
        assert sent < 200_000
        joined.advance(61)
        assert client.answer("POST").status == 504


def test_a_slow_client_holds_back_its_peer() -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get())
        client.far.stall()
        total = 4_000_000
        peer = joined.origin.last
        peer.send(response(b"", length=total))
        sent = 0
        while peer.reading() and sent < total:
            peer.send(bytes(20_000))
            sent += 20_000
        assert sent < HIGH_WATER + 60_000
        joined.advance(50)
        client.far.take()
        assert peer.reading()
        while sent < total:
            peer.send(bytes(20_000))
            sent += 20_000
        answer = client.answer()
        assert (len(answer.body), answer.complete) == (total, True)


def test_a_client_that_takes_nothing_any_more_is_given_up() -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get())
        client.far.stall()
        peer = joined.origin.last
        peer.send(response(b"", length=4_000_000))
        while peer.reading():
            peer.send(bytes(20_000))
        joined.advance(58)
        assert joined.in_use == [1]
        joined.advance(3)
        assert client.far.closed()
        assert joined.in_use == [0]
        assert peer.closed()


@pytest.mark.parametrize("fields", [(), ("Connection: close",)])
@pytest.mark.parametrize("size", [10_000, 300_000])
def test_a_client_that_never_takes_its_answer_is_not_kept_for_ever(fields: tuple[str, ...], size: int) -> None:
    async def large(exchange: object) -> None:
        exchange.respond(200, bytes(size))  # type: ignore[attr-defined]  # Joined gives an Exchange

    with Joined(places={b"/large": large}) as joined:
        client = joined.client()
        client.far.stall()
        client.send(get("/large", *fields))
        joined.advance(200)
        assert client.far.closed()


# Limits


@pytest.mark.parametrize("size", [1024, 1025])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("step", [100, 10_000])
def test_content_above_the_limit_is_413(size: int, chunked: bool, step: int) -> None:
    with Joined(location={"max_body_size": 1024}) as joined:
        client = joined.client()
        wire = _chunked_post(bytes(size - 20), bytes(20)) if chunked else post(bytes(size))
        for at in range(0, len(wire), step):
            client.send(wire[at : at + step])
        if size <= 1024:
            joined.origin.last.send(response())
            assert client.answer("POST").status == 200
            return
        assert joined.origin.connections == []
        answer = client.answer("POST")
        assert (answer.status, answer.field("Connection")) == (413, "close")
        assert client.far.ended == "fin"
        joined.advance(10)
        assert client.far.closed()


def test_chunked_content_that_grows_above_the_limit_while_it_streams_ends_the_request_at_the_peer() -> None:
    with Joined(spec=STREAMING, location={"max_body_size": 50_000}) as joined:
        client = joined.client()
        client.send(_chunked_post(bytes(30_000), end=b""))
        peer = joined.origin.last
        assert peer.received
        client.send(chunks(bytes(30_000)) + LAST)
        assert client.answer("POST").status == 413
        assert peer.closed()
        assert not peer.received.endswith(LAST)
        assert joined.in_use == [0]


@pytest.mark.parametrize("step", [1, 10_000])
def test_bad_chunks_are_400_and_reach_nobody(step: int) -> None:
    with Joined() as joined:
        client = joined.client()
        wire = _chunked_post(b"good", end=b"zz\r\n") + get("/smuggled")
        for at in range(0, len(wire), step):
            client.send(wire[at : at + step])
        assert joined.origin.connections == []
        answer = client.answer("POST")
        assert (answer.status, answer.field("Connection")) == (400, "close")
        assert client.rest == b""
        assert joined.done[-1][1] == 400


def test_bad_chunks_while_streaming_never_make_a_whole_request() -> None:
    with Joined(spec=STREAMING) as joined:
        client = joined.client()
        client.send(_chunked_post(bytes(30_000), end=b""))
        peer = joined.origin.last
        client.send(b"zz\r\n")
        assert peer.closed()
        assert not peer.received.endswith(LAST)
        assert client.answer("POST").status == 400


# Expect


def test_expect_is_answered_before_the_content() -> None:
    with Joined() as joined:
        client = joined.client()
        wire = post(b"hello", "Expect: 100-continue")
        client.send(wire[:-5])
        assert client.far.taken() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(wire[-5:])
        sent = joined.origin.last.taken()
        assert b"xpect" not in sent
        joined.origin.last.send(response(b"hi"))
        assert client.answer("POST").body == b"hi"


def test_expect_is_not_answered_when_the_content_is_there_or_the_client_is_old() -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(post(b"hello", "Expect: 100-continue"))
        joined.origin.last.send(response(b"hi"))
        answer = client.answer("POST")
        assert (answer.body, answer.interim) == (b"hi", [])
        client = joined.client()
        client.send(post(b"", "Expect: 100-continue", length=5).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert client.far.taken() == b""


def test_who_is_refused_is_not_asked_for_content() -> None:
    with Joined(location={"max_body_size": 10}) as joined:
        client = joined.client()
        client.send(post(b"", "Expect: 100-continue", length=1000))
        answer = client.answer("POST")
        assert (answer.status, answer.interim) == (413, [])


# Answers before the content has come


@pytest.mark.parametrize("wire", [response(b"early"), CHUNKED + chunks(b"early") + LAST])
def test_an_early_answer_passes_and_the_rest_of_the_content_is_thrown_away(wire: bytes) -> None:
    with Joined(spec=STREAMING) as joined:
        client = joined.client()
        request = post(BIG)
        client.send(request[:30_000])
        peer = joined.origin.last
        peer.send(wire)
        answer = client.answer("POST")
        assert (answer.status, answer.body, answer.complete) == (200, b"early", True)
        assert joined.in_use == [0]
        assert peer.closed()  # it waits for the rest of the content, so no other request may follow on it
        if not client.far.ended:
            client.send(request[30_000:])
            client.send(get("/next"))
            joined.origin.last.send(response(b"next"))
            assert client.answer().body == b"next"


def test_after_an_early_answer_an_idle_client_is_timed_out() -> None:
    with Joined(spec=STREAMING) as joined:
        client = joined.client()
        request = post(BIG)
        client.send(request[:30_000])
        joined.origin.last.send(response(b"early"))
        assert client.answer("POST").complete
        client.send(request[30_000:])
        joined.advance(200)
        assert client.far.closed()


def test_after_an_early_answer_a_client_that_sends_no_more_is_timed_out() -> None:
    with Joined(spec=STREAMING) as joined:
        client = joined.client()
        client.send(post(BIG)[:30_000])
        joined.origin.last.send(response(b"early"))
        assert client.answer("POST").complete
        joined.advance(200)
        assert client.far.closed()


def test_an_early_answer_frees_a_peer_that_takes_no_more() -> None:
    with Joined(spec=STREAMING, location=NO_LIMIT) as joined:
        client = joined.client()
        client.send(post(bytes(20_000), length=4_000_000))
        peer = joined.origin.last
        peer.stall()
        while client.far.reading():
            client.send(bytes(20_000))
        peer.send(response(b"no more", status="413 Too Much"))
        assert client.answer("POST").status == 413
        joined.advance(100)
        assert peer.closed()


def test_the_content_goes_on_while_the_answer_already_comes() -> None:
    with Joined(spec=STREAMING) as joined:
        client = joined.client()
        request = post(BIG)
        client.send(request[:30_000])
        peer = joined.origin.last
        peer.send(CHUNKED + chunks(b"one"))
        client.send(request[30_000:60_000])
        peer.send(chunks(b"two"))
        client.send(request[60_000:])
        assert peer.taken().partition(b"\r\n\r\n")[2] == BIG
        peer.send(chunks(b"three") + LAST)
        assert client.answer("POST").body == b"onetwothree"
        client.send(get())
        assert len(joined.origin.connections) == 1
        joined.origin.last.send(response(b"next"))
        assert client.answer().body == b"next"


# Slow uploads


def test_an_upload_that_is_slow_but_steady_is_whole() -> None:
    with Joined() as joined:
        client = joined.client()
        request = post(BIG)
        for at in range(0, len(request), 5_000):
            client.send(request[at : at + 5_000])
            joined.advance(50)
        assert joined.origin.last.taken().partition(b"\r\n\r\n")[2] == BIG
        joined.origin.last.send(response(b"patient"))
        assert client.answer("POST").body == b"patient"


@pytest.mark.parametrize("so_far", [100, 30_000])
def test_an_upload_that_stops_is_given_up(so_far: int) -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(post(BIG)[:so_far])
        joined.advance(58)
        assert not client.far.closed()
        joined.advance(10)
        assert client.far.closed()
        assert joined.in_use == [0]
        assert joined.done[-1][1] == 408
        assert all(far.closed() for far in joined.origin.connections)


def test_content_of_a_get_passes() -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get("/", "Content-Length: 5") + b"hello" + get("/next"))
        assert joined.origin.last.taken().endswith(b"Content-Length: 5\r\n\r\nhello")
        joined.origin.last.send(response(b"one"))
        assert joined.origin.last.taken().startswith(b"GET /next ")
        joined.origin.last.send(response(b"two"))
        assert client.answer().body == b"one"
        assert client.answer().body == b"two"
