"""$sent_http_ and $upstream_http_ in the log: what went to the client, and what the peer had said."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import get, response

CONFIGURATION = """
upstream o { server 10.0.0.1:80; }
log_format sent "$sent_http_x_a|$sent_http_set_cookie|$sent_http_server|$sent_http_content_type|$sent_http_connection|"
    "$upstream_http_x_a|$upstream_http_content_type";
access_log logs/access.log sent;
server {
    listen 127.0.0.1:8080;
    location / { proxy_pass http://o; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }
    location /hide { proxy_pass http://o; proxy_hide_header X-A; proxy_hide_header Set-Cookie; }
    location /pass { proxy_pass http://o; proxy_pass_header Server; }
    location /cookies { proxy_pass http://o; proxy_cookie_path / /all/; }
    location /again { proxy_pass http://o; error_page 404 /text; proxy_intercept_errors on; }
    location /text { return 200 "text"; }
}
"""
FIELDS = ("X-A: 1", "X-A: 2", "Set-Cookie: a=1; path=/", "Set-Cookie: b", "Server: own", "Content-Type: a/b")


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    return Serving(tmp_path, CONFIGURATION)


@pytest.mark.parametrize(
    ("target", "status", "line"),
    [
        ("/", "200 OK", b"1, 2|a=1; path=/, b|-|a/b|keep-alive|1, 2|a/b"),
        ("/hide", "200 OK", b"-|-|-|a/b|keep-alive|1, 2|a/b"),
        ("/pass", "200 OK", b"1, 2|a=1; path=/, b|own|a/b|keep-alive|1, 2|a/b"),
        ("/cookies", "200 OK", b"1, 2|a=1; path=/all/, b|-|a/b|keep-alive|1, 2|a/b"),
        ("/again", "404 Not Found", b"-|-|-|text/plain|keep-alive|1, 2|a/b"),
    ],
)
def test_what_was_sent_is_logged_as_sent(serving: Serving, target: str, status: str, line: bytes) -> None:
    with serving:
        serving.reply = response(b"", *FIELDS, "Content-Type: c/d", status=status)
        serving.ask(get(target))
        assert serving.lines() == [line]


def test_a_field_that_belongs_to_one_connection_was_not_sent(serving: Serving) -> None:
    with serving:
        serving.reply = response(b"", "X-A: 1", "Connection: X-A")
        serving.ask(get("/"))
        assert serving.lines() == [b"-|-|-|-|keep-alive|1|-"]


def test_an_empty_answer_has_its_type(serving: Serving) -> None:
    with serving:
        serving.reply = b"HTTP/1.1 204 No Content\r\nContent-Type: a/b\r\n\r\n"
        assert serving.ask(get("/")).field("Content-Type") == "a/b"
        assert serving.lines() == [b"-|-|-|a/b|keep-alive|-|a/b"]


def test_a_switched_connection_is_logged_as_such(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.send(get("/", "Connection: upgrade", "Upgrade: x"))
        serving.origins[0].last.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
        assert b"Connection: upgrade\r\n" in client.far.taken()
        client.far.finish()
        assert serving.lines()[0].split(b"|")[4] == b"upgrade"
