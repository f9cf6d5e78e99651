"""For every input, what upwell passes on means to h11 what the input means to h11, or upwell refused it.

Whole connections are played in memory: client, forward and upstream connection. A request reaches the peer as h11 reads
it out of the client's bytes, in the same order and with the same content, or not at all; what follows it on a
connection gets its own answer. An answer reaches the client as h11 reads it out of the peer's bytes, or is seen to be
broken; the next request never gets a byte of it, and a connection with a peer is used again only when h11 has seen
both messages end, with nothing behind them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

import h11

from fuzz.running import Finding, mutant, pieces
from tests.wire.joined import Answer, Client, Far, Joined, get, response

_REQUESTS = (
    b"GET /1?a=b HTTP/1.1\r\nHost: x\r\n\r\n",
    b"HEAD /2 HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nX_B: 2\r\nConnection: X-A\r\nTE: trailers\r\n\r\n",
    b"POST /3 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"PUT http://y/4?5 HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n"
    b"GET /smuggled HTTP/1.1\r\nHost: x\r\nX: yyy\r\n\r\n",
    b"POST /6 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;a=b\r\nhello\r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\n",
    b"POST /7 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2A\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\nX: abcdef\r\n0\r\n\r\n",
    b"GET /8 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"DELETE /9 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
)
_SMUGGLED = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled"
_RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 46\r\n\r\n" + _SMUGGLED,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X-A\r\nX-A: 1\r\n\r\n2E\r\n"
    + _SMUGGLED
    + b"\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nold",
    b"HTTP/1.0 200 OK\r\n\r\nolder",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    b"HTTP/1.1 201 C\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n",
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
)
_DEAR = (
    *(bytes((byte,)) for byte in b"\0\t\n\r ,:;+-0129Aafx\xff"),
    b"\r\n",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.0",
    b"HEAD ",
    b" 204 ",
    b" 304 ",
    _SMUGGLED,
)

_WIDE = bytes(range(0x80)) + b"~" * 0x80
"""Bytes from 0x80 up are of one kind to HTTP, but h11 takes none in a target: both sides of a comparison show a ~."""

_BLANK_BEFORE_EXTENSION = re.compile(rb"[0-9A-Fa-f][ \t]+;")  # h11 refuses it; RFC 9112, 7.1.1 has it read past
_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3})")
_NOT_PASSED_ON = re.compile(
    rb"host|content-length|transfer-encoding|connection|keep-alive|proxy-connection|te|upgrade|expect|.*[^0-9a-z-].*"
)


@dataclass(frozen=True)
class Message:
    """A message as h11 reads it. `start` is (method, target) or (status,). Not `complete`: it is only a beginning."""

    start: tuple[bytes, ...]
    fields: tuple[tuple[bytes, bytes], ...]
    content: bytes
    complete: bool


def case(random: Random) -> None:
    """One connection from a client whose requests are odd, or one with a peer whose answer is."""
    if random.randrange(2):
        data = b"".join(random.choice(_REQUESTS) for _ in range(random.randrange(1, 4)))
        check_requests(mutant(random, data, _DEAR), random)
    else:
        data = random.choice(_RESPONSES) + (b"" if random.randrange(4) else _SMUGGLED)
        check_response(mutant(random, data, _DEAR), random)


# Requests


def check_requests(data: bytes, random: Random) -> None:
    expected, judged = read_requests(data.translate(_WIDE))
    sizes = {"body_buffer_size": random.choice((1, 7, 16_384))}
    eager = random.randrange(4) == 0
    with Joined(location=sizes, spec={"request_buffering": random.randrange(2) == 0}) as joined:
        client = joined.client()
        peers: list[_Peer] = []
        got: list[Message] = []
        for piece in pieces(random, data):
            client.send(piece)
            _serve(joined, peers, got, eager)
        if random.randrange(2):
            client.far.finish()
            _serve(joined, peers, got, eager)
        for number, message in enumerate(got[: None if judged else len(expected)]):
            if number >= len(expected):
                raise Finding(f"a peer got a request that h11 does not see: {message}", data)
            _same_request(expected[number], message, data)
        _check_answers(client, got, data)


class _Peer:
    """What one connection of the peer receives, read by h11; an `eager` one answers before a request is whole."""

    def __init__(self, far: Far, eager: bool) -> None:
        self.far = far
        self._eager = eager
        self._spent = False
        self._waiting = b""

    def read(self) -> Message | None:
        """The next request that is to be answered. Raises Broken."""
        self._waiting += self.far.taken().translate(_WIDE)
        if not self._waiting or self._spent:
            return None
        message, rest = _request(self._waiting)
        if message.complete:
            self._waiting = rest
        elif self._eager and message.start:
            self._spent = True  # the rest of the content may come, but no other request
        else:
            return None
        return message


def _serve(joined: Joined, peers: list[_Peer], got: list[Message], eager: bool) -> None:
    """Let the peer answer every request that it has."""
    served = True
    while served:
        served = False
        peers += [_Peer(far, eager) for far in joined.origin.connections[len(peers) :]]
        for peer in peers:
            sent = bytes(peer.far.received)
            try:
                message = peer.read()
            except Broken as error:
                raise Finding(f"h11 refuses what a peer got ({error})", sent) from error
            if message is not None:
                served = True
                content = b"answer %d" % len(got)
                got.append(message)
                peer.far.send(response(b"", length=len(content)) if message.start[0] == b"HEAD" else response(content))
                if not message.complete and not peer.far.closed():
                    raise Finding(f"a connection outlives an answer to a part of a request: {message}", sent)


def _same_request(expected: Message, got: Message, data: bytes) -> None:
    method, target = expected.start
    if not target.startswith(b"/"):  # the absolute form goes on as the origin form (RFC 9112, 3.2.2)
        target = re.sub(rb"(?i)\Ahttps?://[^/?#]*", b"", target)
        target = target if target.startswith(b"/") else b"/" + target
    whole = expected.complete and expected.content == got.content
    if (method, target) != got.start or not (whole if got.complete else expected.content.startswith(got.content)):
        raise Finding(f"a peer got {got} instead of {expected}", data)
    options = {
        option.strip(b" \t").lower()
        for name, value in expected.fields
        if name == b"connection"
        for option in value.split(b",")
    }
    passed = [field for field in expected.fields if not _NOT_PASSED_ON.fullmatch(field[0]) and field[0] not in options]
    if passed != [field for field in got.fields if not _NOT_PASSED_ON.fullmatch(field[0])]:
        raise Finding(f"a peer got the fields {got.fields} instead of {passed}", data)


def _check_answers(client: Client, got: list[Message], data: bytes) -> None:
    """The client got an answer to each request, in order, then at most one refusal and the end."""
    for number, message in enumerate(got):
        answer = client.answer(message.start[0].decode())
        content = b"" if message.start[0] == b"HEAD" else b"answer %d" % number
        if (answer.status, answer.body, answer.complete) != (200, content, True):
            raise Finding(f"request {number} got {answer}", data)
    # What is left may answer a HEAD that was refused, and then has no content.
    last = [int(status) for status in _STATUS.findall(client.rest) if status != b"100"]
    if len(last) > 1 or any(status < 400 for status in last) or (last and not client.far.ended):
        raise Finding(f"behind the last answer there is {client.rest!r}", data)


def read_requests(data: bytes) -> tuple[list[Message], bool]:
    """The requests in `data` as h11 reads them, the last maybe in part; and whether h11 may judge what comes after."""
    messages: list[Message] = []
    while data := data.lstrip(b"\r\n"):
        try:
            message, data = _request(data)
        except Broken as broken:
            if _BLANK_BEFORE_EXTENSION.search(data):
                return messages, False
            message = broken.message
        if message.start:
            messages.append(message)
        if not message.complete:
            break
    return messages, True


class Broken(Exception):
    """h11 refuses what came; `message` is what it read before."""

    def __init__(self, message: Message, error: h11.RemoteProtocolError) -> None:
        super().__init__(str(error))
        self.message = message


def _request(data: bytes) -> tuple[Message, bytes]:
    """The request at the start of `data`, and what is behind it. Raises Broken."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(data)
    start: tuple[bytes, ...] = ()
    fields: tuple[tuple[bytes, bytes], ...] = ()
    content = b""
    while True:
        try:
            event = server.next_event()
        except h11.RemoteProtocolError as error:
            raise Broken(Message(start, fields, content, False), error) from error
        if isinstance(event, h11.Request):
            start, fields = (event.method, event.target), tuple(event.headers)
        elif isinstance(event, h11.Data):
            content += event.data
        elif isinstance(event, h11.EndOfMessage):
            return Message(start, fields, content, True), server.trailing_data[0]
        else:
            return Message(start, fields, content, False), b""


# Responses


def check_response(data: bytes, random: Random) -> None:
    method = random.choice(("GET", "GET", "HEAD", "POST"))
    version = random.choice(("1.1", "1.1", "1.0"))
    end = random.choice(("", "fin", "reset"))
    with Joined() as joined:
        client = joined.client()
        client.send(get("/odd", "Connection: keep-alive", method=method, version=version))
        peer = joined.origin.last
        for piece in pieces(random, data):
            peer.send(piece)
        if end and not peer.closed():
            peer.finish() if end == "fin" else peer.reset()
        if joined.in_use != [0]:
            joined.advance(61.0)  # who waits for more is timed out
        expected, rest = read_response(data, method, end == "fin")
        answer = client.answer(method)
        if not _made_here(answer):
            _same_answer(expected, answer, data)
        if client.rest:
            raise Finding(f"something behind the answer: {client.rest!r}", data)
        if not peer.closed():
            if expected is None or not expected.complete or rest:
                raise Finding("a connection is kept though the answer did not end cleanly", data)
            if random.randrange(4) == 0:
                peer.send(_SMUGGLED)  # while it rests
        _ask_next(joined, client, data)


def _made_here(answer: Answer) -> bool:
    return answer.status in (502, 504) and answer.complete and (not answer.body or b"<center>upwell/" in answer.body)


def _same_answer(expected: Message | None, answer: Answer, data: bytes) -> None:
    if not answer.complete:
        return  # the client sees that it is broken
    if expected is None or not expected.complete:
        raise Finding(f"the client takes {answer} for complete, h11 sees {expected}", data)
    if expected.start != (b"%d" % answer.status,) or expected.content != answer.body:
        raise Finding(f"the client got {answer} instead of {expected}", data)


def _ask_next(joined: Joined, client: Client, data: bytes) -> None:
    """The next request, of the same client if its connection lives, gets the answer to itself."""
    if client.far.ended:
        client = joined.client()
    before = len(joined.origin.connections)
    for far in joined.origin.connections:
        far.taken()
    client.send(get("/next"))
    asked = [far for far in joined.origin.connections if far.received.startswith(b"GET /next ")]
    if len(asked) != 1 or len(joined.origin.connections) > before + 1:
        raise Finding(f"the next request reached {asked}", data)
    asked[0].send(response(b"next"))
    answer = client.answer()
    if (answer.status, answer.body, answer.complete, client.rest) != (200, b"next", True, b""):
        raise Finding(f"the next request got {answer}", data)


def read_response(data: bytes, method: str, ends: bool) -> tuple[Message | None, bytes]:
    """The final response in `data` as h11 reads it, None when there is none, and what is behind it."""
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(data)
    if ends:
        reader.receive_data(b"")
    start: tuple[bytes, ...] = ()
    fields: tuple[tuple[bytes, bytes], ...] = ()
    content = b""
    try:
        while True:
            event = reader.next_event()
            if isinstance(event, h11.Response):
                start, fields = (b"%d" % event.status_code,), tuple(event.headers)
            elif isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage):
                return Message(start, fields, content, True), reader.trailing_data[0]
            elif not isinstance(event, h11.InformationalResponse):
                break
    except h11.RemoteProtocolError:
        pass
    return (Message(start, fields, content, False), b"") if start else (None, b"")
