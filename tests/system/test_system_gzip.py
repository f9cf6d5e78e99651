"""`gzip` beside nginx: which answers are compressed, what becomes of their heads, and that the content is the same."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.beside import FOOTER, Beside, both_of, outcome
from tests.system.conftest import StartBalancer
from tests.system.wire import Seen, ask, get, response
from upwell.contrib.processes import free_ports
from upwell.errors import ConfigErrors
from upwell.modules.load import load

CONFIGURATION = r"""
events {{}}
http {{
    access_log off;
    gzip on;
    gzip_min_length 30;
    gzip_types text/css application/json;
    default_type text/html;
    proxy_pass_header Date;
    server {{
        listen 127.0.0.1:{front};
        location / {{ proxy_pass http://127.0.0.1:{origin}; proxy_http_version 1.1; }}
        location /vary/ {{ gzip_vary on; proxy_pass http://127.0.0.1:{origin}; }}
        location /text {{ return 200 "a text of more than thirty bytes, that is for sure"; }}
        location /short {{ return 200 "a text of less than thirty"; }}
        location /none {{ return 200; }}
        location /forbidden {{ return 403; }}
        location /missing {{ return 404; }}
        location /gone {{ return 410; }}
        location /moved {{ return 302 /elsewhere; }}
        location /off {{ gzip off; return 200 "a text of more than thirty bytes, that is for sure"; }}
        location /old/ {{ gzip_http_version 1.0; proxy_pass http://127.0.0.1:{origin}; }}
        location /all/ {{ gzip_types *; proxy_pass http://127.0.0.1:{origin}; }}
        location /level/ {{ gzip_comp_level 9; proxy_pass http://127.0.0.1:{origin}; }}
        location /added/ {{ add_header X-Length $sent_http_content_length; add_header ETag '"mine"';
            proxy_pass http://127.0.0.1:{origin}; }}
        location /disable/ {{ gzip_disable "Bad|x[0-9]"; proxy_pass http://127.0.0.1:{origin}; }}
        location /msie/ {{ gzip_disable msie6; proxy_pass http://127.0.0.1:{origin}; }}
        location /any/ {{ gzip_proxied any; proxy_pass http://127.0.0.1:{origin}; }}
        location /auth/ {{ gzip_proxied auth; proxy_pass http://127.0.0.1:{origin}; }}
        location /expired/ {{ gzip_proxied expired; proxy_pass http://127.0.0.1:{origin}; }}
        location /control/ {{ gzip_proxied no-cache no-store; proxy_pass http://127.0.0.1:{origin}; }}
        location /private/ {{ gzip_proxied private; proxy_pass http://127.0.0.1:{origin}; }}
        location /lm/ {{ gzip_proxied no_last_modified; proxy_pass http://127.0.0.1:{origin}; }}
        location /etag/ {{ gzip_proxied no_etag; proxy_pass http://127.0.0.1:{origin}; }}
        location /unbuffered/ {{ proxy_buffering off; proxy_pass http://127.0.0.1:{origin}; }}
        location /page {{ error_page 404 = /vary/html; return 404; }}
    }}
}}
"""

LONG = b"".join(b"line %d of a text that can be made shorter\n" % number for number in range(5000))
DATE = "Date: Mon, 02 Jan 2023 00:00:00 GMT"
ANSWERS: dict[bytes, tuple[bytes, tuple[str, ...], str]] = {
    b"html": (LONG[:500], ("Content-Type: text/html", 'ETag: "a"', "Accept-Ranges: bytes"), "200 OK"),
    b"weak": (LONG[:500], ("Content-Type: text/html; charset=utf-8", 'ETag: W/"a"'), "200 OK"),
    b"odd": (LONG[:500], ("Content-Type: TEXT/HTML", "ETag: a", "Vary: Origin"), "200 OK"),
    b"css": (LONG[:31], ("Content-Type: text/css",), "200 OK"),
    b"edge": (LONG[:30], ("Content-Type: text/css",), "200 OK"),
    b"under": (LONG[:29], ("Content-Type: text/css",), "200 OK"),
    b"plain": (LONG[:500], ("Content-Type: text/plain",), "200 OK"),
    b"untyped": (LONG[:500], (), "200 OK"),
    b"long": (LONG, ("Content-Type: text/html",), "200 OK"),
    b"coded": (LONG[:500], ("Content-Type: text/html", "Content-Encoding: br"), "200 OK"),
    b"404": (LONG[:500], ("Content-Type: text/html",), "404 Not Found"),
    b"500": (LONG[:500], ("Content-Type: text/html",), "500 Internal Server Error"),
    b"206": (LONG[:500], ("Content-Type: text/html", "Content-Range: bytes 0-499/1000"), "206 Partial Content"),
    b"304": (b"", ("Content-Type: text/html", 'ETag: "a"'), "304 Not Modified"),
    b"204": (b"", (), "204 No Content"),
    b"expired": (LONG[:500], ("Content-Type: text/html", "Expires: Sun, 01 Jan 2023 00:00:00 GMT", DATE), "200 OK"),
    b"lasting": (LONG[:500], ("Content-Type: text/html", "Expires: Tue, 03 Jan 2023 00:00:00 GMT", DATE), "200 OK"),
    b"never": (LONG[:500], ("Content-Type: text/html", "Expires: never"), "200 OK"),
    b"no-cache": (LONG[:500], ("Content-Type: text/html", "Cache-Control: max-age=0, No-Cache"), "200 OK"),
    b"no-store": (LONG[:500], ("Content-Type: text/html", "Cache-Control: a", "Cache-Control: no-store"), "200 OK"),
    b"private": (LONG[:500], ("Content-Type: text/html", "Cache-Control: private"), "200 OK"),
    b"modified": (LONG[:500], ("Content-Type: text/html", "Last-Modified: Sun, 01 Jan 2023 00:00:00 GMT"), "200 OK"),
}


def _respond(seen: Seen, _: socket.socket) -> bytes:
    path = seen.head.split(b" ", 2)[1].partition(b"?")[0]
    if path == b"/after":
        return response(b"after")
    name = path.rpartition(b"/")[2]
    content, fields, status = ANSWERS[name]
    if name in (b"204", b"304"):
        return f"HTTP/1.1 {status}\r\n".encode() + b"".join(f"{one}\r\n".encode() for one in fields) + b"\r\n"
    if seen.head.startswith(b"HEAD"):
        return response(content, *fields, status=status)[: -len(content)]
    return response(content, *fields, status=status)


@pytest.fixture(scope="module")
def beside(start_shared: StartBalancer) -> Iterator[Beside]:
    with both_of(CONFIGURATION, _respond, start_shared) as found:
        yield found


TAKES = "Accept-Encoding: gzip"
ACCEPTS = """gzip|gzip, deflate|deflate, gzip|GZIP
deflate,gzip;q=0.5|gzip;q=0|gzip;q=0.0|gzip;q=0.001|gzip; q=1|gzip;q=1.0
gzip;q=1.001|gzip;q=2|gzip;Q=1|gzip;q=0.0001|gzip;x=1|xgzip|x-gzip|gzipx|deflate|*|identity|gzip ;q=0|gzip;q=|gzip;q
gzip  , br|br, gzip ;q=0.2, x|xgzip, gzip|gzip;q=0, gzip|gzi|gzip;q=0.5x|gzip;q=0. |gzip;q=1."""


def _asked() -> list[bytes]:
    asked = [get("/html", f"Accept-Encoding: {value}") for line in ACCEPTS.split("\n") for value in line.split("|")]
    # Of several lines nginx reads the first only; here they are one list (RFC 9110, 5.3).
    asked.append(get("/html", TAKES, "Accept-Encoding: x"))
    asked += [get(f"/{name.decode()}", TAKES) for name in ANSWERS]
    asked += [get(f"/vary/{name.decode()}", TAKES) for name in ANSWERS]
    asked += [get(f"/all/{kind}", TAKES) for kind in ("plain", "untyped", "206")]
    asked += [get(f"/vary/{kind}") for kind in ("html", "plain", "coded")]
    local = ("/text", "/short", "/none", "/forbidden", "/missing", "/gone", "/moved", "/off", "/page")
    asked += [get(path, TAKES) for path in local]
    asked += [get(path) for path in ("/text", "/missing", "/page")]
    asked += [get("/level/long", TAKES), get("/added/html", TAKES), get("/unbuffered/long", TAKES)]
    asked += [get(path, TAKES).replace(b"GET", b"HEAD") for path in ("/html", "/text", "/vary/html")]
    for path in ("/html", "/old/html", "/old/css", "/text"):
        for keep in ("", "Connection: keep-alive"):
            asked.append(get(path, TAKES, *([keep] if keep else [])).replace(b"HTTP/1.1", b"HTTP/1.0"))
    agents: tuple[str, ...] = ("Bad", "bad/1", "Good", "x9", "Mozilla/4.0 (compatible; MSIE 6.0; Windows NT)")
    agents += ("Mozilla/4.0 (compatible; MSIE 6.0; SV1)", "Mozilla/4.0 (MSIE 5.0) Opera 7", "MSIE 7.0", "MSIE 10.0")
    asked += [get(f"/{way}/html", TAKES, f"User-Agent: {agent}") for way in ("disable", "msie") for agent in agents]
    via = (TAKES, "Via: 1.1 else")
    kinds = ("html", "expired", "lasting", "never", "no-cache", "no-store", "private", "modified", "css")
    ways = ("any", "auth", "expired", "control", "private", "lm", "etag", "vary")
    asked += [get(f"/{way}/{kind}", *via) for way in ways for kind in kinds]
    asked += [get("/auth/html", *via, "Authorization: Basic eDp5")]
    return asked


def test_what_is_compressed_is_nginx_s(beside: Beside) -> None:
    shown = []
    compressed = 0
    for request in _asked():
        pair = [outcome(port, request, beside.origin) for port in (beside.nginx, beside.upwell)]
        for found in pair:
            if ("Content-Encoding", "gzip") in found.fields:
                found.body = FOOTER.sub(b"?", gzip.decompress(found.body))
                compressed += 1
        if pair[0] != pair[1]:
            for found in pair:
                found.body = found.body[:100]
            shown.append(f"{request!r}\n  nginx:  {pair[0]}\n  upwell: {pair[1]}\n")
    assert shown == [], "".join(shown)
    assert compressed > 100


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gzip maybe;", 'invalid value "maybe" in "gzip" directive, it must be "on" or "off"'),
        ("gzip_comp_level 0;", "value must be between 1 and 9"),
        ("gzip_comp_level 10;", "value must be between 1 and 9"),
        ("gzip_comp_level x;", '"gzip_comp_level" directive invalid number'),
        ("gzip_http_version 2;", 'invalid value "2"'),
        ("gzip_proxied sometimes;", 'invalid value "sometimes"'),
        ("gzip_min_length x;", '"gzip_min_length" directive invalid value'),
        ("gzip_disable '(';", "pcre2_compile() failed"),
        ("gzip on; gzip off;", '"gzip" directive is duplicate'),
        ("sub_filter '' x;", "empty search pattern"),
        ("sub_filter a $nosuch;", 'unknown "nosuch" variable'),
        ("sub_filter a;", 'invalid number of arguments in "sub_filter" directive'),
        ("sub_filter_once on; sub_filter_once off;", '"sub_filter_once" directive is duplicate'),
        ("gzip_static maybe;", 'invalid value "maybe"'),
        ("gzip_static on; gzip_static on;", '"gzip_static" directive is duplicate'),
        ("gunzip maybe;", 'invalid value "maybe" in "gunzip" directive, it must be "on" or "off"'),
    ],
)
def test_what_is_wrong_is_told_with_its_place(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text(f"events {{}}\nhttp {{\n{line}\n}}\n")
    with pytest.raises(ConfigErrors) as caught:
        load("nginx.conf", str(tmp_path))
    [error] = caught.value.errors
    assert error.message.startswith(message)
    assert error.position is not None
    assert error.position.line == 3


# gzip_static, which the nginx of the wheel lacks: by its document, and its source's order of looks

STATIC = """
events {{}}
http {{
    access_log off;
    default_type text/plain;
    types {{ text/css css; }}
    server {{
        listen 127.0.0.1:{front};
        root {root};
        gzip_static on;
        location /off/ {{ alias {root}/; gzip_static off; }}
        location /vary/ {{ alias {root}/; gzip_vary on; }}
        location /always/ {{ alias {root}/; gzip_static always; gzip_vary on; }}
        location /unpacked/ {{ alias {root}/; gzip_static always; gunzip on; }}
        location /again/ {{ alias {root}/; gzip on; gzip_min_length 1; gzip_types *; }}
        location /index/ {{ alias {root}/; index a.css; }}
        location /tried/ {{ alias {root}/; try_files $uri =404; }}
    }}
}}
"""
WHOLE = b"a file that can be had in two ways"


@pytest.fixture(scope="module")
def static(start_shared: StartBalancer, tmp_path_factory: pytest.TempPathFactory) -> int:
    root = tmp_path_factory.mktemp("packed")
    for folder in (root, root.parent):
        folder.chmod(0o755)
    for name in ("a.css", "b.css", "c.css"):
        (root / name).write_bytes(WHOLE)
    (root / "a.css.gz").write_bytes(gzip.compress(WHOLE))
    (root / "c.css.gz").mkdir()
    (root / "only.gz").write_bytes(gzip.compress(WHOLE))
    [front] = free_ports(1)
    start_shared(STATIC.format(front=front, root=root), [front])
    return front


@pytest.mark.parametrize(
    ("path", "fields", "packed", "vary"),
    [
        ("/a.css", (TAKES,), True, False),
        ("/a.css", (), False, False),
        ("/a.css", ("Accept-Encoding: gzip;q=0",), False, False),
        ("/a.css", (TAKES, "Via: 1.1 x"), False, False),
        ("/b.css", (TAKES,), False, False),
        ("/c.css", (TAKES,), False, False),
        ("/off/a.css", (TAKES,), False, False),
        ("/vary/a.css", (TAKES,), True, True),
        ("/vary/a.css", (), False, True),
        ("/vary/b.css", (TAKES,), False, False),
        ("/always/a.css", (), True, False),
        ("/always/b.css", (), False, False),
        ("/unpacked/a.css", (), False, False),
        ("/unpacked/a.css", (TAKES,), True, False),
        ("/again/a.css", (TAKES,), True, False),
        ("/index/", (TAKES,), True, False),
        ("/tried/a.css", (TAKES,), True, False),
    ],
)
def test_a_file_that_stands_in_gzip_beside_another_is_for_who_takes_it(
    static: int, path: str, fields: tuple[str, ...], packed: bool, vary: bool
) -> None:
    answer = ask(static, get(path, *fields))
    assert answer.status == 200
    assert answer.field("Content-Encoding") == ("gzip" if packed else None)
    assert (gzip.decompress(answer.body) if packed else answer.body) == WHOLE
    assert answer.field("Content-Type") == "text/css"
    assert answer.field("Vary") == ("Accept-Encoding" if vary else None)


def test_a_packed_file_has_its_own_tag_and_no_ranges(static: int) -> None:
    whole = ask(static, get("/a.css", TAKES))
    assert whole.field("ETag") != ask(static, get("/a.css")).field("ETag")
    assert whole.field("Content-Length") == str(len(whole.body))
    unchanged = ask(static, get("/a.css", TAKES, f"If-None-Match: {whole.field('ETag')}"))
    assert (unchanged.status, unchanged.field("Content-Encoding")) == (304, None)
    assert whole.field("Accept-Ranges") is None
    for part in ("0-1", "0-0,2-3", "9000000-"):
        answer = ask(static, get("/a.css", TAKES, f"Range: bytes={part}"))
        assert (answer.status, answer.body, answer.field("Content-Encoding")) == (200, whole.body, "gzip")
    assert ask(static, get("/a.css", "Range: bytes=0-1")).status == 206  # of the file itself
    head = ask(static, get("/a.css", TAKES).replace(b"GET", b"HEAD", 1))
    assert (head.status, head.field("Content-Length"), head.body) == (200, str(len(whole.body)), b"")


@pytest.mark.parametrize("path", ["/only", "/always/nothing", "/a.css/"])
def test_without_the_file_itself(static: int, path: str) -> None:
    answer = ask(static, get(path, TAKES))
    assert answer.status == (200 if path == "/only" else 404)
    assert (
        ask(static, b"POST /a.css HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n" + TAKES.encode() + b"\r\n\r\n").status
        == 405
    )
