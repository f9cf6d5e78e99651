"""What Lua says of an answer or a request must not move the place where it ends: a peer's answer is passed on, and the
next request on each connection gets its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import Client, get, response

CONFIGURATION = """
upstream o { server 10.0.0.1:80; }
access_log off;
server {
    listen 127.0.0.1:8080;
    location / { proxy_pass http://o; }
    location /length/ {
        proxy_pass http://o;
        header_filter_by_lua_block { ngx.header.content_length = ngx.var.arg_n }
    }
    location /made {
        content_by_lua_block { ngx.header.content_length = ngx.var.arg_n ngx.print("he") ngx.print("llo") }
    }
    location /head {
        access_by_lua_block { ngx.req.set_method(ngx.HTTP_HEAD) }
        proxy_pass http://o;
    }
    location /and_back {
        access_by_lua_block { ngx.req.set_method(ngx.HTTP_HEAD) ngx.req.set_method(ngx.HTTP_GET) }
        proxy_pass http://o;
    }
    location /status {
        proxy_pass http://o;
        header_filter_by_lua_block { ngx.status = 200 }
    }
    location /interim/ {
        proxy_pass http://o;
        header_filter_by_lua_block { ngx.status = tonumber(ngx.var.arg_n) }
    }
    location /said/interim {
        content_by_lua_block { ngx.status = tonumber(ngx.var.arg_n) ngx.say("said") }
    }
    location /captured {
        content_by_lua_block {
            local got = ngx.location.capture("/inner", { method = ngx["HTTP_" .. ngx.var.arg_m] })
            ngx.print(got.status, " ", got.body)
        }
    }
    location /set {
        access_by_lua_block { ngx.req.set_header("X-Set", "lua") }
        proxy_pass http://o;
    }
}
"""


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path, CONFIGURATION) as made:
        yield made


def _answer_all(serving: Serving, *answers: bytes) -> None:
    """The peer answers what it was asked, with these one after the other."""
    rest = list(answers)
    while asked := [far for far in serving.origins[0].connections if far.received]:
        for far in asked:
            far.taken()
            far.send(rest.pop(0))


def _next_gets_its_own(serving: Serving, client: Client) -> None:
    if client.far.ended:
        client = serving.client()
    client.send(get("/next"))
    _answer_all(serving, response(b"next"))
    answer = client.answer()
    assert (answer.status, answer.body, answer.complete) == (200, b"next", True)
    assert client.rest == b""


@pytest.mark.parametrize("step", [1, 100_000])
@pytest.mark.parametrize("coding", ["length", "chunks", "end"])
@pytest.mark.parametrize(
    ("announced", "body", "complete"),
    [(5, b"hello", True), (3, b"hel", True), (0, b"", True), (6, b"hello", False), (9, b"hello", False)],
)
def test_no_more_and_no_less_than_a_filter_announced(
    serving: Serving, announced: int, body: bytes, complete: bool, coding: str, step: int
) -> None:
    client = serving.client()
    client.send(get(f"/length/?n={announced}") + get("/next"))
    wire = {
        "length": response(b"hello"),
        "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "end": b"HTTP/1.1 200 OK\r\n\r\nhello",
    }[coding]
    (peer,) = serving.origins[0].connections
    peer.taken()
    for at in range(0, len(wire), step):
        peer.send(wire[at : at + step])
    if coding == "end":
        peer.finish()
    _answer_all(serving, response(b"next"))
    answer = client.answer()
    assert (answer.status, answer.body, answer.complete) == (200, body, complete)
    if complete:
        assert client.answer().body == b"next"
        assert client.rest == b""
    else:
        assert client.far.ended == "reset"
    said = [line for line in serving.log.lines if "Content-Length that was announced" in line]
    assert bool(said) == (announced != 5)


@pytest.mark.parametrize(("announced", "body"), [(5, b"hello"), (3, b"hel"), (2, b"he"), (9, b"hello")])
def test_no_more_and_no_less_than_a_handler_announced(serving: Serving, announced: int, body: bytes) -> None:
    client = serving.client()
    client.send(get(f"/made?n={announced}"))
    answer = client.answer()
    assert (answer.body, answer.complete) == (body, announced <= 5)
    _next_gets_its_own(serving, client)


def test_content_that_a_peer_does_not_have_is_not_waited_for(serving: Serving) -> None:
    """A GET that became a HEAD on the way: what is announced does not come."""
    client = serving.client()
    client.send(get("/head"))
    (peer,) = serving.origins[0].connections
    assert peer.taken().startswith(b"HEAD ")
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    answer = client.answer()
    assert (answer.status, answer.body) == (200, b"")
    assert client.far.ended
    assert not peer.closed()
    _next_gets_its_own(serving, client)


@pytest.mark.parametrize(("path", "method"), [("/head", "HEAD"), ("/and_back", "GET")])
def test_a_method_that_is_the_client_s_own_changes_nothing(serving: Serving, path: str, method: str) -> None:
    client = serving.client()
    client.send(get(path, method=method))
    (peer,) = serving.origins[0].connections
    assert peer.taken().startswith(method.encode())
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + (b"" if method == "HEAD" else b"hello"))
    answer = client.answer(method)
    assert (answer.body, answer.field("Content-Length")) == (b"" if method == "HEAD" else b"hello", "5")
    assert not client.far.ended
    _next_gets_its_own(serving, client)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_an_answer_without_content_has_none_whatever_its_status_becomes(serving: Serving, status: str) -> None:
    client = serving.client()
    client.send(get("/status"))
    (peer,) = serving.origins[0].connections
    peer.taken()
    peer.send(f"HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nhello".encode())
    assert client.answer().body == b""
    assert peer.closed()
    _next_gets_its_own(serving, client)


@pytest.mark.parametrize(
    ("method", "status", "captured", "kept"),
    [
        ("GET", "200 OK", b"200 hello", True),
        ("GET", "204 No Content", b"204 ", False),
        ("GET", "304 Not Modified", b"304 ", False),
        ("HEAD", "200 OK", b"200 ", False),
    ],
)
def test_what_is_captured_ends_where_it_ends(
    serving: Serving, method: str, status: str, captured: bytes, kept: bool
) -> None:
    client = serving.client()
    client.send(get(f"/captured?m={method}"))
    (peer,) = serving.origins[0].connections
    peer.taken()
    peer.send(f"HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nhello".encode())
    assert client.answer().body == captured
    assert peer.closed() == (not kept)
    _next_gets_its_own(serving, client)


def _asked(serving: Serving, path: str, *fields: str) -> list[bytes]:
    client = serving.client()
    client.send(get(path, *fields))
    return bytes(serving.origins[0].last.received).lower().split(b"\r\n")


@pytest.mark.parametrize("path", ["/", "/set"])
def test_fields_that_connection_names_end_here_with_and_without_lua(serving: Serving, path: str) -> None:
    lines = _asked(serving, path, "Connection: X-Hop", "X-Hop: 1", "X-Other: 2")
    assert b"x-hop: 1" not in lines
    assert b"x-other: 2" in lines
    assert (b"x-set: lua" in lines) == (path == "/set")


def test_no_client_takes_away_a_field_that_lua_set(serving: Serving) -> None:
    lines = _asked(serving, "/set", "Connection: X-Set", "X-Set: 1")
    assert b"x-set: lua" in lines
    assert b"x-set: 1" not in lines


@pytest.mark.parametrize("status", [100, 101, 103])
@pytest.mark.parametrize("place", ["/interim/", "/said/interim"])
def test_behind_an_interim_status_comes_no_other_answer(serving: Serving, status: int, place: str) -> None:
    client = serving.client()
    client.send(get(f"{place}?n={status}") + get("/next"))
    _answer_all(serving, response(b"first"), response(b"second"))
    received = client.far.taken()
    assert received.startswith(b"HTTP/1.1 %d " % status)
    assert received.count(b"HTTP/1.1") == 1
    assert b"keep-alive" not in received
    assert b"second" not in received
    client.far.finish()
    serving.loop.run()
    assert client.far.closed()
