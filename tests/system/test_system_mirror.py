"""`mirror` beside nginx: who is sent what, and that nobody waits for it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.beside import FOOTER, Beside, both_of
from tests.system.conftest import StartBalancer
from tests.system.wire import TIMEOUT, Client, Seen, get, post, response
from upwell.errors import ConfigErrors
from upwell.modules.load import load

CONFIGURATION = r"""
events {{}}
http {{
    access_log off;
    client_body_buffer_size 1k;
    proxy_http_version 1.1;
    server {{
        listen 127.0.0.1:{front};
        location / {{ mirror /one; mirror /two; proxy_pass http://127.0.0.1:{origin}; }}
        location /without {{ mirror /one; mirror_request_body off; proxy_pass http://127.0.0.1:{origin}; }}
        location /unbuffered {{ mirror /one; proxy_request_buffering off; proxy_pass http://127.0.0.1:{origin}; }}
        location /text {{ mirror /one; return 200 "text"; }}
        location /outer {{ mirror /one; location /outer/off {{ mirror off; proxy_pass http://127.0.0.1:{origin}; }}
            proxy_pass http://127.0.0.1:{origin}; }}
        location /denied {{ mirror /one; deny all; }}
        location /again {{ mirror /looped; proxy_pass http://127.0.0.1:{origin}; }}
        location /looped {{ mirror /one; proxy_pass http://127.0.0.1:{origin}; }}
        location /broken {{ mirror /dead; proxy_pass http://127.0.0.1:{origin}; }}
        location = /one {{ internal; proxy_pass http://127.0.0.1:{origin}/mirror$request_uri;
            proxy_set_header X-Method $request_method; proxy_set_header X-Uri $uri; }}
        location = /two {{ internal; proxy_pass http://127.0.0.1:{origin}; }}
        location = /dead {{ return 503; }}
    }}
}}
"""


class Mirrored:
    """An origin's answers, and its count of what it has seen, to be waited for."""

    def __init__(self) -> None:
        self.enough = threading.Condition()
        self.count = 0
        self.slow = threading.Event()
        self.slow.set()

    def respond(self, seen: Seen, _: socket.socket) -> bytes:
        with self.enough:
            self.count += 1
            self.enough.notify_all()
        if b"/mirror" in seen.head.split(b" ", 2)[1]:
            self.slow.wait(TIMEOUT)
        return response(b"answer", "Set-Cookie: a=b")

    def wait(self, count: int) -> bool:
        with self.enough:
            return self.enough.wait_for(lambda: self.count >= count, TIMEOUT)


@pytest.fixture(scope="module")
def mirrored() -> Mirrored:
    return Mirrored()


@pytest.fixture(scope="module")
def beside(start_shared: StartBalancer, mirrored: Mirrored) -> Iterator[Beside]:
    with both_of(CONFIGURATION, mirrored.respond, start_shared) as found:
        yield found


LARGE = b"0123456789" * 30_000
ASKED = [
    # the request, how many arrive
    (get("/path?a=b"), 3),
    (get("/path").replace(b"GET", b"HEAD"), 3),
    (post(b"content", "/path"), 3),
    (post(LARGE, "/path"), 3),
    (post(b"", "/path"), 3),
    (get("/without"), 2),
    (post(LARGE, "/unbuffered"), 2),
    (post(b"content", "/text"), 0),  # decided in the rewrite phase
    (get("/outer"), 2),
    (get("/outer/off"), 1),
    (get("/denied"), 0),
    (get("/again"), 2),
    (get("/broken"), 1),
]


def test_who_is_sent_what_is_nginx_s(beside: Beside, mirrored: Mirrored) -> None:
    for request, count in ASKED:
        found = []
        for port in (beside.nginx, beside.upwell):
            beside.origin.seen.clear()
            mirrored.count = 0
            with Client(port) as client:
                answer = client.ask(request)
                assert mirrored.wait(count), (port, request[:40])
                last = client.ask(get("/outer/off?last"))  # nginx: not before the mirrors have answered
            seen = sorted(seen.head + seen.body for seen in beside.origin.seen)
            found.append(
                (
                    answer.status,
                    FOOTER.sub(b"", answer.body),
                    last.status,
                    [one.replace(b":%d" % port, b"") for one in seen],
                )
            )
        assert len(found[0][3]) == count + 1
        assert found[0] == found[1], request[:40]


def test_neither_the_client_nor_its_next_request_waits_for_a_mirror(beside: Beside, mirrored: Mirrored) -> None:
    mirrored.slow.clear()
    mirrored.count = 0
    try:
        with Client(beside.upwell) as client:
            for number in range(1, 4):
                assert client.ask(post(LARGE, "/unbuffered")).body == b"answer"
                assert mirrored.wait(2 * number)
        contents = [seen.body for seen in beside.origin.seen[-6:]]
        assert contents == [LARGE] * 6
    finally:
        mirrored.slow.set()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mirror off; mirror /a;", '"mirror" directive is duplicate'),
        ("mirror /a; mirror off;", '"mirror" directive is duplicate'),
        ("mirror /a /b;", 'invalid number of arguments in "mirror" directive'),
        ("mirror_request_body x;", 'invalid value "x" in "mirror_request_body" directive, it must be "on" or "off"'),
    ],
)
def test_what_is_wrong_is_told(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text(f"events {{}}\nhttp {{\n{line}\n}}\n")
    with pytest.raises(ConfigErrors) as caught:
        load("nginx.conf", str(tmp_path))
    [error] = caught.value.errors
    assert error.message == message
