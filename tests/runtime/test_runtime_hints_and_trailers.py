"""103 Early Hints and trailer sections of peers, and content of unknown length, as a configuration wants them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import get, post

HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nServer: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\n"
FINAL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TRAILED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n%b\r\n5\r\nhello\r\n0\r\n%b\r\n"
PEER = "upstream p { server 10.0.0.1; }"


def _server(inside: str, outside: str = "") -> str:
    return f"{PEER} {outside} server {{ listen 8080; location / {{ proxy_pass http://p; {inside} }} }}"


def _sent(serving: Serving, request: bytes, reply: bytes) -> bytes:
    """All that the client got."""
    client = serving.client()
    client.send(request)
    serving.origins[0].last.send(reply)
    return client.far.taken()


@pytest.mark.parametrize("value", ["$http_hint", "0 $http_hint", '"" $http_hint'])
def test_hints_pass_where_a_value_says_so(tmp_path: Path, value: str) -> None:
    with Serving(tmp_path, _server(f"early_hints {value};")) as serving:
        for said, passes in (("1", True), ("yes", True), ("0", False), ("", False)):
            sent = _sent(serving, get("/", f"Hint: {said}"), HINT + HINT + FINAL)
            hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
            assert sent.startswith(hint * 2 + b"HTTP/1.1 200 OK\r\n" if passes else b"HTTP/1.1 200 OK\r\n")
            assert sent.endswith(b"\r\n\r\nok")


def test_hints_pass_at_once(tmp_path: Path) -> None:
    with Serving(tmp_path, _server("", "early_hints 1;")) as serving:
        client = serving.client()
        client.send(get("/"))
        serving.origins[0].last.send(HINT)
        assert client.far.taken() == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        serving.origins[0].last.send(FINAL)
        assert client.far.taken().startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("inside", ["", "early_hints 0;"])
def test_hints_do_not_pass_otherwise(tmp_path: Path, inside: str) -> None:
    with Serving(tmp_path, _server(inside)) as serving:
        assert _sent(serving, get("/"), HINT + FINAL).startswith(b"HTTP/1.1 200 OK\r\n")


def test_neither_hints_to_http_1_0_nor_other_interim_responses_pass(tmp_path: Path) -> None:
    with Serving(tmp_path, _server("early_hints 1;")) as serving:
        assert _sent(serving, get("/", version="1.0"), HINT + FINAL).startswith(b"HTTP/1.1 200 OK\r\n")
        other = b"HTTP/1.1 102 Processing\r\nX: y\r\n\r\n"
        assert _sent(serving, get("/"), other + FINAL).startswith(b"HTTP/1.1 200 OK\r\n")


def test_proxy_hide_header_is_for_hints_too(tmp_path: Path) -> None:
    with Serving(tmp_path, _server("early_hints 1; proxy_hide_header Link;")) as serving:
        assert _sent(serving, get("/"), HINT + FINAL).startswith(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_trailers_pass_where_they_may(tmp_path: Path) -> None:
    log = (
        'log_format t "$upstream_trailer_x_sum|$sent_trailer_x_sum|$upstream_trailer_x_two|$sent_trailer_x_two'
        '|$body_bytes_sent|$upstream_response_length"; access_log logs/t.log t;'
    )
    lines = b"X-Sum: abc\r\nX-Two: 1\r\nX-Two: 2\r\n"
    inside = "proxy_pass_trailers on; proxy_hide_header X-Two;"
    with Serving(tmp_path, _server(inside, log)) as serving:
        sent = _sent(serving, get("/"), TRAILED % (b"Trailer: X-Sum\r\n", lines))
        assert b"\r\nTrailer: X-Sum\r\n" in sent
        assert sent.endswith(b"5\r\nhello\r\n0\r\nX-Sum: abc\r\n\r\n")
        assert _sent(serving, get("/", version="1.0"), TRAILED % (b"", lines)).endswith(b"\r\n\r\nhello")
        assert _sent(serving, get("/"), TRAILED % (b"", b"")).endswith(b"5\r\nhello\r\n0\r\n\r\n")
        assert serving.lines("t.log") == [
            b"abc|abc|1, 2|-|27|47",
            b"abc|abc|1, 2|-|5|47",
            b"-|-|-|-|15|15",
        ]


def test_trailers_do_not_pass_by_default(tmp_path: Path) -> None:
    log = 'log_format t "$upstream_trailer_x_sum|$sent_trailer_x_sum"; access_log logs/t.log t;'
    with Serving(tmp_path, _server("", log)) as serving:
        assert _sent(serving, get("/"), TRAILED % (b"", b"X-Sum: abc\r\n")).endswith(b"5\r\nhello\r\n0\r\n\r\n")
        assert serving.lines("t.log") == [b"-|-"]


def test_trailers_that_would_frame_route_or_authenticate_are_dropped(tmp_path: Path) -> None:
    lines = (
        b"Content-Length: 5\r\nHost: x\r\nSet-Cookie: a\r\nConnection: close\r\n"
        b"Trailer: z\r\nContent-Encoding: gzip\r\nServer: x\r\nX-Fine: 1\r\n"
    )
    with Serving(tmp_path, _server("proxy_pass_trailers on;")) as serving:
        sent = _sent(serving, get("/"), TRAILED % (b"", lines))
        assert sent.endswith(b"0\r\nX-Fine: 1\r\n\r\n")


def test_bad_trailers_cut_the_answer_off(tmp_path: Path) -> None:
    with Serving(tmp_path, _server("proxy_pass_trailers on;")) as serving:
        client = serving.client()
        client.send(get("/"))
        serving.origins[0].last.send(TRAILED % (b"", b"X Bad: 1\r\n"))
        assert not client.far.taken().endswith(b"0\r\n\r\n")
        assert client.far.ended == "reset"


def test_a_clients_trailers_go_no_further(tmp_path: Path) -> None:
    with Serving(tmp_path, _server("proxy_pass_trailers on;")) as serving:
        request = get("/", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"
        answer = serving.ask(request)
        assert answer.body.endswith(b"\r\n\r\nabc")
        assert b"X-Sum" not in answer.body
        assert serving.ask(post(b"next")).status == 200


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_without_chunks_content_of_unknown_length_ends_with_the_connection(tmp_path: Path, version: str) -> None:
    with Serving(tmp_path, _server("chunked_transfer_encoding off;")) as serving:
        client = serving.client()
        client.send(get("/", "Connection: keep-alive", version=version))
        serving.origins[0].last.send(TRAILED % (b"", b""))
        sent = client.far.taken()
        assert sent.endswith(b"\r\n\r\nhello")
        assert b"\r\nConnection: close\r\n" in sent
        assert b"chunked" not in sent
        assert client.far.ended == "fin"
        assert b"Connection: keep-alive" in _sent(serving, get("/"), FINAL)
