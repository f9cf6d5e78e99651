"""Filters over whatever answers: files, `return`, Lua code, peers, error pages; beside nginx where it has them."""

from __future__ import annotations

import gzip
import socket
import tempfile
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.beside import FOOTER, NGINX, Beside, both, outcome
from tests.system.conftest import StartBalancer
from tests.system.wire import TIMEOUT, Client, Origin, Seen, ask, get, response
from upwell.contrib.processes import free_ports

PAGE = b"<html><head></head><body>" + b"some text of the page, " * 8000 + b"</body></html>"
TAKES = "Accept-Encoding: gzip"

FILES = r"""
events {{}}
http {{
    access_log off;
    types {{ text/html html; text/plain txt; }}
    gzip on; gzip_vary on;
    charset_map one two {{ 61 62; }}
    server {{
        listen 127.0.0.1:{front};
        root {root};
        location / {{ }}
        location /charset/ {{ alias {root}/; charset utf-8; gzip off; }}
        location /recoded/ {{ alias {root}/; charset two; source_charset one; gzip off; }}
        location /paged/ {{ alias {root}/; charset two; source_charset one; error_page 416 /page.txt; gzip off; }}
        location /if/ {{ alias {root}/; gzip off; if ($arg_z) {{ gzip on; }} }}
        location /error/ {{ error_page 404 /page.html; return 404; }}
        location /trailer/ {{ alias {root}/; add_trailer X-T t; gzip_types *; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """Not in pytest's folders: the workers are somebody else, and another session may close those to them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for file, content in (("page.html", PAGE), ("page.txt", PAGE[:3000])):
            (folder / file).write_bytes(content)
            (folder / file).chmod(0o644)
        yield folder


@pytest.fixture(scope="module")
def beside(start_shared: StartBalancer, root: Path) -> Iterator[Beside]:
    if NGINX is None:
        pytest.skip("nginx is not installed (make dev)")

    def configuration(front: int, origin: int) -> str:
        return FILES.format(front=front, root=root)

    with both(configuration, lambda *_: b"", NGINX, start_shared) as found:
        yield found


def test_files_are_as_nginx_sends_them(beside: Beside) -> None:
    part = "Range: bytes=5-20"
    asked = [get(f"/page.{kind}", *fields) for kind in ("html", "txt") for fields in ((TAKES,), (TAKES, part), (part,))]
    asked += [get(path, part) for path in ("/charset/page.html", "/recoded/page.html", "/trailer/page.txt")]
    asked += [get(path) for path in ("/charset/page.html", "/recoded/page.html", "/trailer/page.txt")]
    asked += [get("/recoded/page.html", "Range: bytes=900000-"), get("/page.html", TAKES, "Range: bytes=900000-")]
    asked += [
        get(path, TAKES) for path in ("/if/page.html", "/if/page.html?z=1", "/error/x", "/none", "/trailer/page.txt")
    ]
    asked += [get("/page.html", TAKES).replace(b"GET", b"HEAD")]
    asked += [get("/page.html", TAKES, "If-None-Match: *"), get("/page.txt", TAKES, "If-None-Match: *")]
    shown = []
    for request in asked:
        pair = [outcome(port, request, beside.origin) for port in (beside.nginx, beside.upwell)]
        for found in pair:
            if ("Content-Encoding", "gzip") in found.fields and found.body:
                found.body = FOOTER.sub(b"?", gzip.decompress(found.body))
        if pair[0] != pair[1]:
            for found in pair:
                found.body = found.body[:40]
            shown.append(f"{request!r}\n  nginx:  {pair[0]}\n  upwell: {pair[1]}\n")
    assert shown == [], "".join(shown)


def test_a_page_of_another_location_is_not_changed_by_the_file_s_filters(beside: Beside) -> None:
    answer = ask(beside.upwell, get("/paged/page.html", "Range: bytes=900000-"))
    assert (answer.status, answer.body) == (416, PAGE[:3000])


ALONE = r"""
events {{}}
http {{
    access_log off;
    default_type text/html;
    server {{
        listen 127.0.0.1:{front};
        root {root};
        sub_filter_once off;
        sub_filter "a$arg_letter" "<$host$arg_by>";
        location /return {{ return 200 "abc aBc ac"; }}
        location /lua {{ content_by_lua_block {{ ngx.print("xa") ngx.flush(true) ngx.print("b") ngx.say(" ab") }} }}
        location /peer {{ proxy_pass http://127.0.0.1:{origin}; }}
        location /page.txt {{ sub_filter TEXT word; sub_filter_types *; }}
        location /types {{ sub_filter_types text/css; default_type text/plain; return 200 "ab"; }}
        location /gunzip {{ gunzip on; sub_filter_types *; proxy_pass http://127.0.0.1:{origin}; }}
        location /around/ {{
            add_before_body /before; add_after_body /after; sub_filter a A; addition_types text/plain;
            location /around/return {{ return 200 "main a"; }}
            location /around/peer {{ proxy_pass http://127.0.0.1:{origin}; }}
            location /around/page.txt {{ alias {root}/page.txt; }}
            location /around/lua {{ content_by_lua_block {{ ngx.print("lua a") ngx.flush(true) ngx.print(" end") }} }}
        }}
        location = /before {{ sub_filter a B; sub_filter_types *; return 200 "[a before]"; }}
        location = /after {{ sub_filter a C; sub_filter_types *; proxy_pass http://127.0.0.1:{origin}; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def alone(start_shared: StartBalancer, root: Path) -> Iterator[int]:
    def respond(seen: Seen, _: socket.socket) -> bytes:
        if b"/gunzip" in seen.head:
            return response(gzip.compress(b"a packed ab"), "Content-Encoding: gzip", "Content-Type: text/html")
        return response(b"a peer ab", "Content-Type: text/html")

    [front] = free_ports(1)
    with Origin(respond) as origin:
        start_shared(ALONE.format(front=front, origin=origin.port, root=root), [front])
        yield front


EVENTS = r"""
events {{}}
http {{
    access_log off;
    gzip on; gzip_types text/event-stream; gzip_http_version 1.0;
    proxy_http_version 1.1;
    server {{
        listen 127.0.0.1:{front};
        location /buffered {{ proxy_pass http://127.0.0.1:{origin}; }}
        location /unbuffered {{ proxy_buffering off; proxy_pass http://127.0.0.1:{origin}; }}
    }}
}}
"""
BEFORE, AFTER = b"[B before]", b"C peer Cb"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/return?letter=b&by=x", b"<testx>c <testx>c ac"),
        ("/return", b"<test>bc <test>Bc <test>c"),
        ("/lua?letter=b", b"x<test> <test>\n"),
        ("/peer?letter=b", b"a peer <test>"),
        ("/page.txt", PAGE[:3000].replace(b"text", b"word")),
        ("/types", b"ab"),
        ("/gunzip", b"<test> p<test>cked <test>b"),
        ("/around/return", BEFORE + b"mAin A" + AFTER),
        ("/around/peer", BEFORE + b"A peer Ab" + AFTER),
        ("/around/page.txt", BEFORE + PAGE[:3000].replace(b"a", b"A") + AFTER),
        ("/around/lua", BEFORE + b"luA A end" + AFTER),
    ],
)
def test_whatever_answers_is_changed(alone: int, path: str, expected: bytes) -> None:
    assert ask(alone, get(path)).body == expected


def test_an_event_is_there_before_the_next_one_is_sent(start_shared: StartBalancer) -> None:
    """With both kinds of buffering: where nobody asks for a flush, one comes by itself."""
    read = threading.Semaphore(0)

    def respond(seen: Seen, connection: socket.socket) -> bytes:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            event = b"data: %d\n\n" % number
            connection.sendall(b"%x\r\n%b\r\n" % (len(event), event))
            assert read.acquire(timeout=TIMEOUT)
        return b"0\r\n\r\n"

    [front] = free_ports(1)
    with Origin(respond) as origin:
        start_shared(EVENTS.format(front=front, origin=origin.port), [front])
        for path in ("/unbuffered", "/buffered"):
            with Client(front) as client:
                client.send(get(path, TAKES, "Connection: close", version="1.0"))
                came = b""
                for number in range(3):
                    while b"data: %d\n\n" % number not in _unpacked(came):
                        came += client.socket.recv(65536)
                    read.release()
                came += b"".join(iter(lambda: client.socket.recv(65536), b""))
            assert gzip.decompress(came.partition(b"\r\n\r\n")[2]) == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"


def _unpacked(came: bytes) -> bytes:
    return zlib.decompressobj(31).decompress(came.partition(b"\r\n\r\n")[2])
