"""`merge_slashes off` and `recursive_error_pages` beside nginx."""

from __future__ import annotations

import socket

import pytest

from tests.system.beside import NGINX, both, compare
from tests.system.conftest import StartBalancer
from tests.system.wire import Seen, get, response

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (make dev)")

CONFIGURATION = """
events {{}}
http {{
    access_log off;
    add_header X-Uri "$uri" always;
    server {{
        listen 127.0.0.1:{front};
        merge_slashes off;
        recursive_error_pages on;
        location / {{ proxy_pass http://127.0.0.1:{origin}; }}
        location /in/ {{ proxy_pass http://127.0.0.1:{origin}/out/; }}
        location /in//deep/ {{ return 200 "deep"; }}
        location = //exact {{ return 200 "exact"; }}
        location ~ ^/+re {{ return 200 "re"; }}
        location /first {{ error_page 404 /second; return 404; }}
        location /second {{ error_page 403 = /third; return 403; }}
        location /third {{ return 201 "third"; }}
        location /stops {{ error_page 404 /second; recursive_error_pages off; return 404; }}
        location /goes {{ error_page 404 /halts; return 404; }}
        location /halts {{ recursive_error_pages off; error_page 403 /third; return 403; }}
        location /round {{ error_page 404 /round; return 404; }}
    }}
    server {{
        listen 127.0.0.1:{front};
        server_name other;
        merge_slashes on;
        server_tokens off;
        location / {{ proxy_pass http://127.0.0.1:{origin}; }}
        location /none {{ return 404; }}
        location /build {{ server_tokens build; return 404; }}
    }}
}}
"""

PATHS = (
    *("/a//b", "//a", "///", "/a//", "//exact", "/exact", "//re", "///re/x", "/in//x", "/in//deep/x", "/in/deep/x"),
    *("/a//../b", "/a/.//b", "/a//./b", "/in//../in/x", "//..", "/%2f/a", "/a%2F%2fb", "/a//b?x=//y"),
    *("/first", "/second", "/stops", "/goes", "/round", "/third"),
)


def test_what_is_kept_and_where_errors_lead(start: StartBalancer) -> None:
    assert NGINX is not None

    def respond(_: Seen, __: socket.socket) -> bytes:
        return response(b"yes")

    def configuration(front: int, origin: int) -> str:
        return CONFIGURATION.format(front=front, origin=origin)

    requests = [get(path) for path in PATHS]
    requests += [get(path).replace(b"Host: test", b"Host: other") for path in ("//a", "/none", "/build", "/a//b")]
    shown: list[str] = []
    with both(configuration, respond, NGINX, start) as beside:
        assert compare(beside.nginx, beside.upwell, requests, beside.origin, shown.append) == [], "".join(shown)
