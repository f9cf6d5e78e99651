"""Slow clients: ended by the time-outs that nginx has for them, and holding no more than their buffers meanwhile.

A head, content and an answer, each at a byte or a piece a second. What a connection holds is what was received
and not passed on: its own buffer, the held content, and what waits in the transports.
"""

from __future__ import annotations

import pytest

from tests.wire.joined import CHUNKED, HIGH_WATER, Client, Joined, chunks, get, post, response

HEAD_TIMEOUT = 60.0
BODY_TIMEOUT = 60.0
SLACK = 20_000  # one more read of the pieces that these tests send


def _held(client: Client) -> int:
    """Bytes that upwell keeps of what `client` sent, and for it."""
    protocol = client.protocol
    body = protocol.body
    in_memory = sum(map(len, body.pieces)) if body is not None else 0
    return len(protocol._buffer) + in_memory + len(client.far.transport.pending)


@pytest.mark.parametrize(
    "beginning", [b"", b"\r\n\r\n", b"GET /", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX: "]
)
def test_a_head_at_a_byte_a_second_is_ended_by_its_timeout(beginning: bytes) -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(beginning)
        began = joined.loop.time()
        while not client.far.closed():
            client.send(b"\r\n"[:1] if not beginning.strip() else b"x")
            joined.advance(1)
            assert joined.loop.time() - began <= 2 * HEAD_TIMEOUT + 5
        assert joined.origin.connections == []
        assert client.rest == b""


def test_a_second_head_at_a_byte_a_second_is_ended_as_well() -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get())
        joined.origin.last.send(response(b"x"))
        assert client.answer().body == b"x"
        began = joined.loop.time()
        client.send(b"GET /")
        while not client.far.closed():
            client.send(b"x")
            joined.advance(1)
            assert joined.loop.time() - began <= HEAD_TIMEOUT + 5
        assert client.rest == b""


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("buffering", [False, True])
def test_content_that_stops_is_ended_and_one_at_a_byte_a_second_holds_its_buffer_only(
    chunked: bool, buffering: bool
) -> None:
    location = {"max_body_size": 0, "body_buffer_size": 100}
    with Joined(spec={"request_buffering": buffering}, location=location) as joined:
        client = joined.client()
        size = 10_000_000
        if chunked:
            client.send(get("/", "Transfer-Encoding: chunked", method="POST") + b"%x\r\n" % size)
        else:
            client.send(post(b"", length=size))
        for _ in range(600):  # ten minutes: client_body_timeout is for the time between two reads
            client.send(b"x")
            joined.advance(1)
            assert _held(client) <= 100
        assert not client.far.closed()
        assert len(joined.origin.connections) == (0 if buffering else 1)
        assert all(len(peer.received) >= 600 for peer in joined.origin.connections)
        joined.advance(BODY_TIMEOUT + 2)
        assert client.far.closed()
        assert all(peer.closed() for peer in joined.origin.connections)
        assert joined.done[-1][1] == 408


@pytest.mark.parametrize("line", [b"5;", b"0\r\nX: "])
def test_a_line_of_chunks_without_end_holds_a_few_thousand_bytes_at_most(line: bytes) -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get("/", "Transfer-Encoding: chunked", method="POST") + line)
        sent = 0
        while not client.far.ended:
            client.send(b"x" * 100)
            sent += 100
            assert sent < 10_000
        assert client.answer("POST").status == 400
        assert joined.origin.connections == []


@pytest.mark.parametrize("buffering", [False, True])
def test_tiny_chunks_hold_no_more_than_large_ones(buffering: bool) -> None:
    location = {"max_body_size": 0, "body_buffer_size": 1000}
    with Joined(spec={"request_buffering": buffering}, location=location) as joined:
        client = joined.client()
        client.send(get("/", "Transfer-Encoding: chunked", method="POST"))
        for _ in range(5000):
            client.send(chunks(b"x"))
            assert _held(client) <= 1000
        client.send(b"0\r\n\r\n")
        (peer,) = joined.origin.connections
        assert peer.received.endswith(b"x" * 5000 if buffering else b"\r\n0\r\n\r\n")
        peer.send(response(b"x"))
        assert client.answer("POST").body == b"x"


@pytest.mark.parametrize("head", [response(b"", length=50_000_000), CHUNKED + b"2faf080\r\n"])
def test_an_answer_is_not_taken_in_for_a_client_that_reads_slowly(head: bytes) -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get())
        peer = joined.origin.last
        client.far.stall()
        peer.send(head)
        for _ in range(300):
            while peer.reading():
                peer.send(bytes(10_000))
            assert _held(client) <= HIGH_WATER + SLACK
            joined.advance(30)  # send_timeout is for the time between two reads
            assert not client.far.closed()
            del client.far.transport.pending[:100]
        joined.advance(68)  # an eighth late at most
        assert client.far.closed()
        assert peer.closed()
        assert joined.in_use == [0]


def test_slow_clients_do_not_keep_others_waiting() -> None:
    with Joined() as joined:
        slow = [joined.client() for _ in range(20)]
        for number, client in enumerate(slow):
            client.send((b"GET / HT", post(b"x", length=9), get("/", "X: y")[:-3])[number % 3])
        fine = joined.client()
        fine.send(get())
        joined.origin.last.send(response(b"fine"))
        assert fine.answer().body == b"fine"
        joined.advance(2 * HEAD_TIMEOUT + 5)
        assert all(client.far.closed() for client in slow)
