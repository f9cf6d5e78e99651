"""Corners of proxying that a user met where upwell and nginx differed, held beside nginx."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import h11
import pytest

from tests.system.beside import Beside, both, compare, outcome
from tests.system.conftest import StartBalancer
from tests.system.wire import Client, Seen, chunked, get, post, response

LOCATIONS = """
        location / { proxy_pass http://peers; }
        location = /exact/ { proxy_pass http://peers; }
        location /both/ { return 200 "prefix"; }
        location = /both/ { proxy_pass http://peers; }
        location /outer { proxy_pass http://peers; location = /outer/exact/ { proxy_pass http://peers; } }
        location = /text/ { return 200 "text"; }
        location /r/ { client_max_body_size 10; return 200 "ok"; }
        location /408 { return 408; error_page 408 /r/; }
        location /444 { return 444; error_page 444 /r/; }
        location /499 { return 499; }
        location /408/text { return 408 "text"; }
        location /499/text { return 499 "text"; }
        location /redirect { proxy_pass http://peers/?X-Accel-Redirect:%20/499; }
        location /body { proxy_set_body $arg_b; proxy_pass http://peers; }
        location /nobody { proxy_pass_request_body off; proxy_pass http://peers; }
        location /large { client_max_body_size 3; error_page 413 @peer; proxy_pass http://peers; }
        location @peer { proxy_pass http://peers; }
        location /sized { client_body_buffer_size 1k; proxy_pass http://peers;
            proxy_set_header X-Content $request_body; }
        location /signed { proxy_pass_header Server; proxy_pass_header Date; proxy_pass http://peers; }
        location /signed/accel { proxy_pass_header Server; proxy_pass_header Date;
            proxy_pass http://peers/?X-Accel-Buffering:%20no; }
        location /signed/redirected { proxy_pass_header Server; proxy_pass_header Date;
            proxy_pass http://peers/?X-Accel-Redirect:%20/r/; }
        location /signed/error { proxy_pass_header Server; proxy_pass_header Date; proxy_intercept_errors on;
            error_page 404 /r/; return 404; }
        location /off { lingering_close off; client_max_body_size 3; proxy_pass http://peers; }
        location /flags { proxy_cookie_flags a $arg_f httponly; proxy_pass http://peers/?Set-Cookie:%20a=1; }
        location /dribbled { proxy_read_timeout 400ms; proxy_pass http://peers; }
"""


def _configuration(port: int, origin: int) -> str:
    return f"""
events {{}}
error_log logs/error.log info;
http {{
    access_log off;
    upstream peers {{ server 127.0.0.1:{origin} max_fails=0; }}
    server {{
        listen 127.0.0.1:{port};
{LOCATIONS}
    }}
}}
"""


def _respond(seen: Seen, connection: socket.socket) -> bytes | None:
    path, _, asked = seen.target.decode().partition("?")
    if path == "/dribbled":
        connection.settimeout(0.1)  # the pace; somebody closes before the head is whole
        for byte in b"HTTP/1.1 200 OK\r\nX: " + bytes([121]) * 100:
            connection.sendall(bytes([byte]))
            try:
                if not connection.recv(1):
                    break
            except TimeoutError:
                continue
        return None
    return response(seen.head + seen.body, *[field.replace("%20", " ") for field in asked.split("&") if ":" in field])


def _chunked(path: str, *pieces: bytes) -> bytes:
    return get(path, "Transfer-Encoding: chunked").replace(b"GET", b"POST", 1) + chunked(list(pieces))


REQUESTS = {
    **{path: get(path) for path in ("/exact", "/exact?a=b", "/both", "/outer/exact", "/text", "/exact/")},
    **{path: get(path) for path in ("/408", "/444", "/499", "/408/text", "/499/text", "/redirect")},
    "a post to 499": post(b"content", path="/499"),
    "chunks that nobody asks for": _chunked("/r/", bytes(20)),
    "a length that nobody asks for": post(bytes(20), path="/r/"),
    "few chunks": _chunked("/r/", b"few"),
    "a set body, empty": get("/body"),
    "a set body, empty, head": get("/body").replace(b"GET", b"HEAD", 1),
    "a set body": get("/body?b=x"),
    "no body to pass": get("/nobody"),
    "large chunks": _chunked("/large", b"four"),
    "a large length": post(b"four", path="/large"),
    "no chunks": _chunked("/"),
    **{f"{size} bytes": post(b"x" * size, path="/sized") for size in (900, 1024, 1200, 1300, 1900, 2500)},
    **{f"chunks, {size} bytes": _chunked("/sized", b"x" * size) for size in (900, 1024, 1300, 2500)},
    "a charset": get("/?X-Accel-Charset:%20koi8-r&Content-Type:%20text/html"),
    "a charset over another": get("/?X-Accel-Charset:%20koi8-r&Content-Type:%20text/html;%20charset=utf-8"),
    "no flag": get("/flags"),
    "a flag": get("/flags?f=secure"),
    "an unknown flag": get("/flags?f=x"),
}


@pytest.fixture(scope="module")
def beside(nginx: tuple[str, ...], start_shared: StartBalancer) -> Iterator[Beside]:
    with both(_configuration, _respond, nginx, start_shared) as beside:
        yield beside


@pytest.mark.parametrize("request_bytes", REQUESTS.values(), ids=REQUESTS.keys())
def test_as_nginx_does_it(beside: Beside, request_bytes: bytes) -> None:
    shown: list[str] = []
    compare(beside.nginx, beside.upwell, [request_bytes], beside.origin, shown.append)
    assert not shown, shown[0]


def test_the_comparison_can_fail(beside: Beside) -> None:
    assert outcome(beside.upwell, get("/499"), beside.origin) != outcome(beside.upwell, get("/499/text"), beside.origin)


@pytest.mark.parametrize(
    ("path", "signed"),
    [
        ("/", (True, True)),
        ("/signed", (False, False)),
        ("/signed?Server:%20mine", (True, False)),
        ("/signed?Date:%20once", (False, True)),
        ("/signed/accel", (False, False)),
        ("/signed/redirected", (True, True)),
        ("/signed/error", (True, True)),
    ],
)
def test_who_signs_an_answer(beside: Beside, path: str, signed: tuple[bool, bool]) -> None:
    for port in (beside.nginx, beside.upwell):
        with Client(port) as client:
            answer = client.ask(get(path))
        assert tuple(answer.field(name) is not None for name in ("Server", "Date")) == signed


def test_a_head_that_dribbles_is_a_timeout(beside: Beside) -> None:
    for port in (beside.nginx, beside.upwell):
        with Client(port) as client:
            assert client.ask(get("/dribbled")).status == 504


@pytest.mark.parametrize("port", ["nginx", "upwell"])
def test_refused_content_is_read_though_nothing_lingers(beside: Beside, port: str) -> None:
    with Client(getattr(beside, port)) as client:
        client.send(post(bytes(40_000), path="/off")[:-40_000])
        assert client.answer("POST").status == 413
        for _ in range(4):
            client.send(bytes(10_000))  # a closed connection would break the pipe
        with pytest.raises((ConnectionError, h11.RemoteProtocolError)):
            client.answer()
