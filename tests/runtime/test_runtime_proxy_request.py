"""What of a request goes to the peer: fields that are set, framing that nobody sets, another method, other content."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import LAST, chunks, get, post, response
from upwell.modules.load import load

CONFIGURATION = r"""
upstream o { server 10.0.0.1:80; }
access_log off;
proxy_set_header X-Http http;
server {
    listen 127.0.0.1:8080;
    server_name localhost;
    set $empty "";
    location /inherits { proxy_pass http://o; }
    location /own { proxy_pass http://o; proxy_set_header X-Own own; }
    location /outer {
        proxy_set_header X-Outer outer;
        location /outer/inherits { proxy_pass http://o; }
        location /outer/own { proxy_pass http://o; proxy_set_header Host h; proxy_set_header Host i; }
    }
    location /hop {
        proxy_pass http://o;
        proxy_set_header Host "";
        proxy_set_header Connection close;
        proxy_set_header TE trailers;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Keep-Alive $empty;
    }
    location /split { proxy_pass http://o; proxy_set_header X-A $arg_a; proxy_set_header X-U $uri; }
    location /length/none { proxy_pass http://o; proxy_set_header Content-Length ""; }
    location /length/5 { proxy_pass http://o; proxy_set_header content-length 5; }
    location /length/client { proxy_pass http://o; proxy_set_header Content-Length $http_content_length; }
    location /coding { proxy_pass http://o; proxy_set_header Transfer-Encoding chunked; }
    location /body/off { proxy_pass http://o; proxy_pass_request_body off; }
    location /body/off/none {
        proxy_pass http://o; proxy_pass_request_body off; proxy_set_header Content-Length "";
    }
    location /body/set { proxy_pass http://o; proxy_set_body "a=$arg_a"; proxy_request_buffering off; }
    location /body/empty { proxy_pass http://o; proxy_set_body $empty; }
    location /headers/off { proxy_pass http://o; proxy_pass_request_headers off; }
    location /headers/set { proxy_pass http://o; proxy_pass_request_headers off; proxy_set_header X-A $http_x; }
    location /method/put { proxy_pass http://o; proxy_method PUT; }
    location /method/value { proxy_pass http://o; proxy_method $arg_m; }
    location /method/get { proxy_pass http://o; proxy_method GET; }
    location /method/head { proxy_pass http://o; proxy_method HEAD; }
    location /old { proxy_pass http://o; proxy_http_version 1.0; proxy_request_buffering off; }
}
"""


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    return Serving(tmp_path, CONFIGURATION)


def _sent(serving: Serving, request: bytes) -> tuple[bytes, list[bytes], bytes]:
    """Request line, field lines in order of the alphabet, content of what reached the peer."""
    answer = serving.ask(request)
    assert answer.status == 200, serving.log.lines
    head, _, body = answer.body.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    return line, sorted(fields), body


def _chunked(path: str, *pieces: bytes) -> bytes:
    return get(path, "Transfer-Encoding: chunked", method="POST") + chunks(*pieces) + LAST


def test_a_level_with_fields_of_its_own_inherits_none(serving: Serving) -> None:
    with serving:
        for path, fields in (
            ("/inherits", [b"Host: o", b"X-Http: http"]),
            ("/own", [b"Host: o", b"X-Own: own"]),
            ("/outer/inherits", [b"Host: o", b"X-Outer: outer"]),
            ("/outer/own", [b"Host: h", b"Host: i"]),
        ):
            assert _sent(serving, get(path))[1] == fields


def test_the_fields_of_a_hop_may_be_set_or_left_out(serving: Serving) -> None:
    with serving:
        fields = _sent(serving, get("/hop", "Upgrade: ws", "Keep-Alive: 5", "TE: gzip", "Connection: x"))[1]
        assert fields == [b"Connection: close", b"TE: trailers", b"Upgrade: ws"]


def test_no_value_ends_its_line(serving: Serving) -> None:
    with serving:
        fields = _sent(serving, get("/split/%0d%0aX-Evil:%201?a=%0d%0aX-Evil:1"))[1]
        assert fields == [b"Host: o", b"X-A: %0d%0aX-Evil:1", b"X-U: /split/%0D%0AX-Evil: 1"]


@pytest.mark.parametrize("path", ["/length/none", "/length/5", "/length/client", "/coding"])
@pytest.mark.parametrize("body", [b"", b"hello", b"hello and more"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_the_length_is_that_of_what_is_sent(serving: Serving, path: str, body: bytes, is_chunked: bool) -> None:
    with serving:
        request = _chunked(path, *([body] if body else [])) if is_chunked else post(body, path=path)
        _, fields, sent = _sent(serving, request)
        assert sent == body
        framing = [field for field in fields if field.lower().startswith((b"content-length", b"transfer-encoding"))]
        announced = body or path == "/coding"
        assert framing == ([b"Content-Length: %d" % len(body)] if announced else [])


def test_a_length_of_one_s_own_is_warned_about(tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text(f"events {{}} http {{ {CONFIGURATION} }}")
    warned = [warning.message for warning in load("nginx.conf", str(tmp_path)).warnings]
    assert warned == [
        f'"proxy_set_header {name}" is ignored, upwell says itself how long the content is'
        for name in ("content-length", "Content-Length", "Transfer-Encoding")
    ]


def test_no_length_is_made_up_for_a_request_without_content(serving: Serving) -> None:
    with serving:
        for path in ("/length/5", "/coding", "/body/off", "/inherits"):
            assert not any(field.startswith(b"Content-Length") for field in _sent(serving, get(path))[1])


def test_content_may_stay_here(serving: Serving) -> None:
    with serving:
        for request in (post(b"hello", path="/body/off"), _chunked("/body/off", b"hello")):
            _, fields, sent = _sent(serving, request)
            assert (fields, sent) == ([b"Content-Length: 0", b"Host: o", b"X-Http: http"], b"")
        _, fields, sent = _sent(serving, post(b"hello", path="/body/off/none"))
        assert (fields, sent) == ([b"Host: o"], b"")


def test_other_content_goes_with_its_own_length(serving: Serving) -> None:
    with serving:
        for request in (
            post(b"hello", path="/body/set?a=xyz"),
            _chunked("/body/set?a=xyz", b"hello"),
            get("/body/set?a=xyz"),
        ):
            line, fields, sent = _sent(serving, request)
            assert line.endswith(b" /body/set?a=xyz HTTP/1.1")
            assert fields == [b"Content-Length: 5", b"Host: o", b"X-Http: http"]
            assert sent == b"a=xyz"
        assert _sent(serving, post(b"hello", path="/body/empty"))[1:] == (
            [b"Content-Length: 0", b"Host: o", b"X-Http: http"],
            b"",
        )


def test_the_client_s_fields_may_stay_here(serving: Serving) -> None:
    with serving:
        assert _sent(serving, get("/headers/off", "X: y", "Cookie: c"))[1] == [b"Host: o", b"X-Http: http"]
        _, fields, sent = _sent(serving, post(b"hello", "X: y", path="/headers/set"))
        assert (fields, sent) == ([b"Content-Length: 5", b"Host: o", b"X-A: y"], b"hello")


def test_another_method_may_be_sent(serving: Serving) -> None:
    with serving:
        assert _sent(serving, get("/method/put"))[0] == b"PUT /method/put HTTP/1.1"
        assert _sent(serving, get("/method/value?m=PURGE"))[0] == b"PURGE /method/value?m=PURGE HTTP/1.1"
        assert _sent(serving, get("/method/value"))[0] == b"GET /method/value HTTP/1.1"


@pytest.mark.parametrize("method", ["GET%20/x", "A,B", "G/T"])
def test_a_method_that_is_none_is_not_sent(serving: Serving, method: str) -> None:
    with serving:
        assert serving.ask(get(f"/method/value?m={method}")).status == 500
        assert serving.log.lines[0].startswith('client request has no valid "proxy_method"')
        assert not serving.origins[0].connections or serving.origins[0].last.taken() == b""


def test_the_method_that_was_sent_decides_whether_there_is_content(serving: Serving) -> None:
    with serving:
        serving.reply = response(b"", length=5)
        answer = serving.ask(get("/method/head"))
        assert (answer.status, answer.complete, answer.field("Connection")) == (200, False, "close")
        serving.reply = response(b"hello")
        answer = serving.ask(get("/method/get", method="HEAD"))
        assert (answer.status, answer.complete, answer.body) == (200, True, b"")
        assert _sent(serving, get("/inherits"))  # the connections are in order


def test_a_chunked_request_has_its_length_for_http_1_0(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.send(get("/old", "Transfer-Encoding: chunked", method="POST") + chunks(b"hel"))
        assert not serving.origins[0].connections  # its length must be known first
        client.send(chunks(b"lo") + LAST)
        sent = serving.origins[0].last.taken()
        assert sent.startswith(b"POST /old HTTP/1.0\r\n")
        assert sent.endswith(b"\r\n\r\nhello")
        assert b"\r\nContent-Length: 5\r\n" in sent
        assert b"Transfer-Encoding" not in sent
