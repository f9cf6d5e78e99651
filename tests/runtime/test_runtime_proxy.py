"""proxy_pass with and without a URI, proxy_set_header, proxy_redirect, hidden and passed fields: nginx's outcomes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import get, response

CONFIGURATION = r"""
upstream o { server 10.0.0.1:80; }
access_log off;
server {
    listen 127.0.0.1:8080;
    server_name localhost;
    set $empty "";
    location / { proxy_pass http://o; }
    location /api/ { proxy_pass http://o/v1/; }
    location /cut { proxy_pass http://o/v1; }
    location /slash/ { proxy_pass http://o/; }
    location = /exact/ { proxy_pass http://o/; }
    location = /one { proxy_pass http://o/other; }
    location /address/ { proxy_pass http://10.0.0.2:80/x/; }
    location ~ ^/re/ { proxy_pass http://o; }
    location /fields/ {
        proxy_pass http://o;
        proxy_set_header X-A "a $http_x";
        proxy_set_header X-Empty $empty;
        proxy_set_header Accept "";
        proxy_set_header Host $host;
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        location /fields/own/ { proxy_pass http://o; proxy_set_header X-B b; }
    }
    location /hide/ {
        proxy_pass http://o;
        proxy_hide_header X-Secret;
        proxy_pass_header Server;
        proxy_pass_header X-Accel-Buffering;
    }
    location /off/ { proxy_pass http://o/r/; proxy_redirect off; }
    location /pairs/ {
        proxy_pass http://o/r/;
        proxy_redirect http://other/ /mine/;
        proxy_redirect ~^http://re/(\w+)/(.*)$ http://$host/$2/$1;
    }
    location /old/ { proxy_pass http://o; proxy_http_version 1.0; }
}
"""


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    return Serving(tmp_path, CONFIGURATION)


TARGETS = [
    ("/", "/"),
    ("/a/../b//c%20d?e=f%20", "/a/../b//c%20d?e=f%20"),
    ("/a?b#c", "/a?b#c"),
    ("/%7Ea", "/%7Ea"),
    ("/re/x?y", "/re/x?y"),
    ("/api/", "/v1/"),
    ("/api/x", "/v1/x"),
    ("/api/x?a=b", "/v1/x?a=b"),
    ("/api/?a=b", "/v1/?a=b"),
    ("/api/x?", "/v1/x"),
    ("/api/a//b/../c", "/v1/a/c"),
    ("/api/a%20b", "/v1/a%20b"),
    ("/api/a%2fb", "/v1/a/b"),
    ("/api/a%3Fb", "/v1/a%3Fb"),
    ("/api/a%7Eb", "/v1/a~b"),
    ("/api/%C3%A9", "/v1/%C3%A9"),
    ("/api/a|b", "/v1/a|b"),
    ("/api/a%20|b", "/v1/a%20%7Cb"),
    ("/api/\xe9", "/v1/\xe9"),
    ("/cut", "/v1"),
    ("/cut/x", "/v1/x"),
    ("/cutx", "/v1x"),
    ("/slash/x", "/x"),
    ("/slash/", "/"),
    ("/one", "/other"),
    ("/one?a=b", "/other?a=b"),
    ("/address/y", "/x/y"),
    ("http://localhost/api/x", "/v1/x"),
    ("http://localhost/x?y", "/x?y"),
]


@pytest.mark.parametrize(("target", "passed"), TARGETS)
def test_a_target_is_passed_as_nginx_passes_it(serving: Serving, target: str, passed: str) -> None:
    with serving:
        body = serving.ask(get(target)).body
        assert body.split(b" ")[1] == passed.encode("latin-1")


@pytest.mark.parametrize("target", ["/api", "/slash", "/api?a=b", "/exact"])
def test_a_directory_without_its_slash_is_redirected(serving: Serving, target: str) -> None:
    with serving:
        answer = serving.ask(get(target))
        path, mark, args = target.partition("?")
        assert (answer.status, answer.field("Location")) == (301, f"http://test:8080{path}/{mark}{args}")


def _sent(serving: Serving, *fields: str, path: str = "/fields/") -> list[bytes]:
    return serving.ask(get(path, *fields)).body.split(b"\r\n")[1:-2]


def test_the_default_fields(serving: Serving) -> None:
    with serving:
        assert _sent(serving, "X: y", "Connection: close", "TE: trailers", path="/x") == [b"Host: o", b"X: y"]
        assert _sent(serving, path="/address/") == [b"Host: 10.0.0.2"]
        assert _sent(serving, path="/old/") == [b"Host: o"]  # HTTP/1.0 closes without being told (nginx 1.29.7)


def test_set_fields_replace_the_clients(serving: Serving) -> None:
    with serving:
        sent = _sent(serving, "X: q", "X-A: mine", "X-Empty: mine", "Accept: */*", "X-Forwarded-For: 1.1.1.1")
        assert sorted(sent) == [
            b"Host: test",
            b"X-A: a q",
            b"X-Forwarded-For: 1.1.1.1, 192.0.2.1",
            b"X-Real-IP: 192.0.2.1",
            b"X: q",
        ]


def test_set_fields_are_inherited_only_where_there_are_none(serving: Serving) -> None:
    with serving:
        assert sorted(_sent(serving, "Accept: */*", path="/fields/own/")) == [b"Accept: */*", b"Host: o", b"X-B: b"]


REDIRECTS = [
    ("/api/", "http://o/v1/x", "http://test:8080/api/x"),
    ("/api/", "http://o/v1", "http://o/v1"),
    ("/api/", "http://o/other", "http://o/other"),
    ("/api/", "http://else/v1/", "http://else/v1/"),
    ("/api/", "rel", "rel"),
    ("/", "http://o/x", "http://test:8080/x"),
    ("/", "http://else/x", "http://else/x"),
    ("/off/", "http://o/r/x", "http://o/r/x"),
    ("/pairs/", "http://other/a", "http://test:8080/mine/a"),
    ("/pairs/", "http://re/ab/cd", "http://test/cd/ab"),
    ("/pairs/", "http://o/r/x", "http://o/r/x"),
    ("/re/", "http://o/x", "http://o/x"),
]


@pytest.mark.parametrize(("path", "location", "expected"), REDIRECTS)
def test_a_redirect_of_a_peer_is_rewritten(serving: Serving, path: str, location: str, expected: str) -> None:
    with serving:
        serving.reply = response(b"", f"Location: {location}", status="302 Found")
        answer = serving.ask(get(path))
        assert (answer.status, answer.field("Location")) == (302, expected)


def test_refresh_is_rewritten_too(serving: Serving) -> None:
    with serving:
        serving.reply = response(b"", "Refresh: 5; url=http://o/v1/x")
        assert serving.ask(get("/api/")).field("Refresh") == "5; url=/api/x"


def test_fields_of_the_answer_pass_but_the_hidden(serving: Serving) -> None:
    with serving:
        peer = ("Server: peer", "X-Secret: s", "X-Accel-Buffering: no", "X-Pad: p", "Keep-Alive: timeout=5", "X: y")
        serving.reply = response(b"x", *peer)
        answer = serving.ask(get("/"))
        names = sorted(name.lower() for name, _ in answer.fields)
        assert names == ["connection", "content-length", "date", "server", "x", "x-secret"]
        assert (answer.field("Server") or "").startswith("upwell")
        answer = serving.ask(get("/hide/"))
        assert [value for name, value in answer.fields if name.lower() == "server"] == ["peer"]
        assert answer.field("X-Secret") is None
        assert answer.field("X-Accel-Buffering") == "no"
