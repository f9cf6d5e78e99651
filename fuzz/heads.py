"""For every input, what upwell read, written again and read by h11, is the same head; or upwell refused it.

Besides: nothing but MessageError comes out of a reader, the reading does not depend on how the bytes were cut or on
what a reader remembers, h11 reads the input itself the same way, and a decoded path is encoded to a target that means
the same path and can end no line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import h11

from fuzz.running import Finding, mutant, pieces
from upwell.errors import MessageError
from upwell.http1.fields import FieldReader
from upwell.http1.head import RequestHead, ResponseHead, parse_request_head, parse_response_head
from upwell.http1.target import make_target, parse_target

_REQUESTS = (
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /a/../b%20c?d=e HTTP/1.1\r\nHost: x:80\r\nConnection: keep-alive\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n",
    b"POST http://x/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"HEAD //%2e%2E/%2f?%00#f HTTP/1.1\r\nhost:\t[::1]:8080 \r\nX_Y: \t \r\nTE: trailers\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: X-A, close\r\nX-A: \xe9\r\nExpect: 100-continue\r\n\r\n",
)
_RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
    b"HTTP/1.0 404\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n0\r\n\r\n",
    b'HTTP/1.1 304 \t\xe9\r\nETag: "a"\r\nConnection: keep-alive, X\r\nX:\r\n\r\n',
)
_DEAR = (
    *(bytes((byte,)) for byte in b'\0\t\n\v\r !",:;=%/?#+-0159AFafgx\x7f\x80\x85\xa0\xff'),
    b"\r\n",
    b"\r\n\r\n",
    b"\r\n ",
    b" :",
    b"Content-Length: 5\r\n",
    b"Content-Length: 05\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Host: y\r\n",
    b"chunked, ",
    b"ffffffffffffffff",
    b"18446744073709551616",
    b"%00",
    b"%0d%0a",
    b"/../",
    b"HTTP/1.1",
    b"http://",
)

_REQUEST_READERS = tuple(
    FieldReader(underscores, ignore_invalid) for underscores in (False, True) for ignore_invalid in (False, True)
)
_RESPONSE_READER = FieldReader(ignore_invalid=False, request=False)
"""They live on through the run: what they remember must change nothing."""

Head = RequestHead | ResponseHead
Read = Callable[[bytes, FieldReader], "Head | None"]


def case(random: Random) -> None:
    """One head, of a request or of a response."""
    if random.randrange(3):
        check_request(mutant(random, random.choice(_REQUESTS), _DEAR), random)
    else:
        check_response(mutant(random, random.choice(_RESPONSES), _DEAR), random)


def check_request(data: bytes, random: Random) -> None:
    ignore_invalid = random.randrange(2) == 0
    underscores = random.randrange(2) == 0
    known = _REQUEST_READERS[2 * underscores + ignore_invalid]
    fresh = FieldReader(underscores, ignore_invalid)
    head = _read(_request, data, pieces(random, data), fresh, known)
    if not isinstance(head, RequestHead):
        return
    again = b"%b %b HTTP/1.%d\r\n%b\r\n" % (head.method, head.target, head.version - 10, b"".join(head.section.wires))
    _request_alike(head, again, b"1.%d" % (head.version - 10), "what was read, written again")
    if not ignore_invalid:  # else lines were dropped, which h11 knows nothing of
        _request_alike(head, data[: head.end], head.line[-3:], "what came")
    _check_target(head.target)


def check_response(data: bytes, random: Random) -> None:
    fresh = FieldReader(ignore_invalid=False, request=False)
    head = _read(_response, data, pieces(random, data), fresh, _RESPONSE_READER)
    if not isinstance(head, ResponseHead):
        return
    lines = b"".join(head.section.wires)
    again = b"HTTP/1.%d %b\r\n%b\r\n" % (head.version - 10, head.line, lines)
    _response_alike(head, again, "what was read, written again")
    _response_alike(head, data[: head.end], "what came")


def _request(data: bytes, reader: FieldReader) -> RequestHead | None:
    head = parse_request_head(data, reader)
    if head is not None:
        parse_target(head.target)
    return head


def _response(data: bytes, reader: FieldReader) -> ResponseHead | None:
    return parse_response_head(data, reader)


def _read(read: Read, data: bytes, cut: Sequence[bytes], fresh: FieldReader, known: FieldReader) -> Head | None:
    """The head in `data`, None when it was refused or is not complete. Raises Finding when it depends on anything."""
    outcomes = []
    for parts, reader in (((data,), fresh), (cut, fresh), ((data,), known)):
        try:
            outcomes.append(_outcome(read, parts, reader))
        except Exception as error:
            raise Finding(f"{read.__name__[1:]} let out {error!r}", data) from error
    head = outcomes[0]
    if len({_shown(outcome) for outcome in outcomes}) > 1:
        raise Finding(f"a {read.__name__[1:]} depends on its cuts or on memory ({outcomes})", data)
    return head if not isinstance(head, str) else None


def _outcome(read: Read, parts: Sequence[bytes], reader: FieldReader) -> Head | str:
    data = b""
    for part in parts:
        data += part
        try:
            head = read(data, reader)
        except MessageError:
            return "refused"
        if head is not None:
            return head
    return "waiting"


def _shown(outcome: Head | str) -> object:
    if isinstance(outcome, str):
        return outcome
    return outcome.line, outcome.version, outcome.end, outcome.section.fields, outcome.section.wires


def _request_alike(head: RequestHead, data: bytes, version: bytes, what: str) -> None:
    if any(byte >= 0x80 for byte in head.target):
        return  # h11 takes no target beyond ASCII, nginx and upwell pass it as it is
    event = _by_h11(h11.Connection(h11.SERVER), data, what)
    if not isinstance(event, h11.Request):
        raise Finding(f"{what}, is no request to h11", data)
    if (event.method, event.target, event.http_version) != (head.method, head.target, version):
        raise Finding(f"{what}, has another request line to h11: {event!r}", data)
    _fields_alike(head, event, data, what)


def _response_alike(head: ResponseHead, data: bytes, what: str) -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x"), ("Upgrade", "x"), ("Connection", "x")]))
    client.send(h11.EndOfMessage())
    event = _by_h11(client, data, what)
    if not isinstance(event, h11.Response | h11.InformationalResponse):
        raise Finding(f"{what}, is no response to h11", data)
    if b"%d %b" % (event.status_code, event.reason) != head.line:
        raise Finding(f"{what}, has another status to h11: {event!r}", data)
    _fields_alike(head, event, data, what)


def _fields_alike(
    head: Head, event: h11.Request | h11.Response | h11.InformationalResponse, data: bytes, what: str
) -> None:
    ours = [  # h11 gives framing fields in a form of its own
        (name, value.lower() if name == b"transfer-encoding" else value) for name, value in head.section.fields
    ]
    if list(event.headers) != ours:
        raise Finding(f"{what}, has other fields to h11: {event.headers!r}", data)


def _by_h11(connection: h11.Connection, data: bytes, what: str) -> object:
    connection.receive_data(data)
    try:
        return connection.next_event()
    except h11.RemoteProtocolError as error:
        raise Finding(f"{what}, is refused by h11 ({error})", data) from error


def _check_target(target: bytes) -> None:
    """A path that was decoded and encoded again is the same path, on one line and without a space."""
    taken = parse_target(target)
    made = make_target(taken.uri, taken.args)
    if any(byte <= 0x20 or byte >= 0x7F for byte in made.path.partition(b"?")[0]) or any(
        byte <= 0x20 or byte == 0x7F for byte in made.path
    ):
        raise Finding(f"a target is made with {made.path!r}", target)
    again = parse_target(made.path)
    if (again.uri, again.args) != (taken.uri, taken.args):
        raise Finding(f"a path is encoded as {made.path!r}, which means {again.uri!r}", target)
