"""`add_header`, `add_trailer` and `expires` beside nginx: the same fields, on the same answers."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.beside import FOOTER, Beside, both_of, compare
from tests.system.conftest import StartBalancer
from tests.system.wire import Client, Seen, get, response
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
        location /trailer {{ add_trailer X-Status $status; add_trailer X-Empty "";
            add_trailer X-Sent $sent_http_content_type; return 200 "text"; }}
        location /trailer/none {{ add_trailer X-Status $status; return 204; }}
        location /trailer/error {{ add_trailer X-Usual u; return 404 "error"; }}
        location /trailer/always {{ add_trailer X-Usual u; add_trailer X-Always a always; return 404 "error"; }}
        location /trailer/moved {{ add_trailer X-Usual u; return 302 /there; }}
        location /trailer/empty {{ add_trailer X-Empty "$arg_none"; return 200 "text"; }}
        location /trailer/unchunked {{ add_trailer X-Usual u; chunked_transfer_encoding off; return 200 "text"; }}
        location /trailer/peer {{ add_trailer X-Peer $upstream_http_x_peer; add_trailer X-Of $sent_trailer_x_theirs;
            proxy_http_version 1.1; proxy_pass_trailers on; proxy_pass http://127.0.0.1:{origin}; }}
        location /trailer/gzip {{ add_trailer X-Ratio $gzip_ratio; gzip on; gzip_min_length 1; default_type text/html;
            return 200 "text text text text text text text text text text"; }}
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
    if b"/chunked" in seen.head.partition(b"\r\n")[0]:
        trailer = b"X-Theirs: t\r\n" if b"/with" in seen.head else b""
        head = b"HTTP/1.1 200 OK\r\nX-Peer: p\r\nTransfer-Encoding: chunked\r\n\r\n"
        return head + b"5\r\nhello\r\n0\r\n" + trailer + b"\r\n"
    status = "404 Not Found" if b"/404" in seen.head.partition(b"\r\n")[0] else "200 OK"
    return response(b"peer", *fields, status=status)


@pytest.fixture(scope="module")
def beside(start_shared: StartBalancer) -> Iterator[Beside]:
    with both_of(CONFIGURATION, _respond, start_shared) as found:
        yield found


def test_fields_are_nginx_s(beside: Beside) -> None:
    paths = ["/", "/own", "/own/off", "/error", "/moved", "/several", "/peer", "/peer/404", "/epoch", "/max"]
    paths += ["/error/max", "/peer/max", "/peer/modified", "/off", "/off/in", "/in", "/in/in"]
    requests = [get(path) for path in paths]
    requests += [get(path).replace(b"GET", b"HEAD") for path in ("/own", "/peer")]
    shown: list[str] = []
    assert compare(beside.nginx, beside.upwell, requests, beside.origin, shown.append) == [], "".join(shown)


_VARYING = re.compile(rb"(?m)^(?:Date|Server): [^\r]*\r\n")
TRAILED = ["", "/none", "/error", "/always", "/moved", "/empty", "/unchunked", "/peer", "/peer/chunked"]
TRAILED += ["/peer/chunked/with", "/peer/404"]


def _whole(port: int, request: bytes) -> bytes:
    """All that comes, but what names the balancer and the day."""
    with Client(port) as client:
        client.send(request)
        came = b"".join(iter(lambda: client.socket.recv(65536), b""))
    return FOOTER.sub(b"", _VARYING.sub(b"", came)).replace(b":%d" % port, b"")


def test_trailers_are_nginx_s(beside: Beside) -> None:
    for path in TRAILED:
        for version in ("1.1", "1.0"):
            for method in ("GET", "HEAD"):
                fields = ("Connection: close", "Accept-Encoding: gzip")
                request = get("/trailer" + path, *fields, version=version).replace(b"GET", method.encode())
                theirs, mine = _whole(beside.nginx, request), _whole(beside.upwell, request)
                assert sorted(theirs.split(b"\r\n")) == sorted(mine.split(b"\r\n")), request
                ours = method == "GET" and version == "1.1" and path in ("", "/always", "/peer")
                assert (b"\r\n0\r\nX-" in mine) >= ours
    compressed = _whole(beside.upwell, get("/trailer/gzip", "Connection: close", "Accept-Encoding: gzip"))
    assert re.search(rb"\r\n0\r\nX-Ratio: \d\.\d\d\r\n\r\n$", compressed) is not None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("add_header X y never;", 'invalid parameter "never"'),
        ("add_header 'X Y' z;", 'invalid header name "X Y"'),
        ("add_header Content-Length 5;", '"add_header Content-Length" is not supported by upwell'),
        ("add_header X $nosuch;", 'unknown "nosuch" variable'),
        ("add_trailer X y never;", 'invalid parameter "never"'),
        ("add_trailer Content-Length 5;", '"add_trailer Content-Length" is not supported by upwell'),
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
