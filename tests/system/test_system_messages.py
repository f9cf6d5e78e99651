"""Field lines that come several times, answers without content, HTTP/1.0 and expectations, held beside nginx."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.system.beside import Beside, both, compare, outcome
from tests.system.conftest import StartBalancer
from tests.system.wire import Client, Seen, get, post, response


def _configuration(front: int, peer: int) -> str:
    return f"""
events {{ }}
http {{
    access_log off;
    upstream peers {{ server 127.0.0.1:{peer}; }}
    server {{
        listen 127.0.0.1:{front};
        location / {{ proxy_pass http://peers; }}
        location /old {{ proxy_pass http://peers; proxy_http_version 1.0; }}
        location /whole {{ proxy_pass http://peers; chunked_transfer_encoding off; }}
        location /own/ {{ proxy_pass http://peers; proxy_pass_header Server; proxy_pass_header Date; }}
        location /trailers {{ proxy_pass http://peers; proxy_pass_trailers on; }}
    }}
}}
"""


_ONE_VALUE = ("Content-Type", "ETag", "Last-Modified", "Expires", "Location", "Refresh")
_MANY_VALUES = ("Set-Cookie", "WWW-Authenticate", "Proxy-Authenticate", "Via", "Link", "Vary", "Cache-Control", "X-Any")


def _twice(name: str) -> bytes:
    return response(b"fine", f"{name}: one", f"{name}: two")


def _respond(seen: Seen, connection: socket.socket) -> bytes | None:
    path = seen.target.decode().rpartition("/")[2]
    closing = {
        "close": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil close",
        "endless": b"HTTP/1.1 200 OK\r\n\r\nuntil close",
        "ten": b"HTTP/1.0 200 OK\r\n\r\nuntil close",
        "ten-length": b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nfine",
        "old": b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nfine",
    }
    if path in closing:
        connection.sendall(closing[path])
        return None
    if path in _ONE_VALUE + _MANY_VALUES + ("Server", "Date"):
        return _twice(path)
    bare = {
        "none": b"HTTP/1.1 204 No Content\r\nContent-Type: text/plain\r\nETag: x\r\n\r\n",
        "not-modified": b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 5\r\nContent-Type: a/b\r\n\r\n",
        "reset": b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
        "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n",
        "whole": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n",
        "trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\nX-Sum: 1\r\n\r\n",
    }
    answer = bare.get(path, response(b"fine"))
    if seen.head.startswith(b"HEAD"):
        return answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    return answer


def _head(path: str, version: str = "1.1") -> bytes:
    return get(path, version=version).replace(b"GET", b"HEAD", 1)


REQUESTS = {
    **{f"response: {name} twice": get(f"/{name}") for name in (*_ONE_VALUE, *_MANY_VALUES)},
    "response: its own Server twice": get("/own/Server"),
    "response: its own Date twice": get("/own/Date"),
    **{
        f"request: {name} twice": get("/", f"{name}: 1", f"{name}: 1")
        for name in (
            *("Host", "Expect", "Authorization", "Proxy-Authorization", "Content-Range", "If-Range"),
            *("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"),
            *("User-Agent", "Referer", "Accept", "Accept-Encoding", "Range", "Content-Type", "Via", "TE", "Cookie"),
            *("X-Forwarded-For", "Origin", "Cache-Control", "Keep-Alive", "Upgrade"),
        )
    },
    **{
        f"{path} to HTTP/{version} {kept}": get(f"/{path}", *([kept] if kept else []), version=version)
        for path in ("close", "endless", "ten", "ten-length", "chunks", "none", "not-modified", "reset", "whole", "old")
        for version in ("1.0", "1.1")
        for kept in ("", "Connection: keep-alive", "Connection: close")
    },
    **{
        f"HEAD of {path} in HTTP/{version}": _head(f"/{path}", version)
        for path in ("plain", "chunks", "none", "not-modified", "whole", "trailers")
        for version in ("1.0", "1.1")
    },
    "trailers": get("/trailers"),
    "trailers to HTTP/1.0": get("/trailers", version="1.0"),
    "an expectation nobody knows": post(b"content", "/", "Expect: something"),
    "a list of expectations": post(b"content", "/", "Expect: 100-continue, more"),
    "an expectation of HTTP/1.0": post(b"content", "/", "Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "an expectation that is refused": get("/", "Expect: 100-continue", "Content-Length: 9999999"),
    "HTTP/1.2": get(version="1.2"),
}


@pytest.fixture(scope="module")
def beside(nginx: tuple[str, ...], start_shared: StartBalancer) -> Iterator[Beside]:
    with both(_configuration, _respond, nginx, start_shared) as beside:
        yield beside


@pytest.mark.parametrize("request_bytes", REQUESTS.values(), ids=REQUESTS.keys())
def test_as_nginx_does_it(beside: Beside, request_bytes: bytes) -> None:
    shown: list[str] = []
    compare(beside.nginx, beside.upwell, [request_bytes], beside.origin, shown.append)
    assert not shown, shown[0]


def test_the_comparison_can_fail(beside: Beside) -> None:
    assert outcome(beside.upwell, get("/ETag"), beside.origin) != outcome(beside.upwell, get("/Vary"), beside.origin)


def test_continue_is_said_when_the_content_is_wanted_and_not_passed_to_the_peer(beside: Beside) -> None:
    for port in (beside.nginx, beside.upwell):
        beside.origin.seen.clear()
        with Client(port) as client:
            client.send(post(b"content", "/", "Expect: 100-continue")[:-7])
            assert client.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert client.ask(b"content", "POST").body == b"fine"
        (seen,) = beside.origin.seen
        assert b"xpect" not in seen.head
        assert seen.body == b"content"


def test_stricter_no_length_goes_with_no_content(beside: Beside) -> None:
    # RFC 9110, 8.6: a 204 must have no Content-Length; nginx passes the peer's on.
    def respond(_seen: Seen, _connection: socket.socket) -> bytes:
        return b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"

    beside.origin.respond(respond)
    try:
        assert ("Content-Length", "0") in outcome(beside.nginx, get(), beside.origin).fields
        assert "Content-Length" not in dict(outcome(beside.upwell, get(), beside.origin).fields)
    finally:
        beside.origin.respond(_respond)
