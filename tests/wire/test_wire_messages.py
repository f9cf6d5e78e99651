"""Messages through upwell in memory: every framing in both directions, kept connections, pipelines, HEAD, interim."""

from __future__ import annotations

import pytest

from tests.wire.joined import CHUNKED, LAST, Joined, chunks, get, post, response


def test_a_request_and_its_answer_pass() -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get("/a?b=c", "X-One: 1"))
        assert joined.in_use == [1]
        assert joined.origin.last.taken() == b"GET /a?b=c HTTP/1.1\r\nHost: peers\r\nX-One: 1\r\n\r\n"
        joined.origin.last.send(response(b"hello", "X-Two: 2"))
        answer = client.answer()
        assert (answer.status, answer.body, answer.complete) == (200, b"hello", True)
        assert (answer.field("X-Two"), answer.field("Connection")) == ("2", "keep-alive")
        assert joined.in_use == [0]
        assert joined.done == [(b"GET /a?b=c HTTP/1.1", 200)]


def test_connections_to_client_and_peer_are_kept() -> None:
    with Joined() as joined:
        client = joined.client()
        for number in range(5):
            client.send(get(f"/{number}"))
            joined.origin.last.send(response(b"%d" % number))
            assert client.answer().body == b"%d" % number
        assert len(joined.origin.connections) == 1
        assert not client.far.ended


def test_two_clients_take_turns_on_one_kept_connection_or_need_two() -> None:
    with Joined() as joined:
        one, two = joined.client(), joined.client()
        one.send(get("/1"))
        two.send(get("/2"))
        assert len(joined.origin.connections) == 2
        joined.origin[1].send(response(b"2"))
        joined.origin[0].send(response(b"1"))
        assert (one.answer().body, two.answer().body) == (b"1", b"2")
        one.send(get("/3"))
        joined.origin[0].send(response(b"3"))
        assert one.answer().body == b"3"
        assert len(joined.origin.connections) == 2


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_an_answer_that_has_no_content_ends_at_its_head(status: str) -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get())
        joined.origin.last.send(f"HTTP/1.1 {status}\r\nX: y\r\n\r\n".encode())
        answer = client.answer()
        assert (answer.status, answer.body, answer.complete) == (int(status[:3]), b"", True)
        assert answer.field("Transfer-Encoding") is None
        client.send(get("/next"))
        joined.origin.last.send(response(b"next"))
        assert client.answer().body == b"next"
        assert len(joined.origin.connections) == 1


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", CHUNKED, b"HTTP/1.1 200 OK\r\n\r\n"]
)
def test_an_answer_to_head_ends_at_its_head(head: bytes) -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get(method="HEAD"))
        joined.origin.last.send(head)
        answer = client.answer("HEAD")
        assert (answer.status, answer.body, answer.complete) == (200, b"", True)
        assert answer.field("Content-Length") == ("1000" if b"1000" in head else None)
        client.send(get("/next"))
        joined.origin.last.send(response(b"next"))
        assert client.answer().body == b"next"


def test_content_that_head_must_not_have_is_not_passed_on_and_spoils_the_connection() -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get(method="HEAD"))
        joined.origin.last.send(response(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
        assert client.answer("HEAD").complete
        assert client.rest == b""
        assert joined.origin[0].closed()


FRAMINGS = {
    "length": (response(b"0123456789"), False),
    "chunked": (CHUNKED + chunks(b"01234", b"56789") + LAST, False),
    "chunked with extension and trailer": (
        CHUNKED + b"5;a=b\r\n01234\r\n5 ;c\r\n56789\r\n0\r\nX-Trailer: 1\r\n\r\n",
        False,
    ),
    "until close": (b"HTTP/1.1 200 OK\r\n\r\n0123456789", True),
    "HTTP/1.0 until close": (b"HTTP/1.0 200 OK\r\n\r\n0123456789", True),
    "HTTP/1.0 with a length": (b"HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\n0123456789", False),
}


@pytest.mark.parametrize(("wire", "closes"), FRAMINGS.values(), ids=FRAMINGS)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_content_of_any_framing_arrives_whole(wire: bytes, closes: bool, version: str, step: int) -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get(version=version))
        for at in range(0, len(wire), step):
            joined.origin.last.send(wire[at : at + step])
        if closes:
            joined.origin.last.finish()
        answer = client.answer()
        assert (answer.status, answer.body, answer.complete) == (200, b"0123456789", True)
        if version == "1.0":
            assert answer.field("Transfer-Encoding") is None
            assert client.far.ended == "fin"
        else:
            client.send(get("/next"))
            joined.origin.last.send(response(b"next"))
            assert client.answer().body == b"next"


def test_only_a_connection_that_may_live_is_used_again() -> None:
    closing = [
        response(b"x", "Connection: close"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
        response(b"x") + b"surplus",
        CHUNKED + chunks(b"x") + LAST + b"surplus",
        b"HTTP/1.1 204 No Content\r\n\r\nsurplus",
    ]
    for wire in closing:
        with Joined() as joined:
            client = joined.client()
            client.send(get())
            joined.origin.last.send(wire)
            assert client.answer().complete
            assert joined.origin.last.closed(), wire
            client.send(get())
            assert len(joined.origin.connections) == 2
            joined.origin.last.send(response(b"fresh"))
            assert client.answer().body == b"fresh"


def test_a_connection_of_http_1_0_may_ask_to_be_kept() -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get())
        joined.origin.last.send(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx")
        assert client.answer().complete
        assert not joined.origin.last.closed()


def test_a_peer_that_speaks_unasked_is_not_trusted_with_a_request() -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get())
        joined.origin.last.send(response(b"x"))
        assert client.answer().complete
        joined.origin.last.send(response(b"smuggled"))
        assert joined.origin.last.closed()
        client.send(get())
        joined.origin.last.send(response(b"fresh"))
        assert client.answer().body == b"fresh"


def test_an_old_client_may_ask_to_be_kept() -> None:
    with Joined() as joined:
        client = joined.client()
        for _ in range(2):
            client.send(get("/", "Connection: keep-alive", version="1.0"))
            joined.origin.last.send(response(b"x"))
            answer = client.answer()
            assert (answer.body, answer.field("Connection")) == (b"x", "keep-alive")
        assert not client.far.ended


@pytest.mark.parametrize(
    ("request_", "kept"),
    [
        (get(), True),
        (get("/", "Connection: close"), False),
        (get("/", "Connection: Close"), False),
        (get("/", "Connection: x, close"), False),
        (get("/", "Connection: keep-alive"), True),
        (get(version="1.0"), False),
        (get("/", "Connection: keep-alive", version="1.0"), True),
        (get("/", "Connection: keep-alive, close", version="1.0"), False),
    ],
)
def test_who_wants_the_connection_to_end_is_heard(request_: bytes, kept: bool) -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(request_)
        joined.origin.last.send(response(b"x"))
        answer = client.answer()
        assert answer.complete
        assert answer.field("Connection") == ("keep-alive" if kept else "close")
        assert client.far.ended == ("" if kept else "fin")


def test_a_pipeline_is_answered_in_order() -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get("/1") + post(b"two", path="/2") + get("/3"))
        for number, asked in enumerate((b"GET /1", b"POST /2", b"GET /3"), 1):
            assert joined.origin.last.taken().startswith(asked)
            joined.origin.last.send(response(b"%d" % number))
        for number, method in enumerate(("GET", "POST", "GET"), 1):
            assert client.answer(method).body == b"%d" % number
        assert client.rest == b""


def test_a_request_behind_content_gets_its_own_answer() -> None:
    for body in (post(b"x" * 10), get("/", "Transfer-Encoding: chunked", method="POST") + chunks(b"x" * 10) + LAST):
        for step in (1, 5, 10_000):
            with Joined() as joined:
                client = joined.client()
                wire = body + get("/behind")
                for at in range(0, len(wire), step):
                    client.send(wire[at : at + step])
                first = joined.origin.last.taken()
                assert first.startswith(b"POST / ")
                assert b"behind" not in first
                joined.origin.last.send(response(b"posted"))
                assert joined.origin.last.taken().startswith(b"GET /behind ")
                joined.origin.last.send(response(b"got"))
                assert client.answer("POST").body == b"posted"
                assert client.answer().body == b"got"


def test_a_flood_of_requests_is_not_taken_in_before_its_turn() -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get("/first"))
        for _ in range(40):
            client.send(get("/", "X: " + "x" * 5000))
        assert not client.far.reading()
        answered = 0
        while not answered or joined.origin.last.received:
            joined.origin.last.taken()
            joined.origin.last.send(response(b"x"))
            answered += 1
        assert answered == 41
        assert client.far.reading()
        assert all(client.answer().body == b"x" for _ in range(41))


def test_interim_responses_are_read_past() -> None:
    with Joined() as joined:
        client = joined.client()
        for step in (1, 10_000):
            client.send(get())
            wire = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + response(b"final")
            for at in range(0, len(wire), step):
                joined.origin.last.send(wire[at : at + step])
            answer = client.answer()
            assert (answer.status, answer.body, answer.interim) == (200, b"final", [])
        assert len(joined.origin.connections) == 1


@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * 700,
        (b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * 4000 + b"\r\n\r\n") * 5,
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
)
def test_a_flood_of_interim_responses_and_a_switch_nobody_asked_for_are_refused(interim: bytes) -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get())
        joined.origin.last.send(interim)
        assert client.answer().status == 502
        assert joined.origin.last.closed()


GARBAGE = {
    "nonsense": b"nonsense\r\n\r\n",
    "nonsense without an end": b"nonsense",
    "HTTP/2": b"HTTP/2.0 200 OK\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "two framings": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "endless head": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
    "a folded line": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "a bare CR": b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
    "NUL": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    "a space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_from_a_peer_costs_its_own_request_only(garbage: bytes) -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get())
        joined.origin.last.send(garbage)
        if garbage == b"nonsense":
            joined.origin.last.finish()
        assert client.answer().status == 502
        assert joined.origin[0].closed()
        client.send(get())
        joined.origin.last.send(response(b"fine"))
        assert client.answer().body == b"fine"


BROKEN = {
    "length": (response(b"half", length=8), "fin"),
    "length, reset": (response(b"half", length=8), "reset"),
    "chunked": (CHUNKED + chunks(b"half"), "fin"),
    "within a chunk": (CHUNKED + b"8\r\nhalf", "fin"),
    "before the trailers": (CHUNKED + b"4\r\nhalf\r\n0\r\n", "fin"),
    "until close, reset": (b"HTTP/1.1 200 OK\r\n\r\nhalf", "reset"),
    "a bad chunk": (CHUNKED + chunks(b"half") + b"zz\r\n", ""),
}


@pytest.mark.parametrize(("wire", "end"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_content_cut_off_never_looks_complete(wire: bytes, end: str, version: str) -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get(version=version) + get("/behind"))
        for at in range(0, len(wire), 4):
            joined.origin.last.send(wire[at : at + 4])
        if end == "fin":
            joined.origin.last.finish()
        elif end == "reset":
            joined.origin.last.reset()
        assert client.far.ended == "reset"
        answer = client.answer()
        assert (answer.status, answer.body, answer.complete) == (200, b"half", False)
        assert joined.in_use == [0]
        assert joined.origin.last.closed()
