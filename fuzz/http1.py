"""Throws mutated messages at the readers of heads and chunks, for as long as it is told to.

    python -m fuzz.http1 [seconds] [seed]

Nothing but MessageError may come out of a reader, the result must not depend on how the bytes were split, and what is
read must be what h11 reads of it. The first message that breaks this is printed with its seed, and the exit code is 1.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from random import Random

import h11

from upwell.errors import MessageError
from upwell.http1.fields import FieldReader
from upwell.http1.framing import ChunkedReader
from upwell.http1.head import RequestHead, parse_request_head, parse_response_head
from upwell.http1.target import parse_target

_SEEDS = (
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /a/../b%20c?d=e HTTP/1.1\r\nHost: x:80\r\nConnection: keep-alive\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n",
    b"POST http://x/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
    b"5\r\nhello\r\nA;x\r\n0123456789\r\n0\r\n\r\n",
    b"1\r\na\r\n0\r\nX: y\r\nZ: w\r\n\r\nGET / HTTP/1.1\r\n",
)
_DEAR = (
    *(bytes((byte,)) for byte in b'\0\t\n\v\r !",:;=%/?#+-0159AFafgx\x7f\x80\xff'),
    b"\r\n",
    b"\r\n\r\n",
    b"\r\n ",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: y\r\n",
    b"chunked, ",
    b"ffffffffffffffff",
    b"%00",
    b"/../",
)


class Finding(Exception):
    """A message that broke a rule: which rule, and the message."""

    def __init__(self, rule: str, data: bytes) -> None:
        super().__init__(f"{rule}: {data!r}")


def mutants(random: Random) -> Iterator[bytes]:
    """Messages without end: good ones, changed in a few places."""
    while True:
        data = bytearray(random.choice(_SEEDS))
        for _ in range(random.randrange(4)):
            at = random.randrange(len(data) + 1)
            what = random.randrange(4)
            if what == 0:
                data[at:at] = random.choice(_DEAR)
            elif what == 1:
                del data[at : at + random.randrange(1, 6)]
            elif what == 2:
                data[at : at + 1] = random.choice(_DEAR)
            else:
                end = at + random.randrange(20)
                data[at:at] = data[at:end]
        yield bytes(data)


def check(data: bytes, random: Random) -> None:
    """Raise Finding when a reader breaks a rule on `data`."""
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.randrange(6)))
    for read in (_request, _response, _chunks):
        try:
            whole = read(data, [])
            split = read(data, cuts)
        except Exception as error:
            raise Finding(f"{read.__name__[1:]} let out {error!r}", data) from error
        if (whole == "refused") != (split == "refused") and "waiting" not in (whole, split):
            raise Finding(f"{read.__name__[1:]} is refused or not by its split {cuts}", data)
        if isinstance(whole, tuple) and isinstance(split, tuple) and whole != split:
            raise Finding(f"{read.__name__[1:]} differs by its split {cuts}", data)
    _beside_h11(data)


def _request(data: bytes, cuts: list[int]) -> object:
    reader = FieldReader()
    for end in (*cuts, len(data)):
        try:
            head = parse_request_head(data[:end], reader)
            if head is not None:
                target = parse_target(head.target)
                return head.method, target.uri, target.args, head.version, head.section.fields, head.end
        except MessageError:
            return "refused"
    return "waiting"


def _response(data: bytes, cuts: list[int]) -> object:
    reader = FieldReader(ignore_invalid=False)
    for end in (*cuts, len(data)):
        try:
            head = parse_response_head(data[:end], reader)
            if head is not None:
                return head.status, head.line, head.version, head.section.fields, head.end
        except MessageError:
            return "refused"
    return "waiting"


def _chunks(data: bytes, cuts: list[int]) -> object:
    reader = ChunkedReader()
    content = b""
    start = 0
    for end in (*cuts, len(data)):
        try:
            piece, rest = reader.feed(data[start:end])
        except MessageError:
            return "refused"
        content += piece
        if rest is not None:
            return content, reader.trailers, rest + data[end:]
        start = end
    return "waiting"


def _beside_h11(data: bytes) -> None:
    """What upwell reads as one request, h11 must read as the same, with the same end."""
    try:
        head = parse_request_head(data, FieldReader(ignore_invalid=False))
    except MessageError:
        return
    if head is None or any(byte >= 0x80 for byte in head.target):
        return  # h11 takes no target beyond ASCII, nginx and upwell pass it as it is
    server = h11.Connection(h11.SERVER)
    server.receive_data(data)
    try:
        request = server.next_event()
    except h11.RemoteProtocolError as error:
        raise Finding(f"h11 refuses it ({error}), upwell does not", data) from error
    if not isinstance(request, h11.Request) or not _alike(head, request):
        raise Finding(f"h11 reads {request!r}", data)
    if not head.section.chunked:
        length = head.section.content_length or 0
        content = b""
        try:
            while isinstance(event := server.next_event(), h11.Data):
                content += event.data
        except h11.RemoteProtocolError as error:
            raise Finding(f"h11 reads another content: {error}", data) from error
        if content != data[head.end : head.end + length]:
            raise Finding(f"h11 reads the content {content!r}", data)


def _alike(head: RequestHead, request: h11.Request) -> bool:
    fields = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in head.section.fields]
    return (request.method, request.target, list(request.headers)) == (head.method, head.target, fields)


def run(seconds: float, seed: int) -> int:
    """Check mutants for `seconds`; returns how many. Raises Finding."""
    random = Random(seed)
    end = time.monotonic() + seconds
    done = 0
    for data in mutants(random):
        check(data, random)
        done += 1
        if time.monotonic() > end:
            break
    return done


def main(arguments: list[str]) -> int:
    seconds = float(arguments[0]) if arguments else 10.0
    seed = int(arguments[1]) if len(arguments) > 1 else time.time_ns()
    try:
        print(f"{run(seconds, seed)} messages, seed {seed}: nothing found")
    except Finding as finding:
        print(f"seed {seed}: {finding}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
