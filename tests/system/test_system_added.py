"""`add_header` and `expires` beside nginx: the same fields, on the same answers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.beside import NGINX, Beside, both, compare
from tests.system.conftest import StartBalancer
from tests.system.wire import Seen, get, response
from upwell.errors import ConfigErrors
from upwell.modules.load import load

CONFIGURATION = r"""
events {{}}
http {{
    access_log off;
    add_header X-Http http;
    server {{
        listen 127.0.0.1:{front};
        location / {{ return 200 "$uri"; }}
        location /own {{ add_header X-Own "$request_method $sent_http_content_type"; return 200 "own"; }}
        location /own/off {{ add_header X-Empty ""; return 200 "own"; }}
        location /error {{ add_header X-Usual u; add_header X-Always a always; return 404 "error"; }}
        location /moved {{ add_header X-Usual u; return 307 /there; }}
        location /several {{
            add_header Link </a>; add_header Link </b>; add_header Cache-Control private; return 200 "x";
        }}
        location /peer {{ proxy_pass http://127.0.0.1:{origin}; add_header ETag '"mine"'; add_header Last-Modified "";
            add_header X-Up $upstream_http_x_peer; add_header Cache-Control private; }}
        location /peer/404 {{ proxy_pass http://127.0.0.1:{origin}; add_header X-Usual u;
            add_header X-Always a always; }}
        location /epoch {{ expires epoch; return 200 "x"; }}
        location /max {{ expires max; return 200 "x"; }}
        location /error/max {{ expires max; return 404 "x"; }}
        location /past {{ expires -1; return 200 "x"; }}
        location /now {{ expires 0; return 200 "x"; }}
        location /peer/max {{ proxy_pass http://127.0.0.1:{origin}; expires max; add_header Cache-Control public; }}
        location /peer/modified {{
            proxy_pass http://127.0.0.1:{origin}; expires modified -1d; add_header X $upstream_status;
        }}
        location /off {{ expires max; location /off/in {{ expires off; return 200 "x"; }} return 200 "x"; }}
        location /in {{ add_header X-Out out; location /in/in {{ return 200 "in"; }} return 200 "out"; }}
    }}
}}
"""


def _respond(seen: Seen, _: socket.socket) -> bytes:
    fields = (
        'ETag: "theirs"',
        "Last-Modified: Mon, 01 Jan 2001 00:00:00 GMT",
        "X-Peer: p",
        "Cache-Control: no-store",
        "Expires: Thu, 01 Jan 2015 00:00:00 GMT",
    )
    status = "404 Not Found" if b"/404" in seen.head.partition(b"\r\n")[0] else "200 OK"
    return response(b"peer", *fields, status=status)


@pytest.fixture(scope="module")
def beside(start_shared: StartBalancer) -> Iterator[Beside]:
    if NGINX is None:
        pytest.skip("nginx is not installed (make dev)")

    def configuration(front: int, origin: int) -> str:
        return CONFIGURATION.format(front=front, origin=origin)

    with both(configuration, _respond, NGINX, start_shared) as found:
        yield found


def test_fields_are_nginx_s(beside: Beside) -> None:
    paths = ["/", "/own", "/own/off", "/error", "/moved", "/several", "/peer", "/peer/404", "/epoch", "/max"]
    paths += ["/error/max", "/peer/max", "/peer/modified", "/off", "/off/in", "/in", "/in/in"]
    requests = [get(path) for path in paths]
    requests += [get(path).replace(b"GET", b"HEAD") for path in ("/own", "/peer")]
    shown: list[str] = []
    assert compare(beside.nginx, beside.upwell, requests, beside.origin, shown.append) == [], "".join(shown)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("add_header X y never;", 'invalid parameter "never"'),
        ("add_header 'X Y' z;", 'invalid header name "X Y"'),
        ("add_header Content-Length 5;", '"add_header Content-Length" is not supported by upwell'),
        ("add_header X $nosuch;", 'unknown "nosuch" variable'),
        ("expires x;", "invalid value"),
        ("expires sometimes 1h;", "invalid value"),
        ("expires @25h;", "daily time value must be less than 24 hours"),
        ("expires 1h; expires 2h;", '"expires" directive is duplicate'),
    ],
)
def test_what_is_wrong_is_told_with_its_place(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text(f"events {{}}\nhttp {{\n{line}\n}}\n")
    with pytest.raises(ConfigErrors) as caught:
        load("nginx.conf", str(tmp_path))
    [error] = caught.value.errors
    assert error.message == message
    assert error.position is not None
    assert error.position.line == 3
