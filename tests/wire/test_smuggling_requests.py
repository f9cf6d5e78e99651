"""Odd requests of a client (tests/cases/http1/odd_requests.toml): what reaches the peer, and who gets which answer.

What the peer gets is read by h11. Every case is played whole, in pieces and byte by byte.
"""

from __future__ import annotations

import pytest

from fuzz.framing import Message, read_requests
from tests.http1.reading import cases, wire
from tests.wire.joined import Client, Joined, get, response

ODD = {f"{group}: {name}": case for group, table in cases("odd_requests").items() for name, case in table.items()}
STEPS = [1, 5, 100_000]
_ASCII = bytes(range(0x80)) + b"~" * 0x80  # h11 takes no target beyond ASCII


class _Served:
    """A peer that answers each whole request with its number; `requests` are those that reached it."""

    def __init__(self, joined: Joined) -> None:
        self._joined = joined
        self._waiting: dict[int, bytes] = {}
        self.requests: list[Message] = []

    def answer(self) -> None:
        served = True
        while served:
            served = False
            for number, far in enumerate(self._joined.origin.connections):
                data = self._waiting.get(number, b"") + far.taken().translate(_ASCII)
                messages, _ = read_requests(data)
                if messages and messages[-1].complete:
                    assert len(messages) == 1, "a second request before the first one has its answer"
                    self.requests += messages
                    content = b"answer %d" % len(self.requests)
                    head = messages[0].start[0] == b"HEAD"
                    data, served = b"", True
                    far.send(response(b"", length=len(content)) if head else response(content))
                self._waiting[number] = data


def _send(client: Client, served: _Served, data: bytes, step: int) -> None:
    for at in range(0, len(data), step):
        if not client.far.closed():
            client.send(data[at : at + step])
        served.answer()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("body_buffer_size", [0, 1, 16_384])  # passed on as it comes, in a file, in memory
@pytest.mark.parametrize(("data", "end", "reached", "answers", "connection"), ODD.values(), ids=ODD)
def test_odd_requests(
    data: str,
    end: str,
    reached: list[str],
    answers: list[int],
    connection: str,
    step: int,
    body_buffer_size: int,
) -> None:
    buffering = {"request_buffering": body_buffer_size > 0}
    with Joined(location={"body_buffer_size": body_buffer_size}, spec=buffering) as joined:
        client = joined.client()
        served = _Served(joined)
        _send(client, served, wire(data), step)
        if end:
            client.far.finish()
            served.answer()
        got = [b"%b %b %b" % (*message.start, message.content) for message in served.requests]
        assert got == [wire(one) for one in reached]
        for number, status in enumerate(answers, 1):
            method = served.requests[number - 1].start[0].decode() if number <= len(got) else "GET"
            answer = client.answer(method)
            assert (answer.status, answer.complete) == (status, True)
            if status == 200:
                assert answer.body == (b"" if method == "HEAD" else b"answer %d" % number)
        assert client.rest == b""
        assert bool(client.far.ended) == (connection == "closed")
        joined.advance(30)
        assert client.far.closed() == (connection == "closed")
        if connection == "open":
            client.send(get("/next"))
            served.answer()
            assert served.requests[-1].start == (b"GET", b"/next")
            assert client.answer().body == b"answer %d" % len(served.requests)
            assert client.rest == b""


def test_the_cases_are_there() -> None:
    assert len(ODD) > 55
    assert any(not case[2] for case in ODD.values())
    assert any(len(case[2]) > 1 for case in ODD.values())


@pytest.mark.parametrize("client_ends", ["fin", "reset"])
@pytest.mark.parametrize("chunked", [False, True])
def test_content_that_its_client_breaks_off_is_never_whole_and_its_connection_with_the_peer_ends(
    chunked: bool, client_ends: str
) -> None:
    whole = b"x" * 3000
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(whole)}"
    wire_ = get("/upload", framing, method="POST")
    wire_ += b"bb8\r\n" + whole + b"\r\n0\r\n\r\n" if chunked else whole
    for size in (len(wire_) - 1, len(wire_) - 3, len(wire_) - 1500):
        with Joined(spec={"request_buffering": False}) as joined:
            client = joined.client()
            client.send(wire_[:size])
            (peer,) = joined.origin.connections
            client.far.finish() if client_ends == "fin" else client.far.reset()
            messages, _ = read_requests(peer.taken())
            assert not any(message.complete for message in messages)
            assert peer.closed()
            other = joined.client()
            other.send(get("/next"))
            assert joined.origin.last is not peer
            joined.origin.last.send(response(b"next"))
            assert other.answer().body == b"next"


HOP_BY_HOP = [
    "Connection: X-Named, X-Twice, close",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: keep-alive",
    "TE: trailers, deflate",
    "Upgrade: h2c",
    "Expect: x",
    "X-Named: 1",
    "x-twice: 2",
    "X-Twice: 3",
]


def test_fields_of_one_hop_go_no_further_in_either_direction() -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get("/1", *HOP_BY_HOP, "X-Passed: 4", "Connection: X-Third", "X-Third: 5"))
        ((head,), _) = read_requests(joined.origin.last.taken())
        assert head.fields == ((b"host", b"peers"), (b"x-passed", b"4"))
        joined.origin.last.send(response(b"", *HOP_BY_HOP, "X-Passed: 4", "Connection: X-Third", "X-Third: 5"))
        answer = client.answer()
        names = [name for name, _ in answer.fields]
        assert names == ["Server", "Date", "Content-Length", "Connection", "X-Passed"]
        assert joined.origin[0].closed()  # it said close


@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding", "Host", "Set-Cookie", "Content-Type"])
def test_connection_of_an_answer_cannot_name_its_framing_away(name: str) -> None:
    with Joined() as joined:
        client = joined.client()
        client.send(get("/1"))
        joined.origin.last.send(response(b"hello", f"Connection: {name}", "Content-Type: a/b"))
        answer = client.answer()
        assert (answer.body, answer.complete, answer.field("Content-Length")) == (b"hello", True, "5")
        assert not joined.origin[0].closed()
