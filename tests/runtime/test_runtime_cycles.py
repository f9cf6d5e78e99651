"""A request that is over is gone at once: what refers to itself would stay until a collection, which comes seldom in a
worker, and take its content with it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.serving import Serving

_HTTP = """
lua_shared_dict counted 1m;
upstream app { server 10.0.0.1:80; keepalive 4; }
proxy_http_version 1.1;
proxy_set_header Connection "";
server {
    listen 127.0.0.1:8080;
    client_max_body_size 15k;
    location / { proxy_pass http://app; }
    location /set { set $one 1; proxy_pass http://app; proxy_set_header X-One $one; }
    location /lua {
        content_by_lua_block { ngx.req.read_body() ngx.ctx.one = 1 ngx.say(ngx.shared.counted:incr("a", 1, 0)) }
    }
    location /access { access_by_lua_block { ngx.ctx.one = 1 } proxy_pass http://app; }
    location /capture { content_by_lua_block { ngx.say(ngx.location.capture("/lua").status) } }
    location /broken { content_by_lua_block { error("on purpose") } }
    location /page { upwell_status; allow all; }
    location /none { return 404; }
    location /moved { error_page 404 = /lua; return 404; }
}
"""


@pytest.fixture
def collected() -> Iterator[list[object]]:
    """What only a collection finds, once the test is over with its requests and has run one."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield gc.garbage
    finally:
        gc.set_debug(0)
        gc.enable()
        gc.garbage.clear()
        gc.collect()


def _ask(serving: Serving, head: str, content: bytes = b"") -> None:
    for _ in range(2):
        client = serving.client()
        client.send(f"{head} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        for origin in serving.origins:
            for far in origin.connections:
                if far.taken():
                    far.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        serving.loop.run()
        client.answer(head.partition(" ")[0])


@pytest.mark.parametrize(
    ("head", "size"),
    [
        ("GET /", 0),
        ("POST /", 10_000),
        ("POST /", 20_000),
        ("GET /set", 0),
        ("GET /lua", 0),
        ("POST /lua", 10_000),
        ("POST /access", 10_000),
        ("GET /capture", 0),
        ("POST /broken", 10),
        ("GET /page", 0),
        ("POST /none", 10),
        ("POST /moved", 10),
    ],
)
def test_no_request_outlives_its_answer(tmp_path: Path, collected: list[object], head: str, size: int) -> None:
    with Serving(tmp_path, _HTTP) as serving:
        _ask(serving, head, b"x" * size)
        gc.collect()
        left = {type(one).__name__ for one in collected}
        assert not left & {"Exchange", "RequestBody", "Run", "UpstreamConnection"}
