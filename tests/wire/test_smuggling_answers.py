"""Odd answers of a peer (tests/cases/http1/odd_answers.toml): what the client sees, and what the next request gets.

Every case is played whole, in pieces and byte by byte; each good answer is also broken off behind each of its bytes.
"""

from __future__ import annotations

import pytest

from tests.http1.reading import cases, wire
from tests.wire.joined import Client, Joined, get, response

ODD: dict[str, list[str]] = {
    f"{group}: {name}": case for group, table in cases("odd_answers").items() for name, case in table.items()
}
WHOLE = {name: case for name, case in ODD.items() if name.startswith("in_order")}
STEPS = [1, 7, 100_000]


def _ask(joined: Joined, client: Client, asked: str) -> str:
    method, _, version = asked.partition("/")
    client.send(get("/odd", "Connection: keep-alive", method=method, version=version or "1.1"))
    return method


def _answer(joined: Joined, data: bytes, step: int, end: str) -> None:
    """The peer answers in pieces of `step` bytes and then ends as it is told, as long as upwell listens."""
    peer = joined.origin.last
    for at in range(0, len(data), step):
        if not peer.closed():
            peer.send(data[at : at + step])
    if end and not peer.closed():
        peer.finish() if end == "fin" else peer.reset()


def _next_gets_its_own(joined: Joined, client: Client) -> None:
    """On the client's connection if it lives, else on another; twice, for what the first may have left behind."""
    for number in range(2):
        if client.far.ended:
            client = joined.client()
        for far in joined.origin.connections:
            far.taken()
        client.send(get(f"/next{number}"))
        asked = [far for far in joined.origin.connections if far.received]
        assert [bytes(far.received).split(b" ")[1] for far in asked] == [b"/next%d" % number]
        asked[0].send(response(b"next%d" % number))
        answer = client.answer()
        assert (answer.status, answer.body, answer.complete) == (200, b"next%d" % number, True)
        assert client.rest == b""


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("asked", "data", "end", "seen", "content", "kept"), ODD.values(), ids=ODD)
def test_an_odd_answer(asked: str, data: str, end: str, seen: str, content: str, kept: str, step: int) -> None:
    with Joined() as joined:
        client = joined.client()
        method = _ask(joined, client, asked)
        _answer(joined, wire(data), step, end)
        answer = client.answer(method)
        assert (answer.status, answer.complete) == (int(seen.rstrip("-")), not seen.endswith("-"))
        if content == "*":
            assert b"<center>upwell/" in answer.body or method == "HEAD"
        elif step == 1 or not seen.endswith("-"):
            assert answer.body == wire(content)
        else:  # content that came together with what breaks it may be held back
            assert wire(content).startswith(answer.body)
        assert client.rest == b""
        assert answer.field("Set-Cookie") is None
        assert joined.in_use == [0]
        assert joined.origin[0].closed() == (kept == "closed")
        _next_gets_its_own(joined, client)
        assert (len(joined.origin.connections) == 1) == (kept == "kept")


def test_the_cases_are_there() -> None:
    assert len(ODD) > 90
    assert {case[5] for case in ODD.values()} == {"kept", "closed"}


@pytest.mark.parametrize("end", ["fin", "reset"])
@pytest.mark.parametrize(("asked", "data", "_end", "seen", "content", "_kept"), WHOLE.values(), ids=WHOLE)
def test_an_answer_broken_off_behind_any_byte_is_never_complete(
    asked: str, data: str, _end: str, seen: str, content: str, _kept: str, end: str
) -> None:
    whole = wire(data)
    until_end = _end == "fin"
    head = whole.rindex(b"\r\n\r\n") + 4 if until_end else 0
    for size in range(len(whole)):
        if until_end and end == "fin" and size >= head:
            continue  # where the end of the connection is the end of the content, this is a shorter answer
        with Joined() as joined:
            client = joined.client()
            method = _ask(joined, client, asked)
            _answer(joined, whole[:size], 100_000, end)
            answer = client.answer(method)
            if answer.complete:
                assert answer.status == 502, size
            else:
                assert client.far.ended == "reset"
                assert wire(content).startswith(answer.body)
            assert joined.origin[0].closed()
            _next_gets_its_own(joined, client)


IDLE = {
    "a whole answer": response(b"smuggled"),
    "a byte": b"H",
    "a line end": b"\r\n",
    "an interim response": b"HTTP/1.1 100 Continue\r\n\r\n",
    "408 as some servers send it": b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("data", IDLE.values(), ids=IDLE)
@pytest.mark.parametrize("end", ["", "fin", "reset"])
def test_a_peer_that_speaks_while_its_connection_rests_is_not_asked_again(data: bytes, end: str) -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get("/first"))
        joined.origin.last.send(response(b"first"))
        assert client.answer().body == b"first"
        assert not joined.origin[0].closed()
        _answer(joined, data, 100_000, end)
        assert joined.origin[0].closed()
        assert client.rest == b""
        _next_gets_its_own(joined, client)


@pytest.mark.parametrize("behind", [b"", b"X", response(b"smuggled")])
@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_answer_before_the_request_has_ended_is_the_last_on_its_connection(
    behind: bytes, method: str, chunked: bool
) -> None:
    content = b"x" * 50_000
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(content)}"
    request = get("/early", framing, method=method)
    with Joined(spec={"request_buffering": False}) as joined:
        client = joined.client()
        client.send(request + (b"c350\r\n" if chunked else b"") + content[:20_000])
        peer = joined.origin.last
        assert peer.received.startswith(b"%b /early " % method.encode())
        peer.send(response(b"early") + behind)
        answer = client.answer(method)
        assert (answer.status, answer.body, answer.complete) == (200, b"early", True)
        assert peer.closed()
        # The client's connection goes on where the content ends, not before.
        client.send(content[20_000:] + (b"\r\n0\r\n\r\n" if chunked else b""))
        assert client.rest == b""
        _next_gets_its_own(joined, client)


@pytest.mark.parametrize("reply", [response(b"early"), b"HTTP/1.1 417 No\r\nContent-Length: 5\r\n\r\nearly"])
def test_what_looks_like_a_request_in_content_that_is_thrown_away_is_content(reply: bytes) -> None:
    with Joined(spec={"request_buffering": False}) as joined:
        client = joined.client()
        smuggled = get("/smuggled")
        client.send(get("/early", f"Content-Length: {30_000 + len(smuggled)}", method="POST") + bytes(30_000))
        joined.origin.last.send(reply)
        assert client.answer("POST").body == b"early"
        client.send(smuggled)
        assert all(b"smuggled" not in far.received for far in joined.origin.connections)
        assert client.rest == b""
        _next_gets_its_own(joined, client)


@pytest.mark.parametrize("where", ["head", "content", "chunk"])
def test_a_peer_that_stops_is_timed_out_and_the_client_sees_it(where: str) -> None:
    sent = {
        "head": b"HTTP/1.1 200 OK\r\nContent-",
        "content": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe",
        "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
    }[where]
    with Joined() as joined:
        client = joined.client()
        client.send(get("/odd"))
        joined.origin.last.send(sent)
        joined.advance(61)
        answer = client.answer()
        assert (answer.status, answer.complete) == ((504, True) if where == "head" else (200, False))
        assert joined.origin[0].closed()
        _next_gets_its_own(joined, client)
