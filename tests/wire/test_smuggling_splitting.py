"""What a client chooses (variables, decoded paths) ends no line of a request or an answer, nor says where either ends.

A configuration is served in memory; what the peer and the client get is read by h11, and must be one message.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.framing import read_requests, read_response
from tests.runtime.serving import Serving
from tests.wire.joined import LAST, chunks, get

CONFIGURATION = r"""
upstream o { server 10.0.0.1:80; }
access_log off;
server {
    listen 127.0.0.1:8080;
    server_name localhost;
    location / { proxy_pass http://o; }
    location /replaced/ { proxy_pass http://o/base/; }
    location ~ (?s)^/group/(.*)$ {
        proxy_pass http://o;
        proxy_set_header X-Group $1;
        proxy_set_header X-Uri $uri;
        proxy_set_header X-Document $document_uri;
        proxy_set_header X-Argument $arg_a;
        proxy_set_header X-Cookie $cookie_c;
        proxy_set_header X-Host $host;
        proxy_set_header X-User $remote_user;
        proxy_set_header X-Args $args;
    }
    location ~ (?s)^/moved/(.*)$ { return 302 /to/$1; }
    location ~ (?s)^/away/(.*)$ { return 301 http://other/$1?$args; }
    location ~ (?s)^/text/(.*)$ { return 200 "$1 $uri"; }
    location ~ (?s)^/named/(?<named>.*)$ { charset $named; return 200 text; }
    location ~ (?s)^/added/(.*)$ { add_header X-Added "a $1"; add_trailer X-Behind "b $1"; return 200 text; }
    location ~ (?s)^/rewritten/ { rewrite (?s)^/rewritten/(.*)$ /to/$1?$args redirect; }
    location ~ (?s)^/paged/(.*)$ { error_page 404 =302 http://other/$1; return 404; }
    location /redirect/ { proxy_pass http://o; proxy_redirect / /$uri/; }
    location /framing/ {
        proxy_pass http://o;
        proxy_set_header Content-Length $http_x_length;
        proxy_set_header Transfer-Encoding $http_x_coding;
    }
    location /old/ { proxy_pass http://o; proxy_http_version 1.0; client_body_buffer_size 100; }
}
"""
HOSTILE = "%0d%0aX-Split:%20yes%0d%0a%0d%0aGET%20/smuggled%20HTTP/1.1%0d%0aHost:%20x%0d%0a%0d%0a"
PIECES = [
    HOSTILE,
    "%0aX-Split: yes".replace(" ", "%20"),
    "%0dX-Split:y",
    "%0d%0a%0d%0a",
    "a%20b%09c",
    "%e2%80%a8%c2%85",
    "%7f%1b",
]


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    return Serving(tmp_path, CONFIGURATION)


def _one_request(serving: Serving) -> tuple[bytes, bytes, dict[bytes, bytes], bytes]:
    """The only request that any peer got."""
    (far,) = [far for origin in serving.origins for far in origin.connections]
    messages, judged = read_requests(bytes(far.received))
    assert judged
    (message,) = messages
    assert message.complete
    assert b"x-split" not in dict(message.fields)
    names = [name for name, _ in message.fields]
    assert len(names) == len(set(names))
    return *message.start, dict(message.fields), message.content  # type: ignore[return-value]  # two of bytes


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("place", ["/plain/", "/replaced/", "/group/"])
def test_a_decoded_path_stays_in_its_line_of_the_request(serving: Serving, place: str, piece: str) -> None:
    with serving:
        serving.client().send(get(f"{place}{piece}?a={piece}", f"Cookie: c={piece}"))
        _, target, fields, _ = _one_request(serving)
        assert target.startswith(b"/base/" if place == "/replaced/" else place.encode())
        assert all(0x20 < byte < 0x7F for byte in target)
        for value in fields.values():
            assert not {0, 10, 13}.intersection(value)


_TEXTS = ("/text/", "/named/", "/added/")
_PLACES = (*_TEXTS, "/moved/", "/away/", "/rewritten/", "/paged/", "/redirect/")


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("place", _PLACES)
def test_a_decoded_path_stays_in_its_line_of_the_answer(serving: Serving, place: str, piece: str) -> None:
    with serving:
        client = serving.client()
        client.send(get(f"{place}{piece}?{piece}"))
        for far in serving.origins[0].connections:
            far.send(b"HTTP/1.1 302 Moved\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n")
        message, rest = read_response(client.rest, "GET", False)
        assert message is not None
        assert (message.complete, rest) == (True, b"")
        fields = dict(message.fields)
        assert b"x-split" not in fields
        assert (b"location" in fields) == (place not in _TEXTS)
        for value in fields.values():
            assert not {0, 10, 13}.intersection(value)


CONTENTS = {
    "none": ((), b"", b""),
    "a length": (("Content-Length: 5",), b"hello", b"hello"),
    "chunks": (("Transfer-Encoding: chunked",), chunks(b"hello") + LAST, b"hello"),
    "many chunks": (("Transfer-Encoding: chunked",), chunks(*[bytes(900)] * 40) + LAST, bytes(36_000)),
}
CLAIMS = [(), ("X-Length: 3",), ("X-Length: 100", "X-Coding: chunked"), ("X-Coding: chunked",), ("X-Coding: gzip",)]


@pytest.mark.parametrize("claims", CLAIMS)
@pytest.mark.parametrize(("framing", "sent", "content"), CONTENTS.values(), ids=CONTENTS)
def test_no_field_that_is_set_says_where_a_request_ends(
    serving: Serving, framing: tuple[str, ...], sent: bytes, content: bytes, claims: tuple[str, ...]
) -> None:
    with serving:
        client = serving.client()
        wire = get("/framing/", *framing, *claims, method="POST") + sent
        for at in range(0, len(wire), 1000):
            client.send(wire[at : at + 1000])
        method, _, fields, got = _one_request(serving)
        assert (method, got) == (b"POST", content)
        assert not {b"content-length", b"transfer-encoding"} <= set(fields)


@pytest.mark.parametrize("step", [300, 100_000])
@pytest.mark.parametrize(("framing", "sent", "content"), CONTENTS.values(), ids=CONTENTS)
def test_an_old_peer_gets_no_chunks(
    serving: Serving, framing: tuple[str, ...], sent: bytes, content: bytes, step: int
) -> None:
    """RFC 9112, 6.1: it would take them for the next request."""
    with serving:
        client = serving.client()
        wire = get("/old/", *framing, method="POST") + sent
        for at in range(0, len(wire), step):
            client.send(wire[at : at + step])
        _, _, fields, got = _one_request(serving)
        assert b"transfer-encoding" not in fields
        assert fields.get(b"content-length", b"0") == b"%d" % len(content)
        assert got == content
