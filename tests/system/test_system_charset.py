"""`charset` and its family beside nginx: what the type says, and the content recoded."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.beside import Beside, both_of, compare
from tests.system.conftest import StartBalancer
from tests.system.wire import Seen, get, response
from upwell.errors import ConfigErrors
from upwell.modules.load import load

CONFIGURATION = r"""
events {{}}
http {{
    access_log off;
    charset_map koi8-r windows-1251 {{ C1 E0; C2 E1; D7 E2; }}
    charset_map windows-1251 UTF-8 {{ E0 D0B0; E1 D0B1; E2 D0B2; 88 E282AC; }}
    charset_map one two {{ 61 62; }}
    map $arg_c $chosen {{ default koi8-r; u utf-8; n nowhere; w windows-1251; }}
    server {{
        listen 127.0.0.1:{front};
        default_type text/html;
        location / {{ charset utf-8; proxy_pass http://127.0.0.1:{origin}; }}
        location /off/ {{ proxy_pass http://127.0.0.1:{origin}; }}
        location /types/ {{ charset utf-8; charset_types application/json; proxy_pass http://127.0.0.1:{origin}; }}
        location /all/ {{ charset utf-8; charset_types *; proxy_pass http://127.0.0.1:{origin}; }}
        location /over/ {{ charset utf-8; override_charset on; proxy_pass http://127.0.0.1:{origin}; }}
        location /var/ {{ charset $chosen; override_charset on; proxy_pass http://127.0.0.1:{origin}; }}
        location /from/ {{ charset utf-8; source_charset windows-1251; proxy_pass http://127.0.0.1:{origin}; }}
        location /into/ {{ charset windows-1251; source_charset utf-8; proxy_pass http://127.0.0.1:{origin}; }}
        location /single/ {{ charset windows-1251; source_charset koi8-r; proxy_pass http://127.0.0.1:{origin}; }}
        location /ascii/ {{ charset two; source_charset one; proxy_pass http://127.0.0.1:{origin}; }}
        location /same/ {{ charset KOI8-R; source_charset koi8-r; proxy_pass http://127.0.0.1:{origin}; }}
        location /text {{ charset utf-8; return 200 "text"; }}
        location /none {{ charset utf-8; return 204; }}
        location /moved {{ charset utf-8; return 302 /there; }}
        location /missing {{ charset utf-8; return 404; }}
    }}
}}
"""

CYRILLIC = bytes((0xE0, 0x20, 0xE1, 0x61, 0xE2, 0x88, 0xFF)) + b" plain text of one"
MEDIA = {
    "html": "text/html",
    "css": "text/css",
    "json": "application/json",
    "js": "application/javascript",
    "named": "text/html; charset=windows-1251",
    "upper": 'text/plain; Charset="KOI8-R"',
    "utf": "text/html; charset=UTF-8",
    "odd": "text/html; level=1",
    "unknown": "text/html;charset=martian",
}


def _respond(seen: Seen, _: socket.socket) -> bytes:
    path = seen.head.split(b" ", 2)[1].partition(b"?")[0].rpartition(b"/")[2].decode()
    kind, dot, more = path.partition(".")
    fields = [f"Content-Type: {MEDIA[kind]}"] if kind in MEDIA else []
    if more == "coded":
        fields.append("Content-Encoding: br")
    elif dot:
        fields.append(f"X-Accel-Charset: {more}")
    content = CYRILLIC
    if b"/into/" in seen.head:
        content = "\u0430 \u0431a\u0432\u20ac \u0416 \U0001f600 plain text of one".encode()
    status = "302 Found" if kind == "302" else "200 OK"
    return response(b"" if seen.head.startswith(b"HEAD") else content, *fields, status=status)


@pytest.fixture(scope="module")
def beside(start_shared: StartBalancer) -> Iterator[Beside]:
    with both_of(CONFIGURATION, _respond, start_shared) as found:
        yield found


def test_types_and_content_are_nginx_s(beside: Beside) -> None:
    names = [*MEDIA, "nothing", "html.coded", "named.coded", "html.koi8-r", "named.utf-8", "html.martian"]
    ways = ("", "/types", "/all", "/over", "/from", "/into", "/single", "/ascii", "/same", "/off")
    requests = [get(f"{way}/{name}") for way in ways for name in names if (way, name) != ("/off", "named.utf-8")]
    requests.remove(get("/off/html.koi8-r"))  # there, upwell knows no charset
    requests += [get(f"/var/{name}?c={chosen}") for name in MEDIA for chosen in "kunw"]
    requests.remove(get("/var/utf?c=w"))  # no UTF-8, of which nginx makes a character all the same
    requests += [get(path) for path in ("/text", "/none", "/moved", "/missing", "/302")]
    shown: list[str] = []
    assert compare(beside.nginx, beside.upwell, requests, beside.origin, shown.append) == [], "".join(shown)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("charset_map a a { 80 81; }", '"charset_map" between the same charsets "a" and "a"'),
        ("charset_map a b { 80 81; } charset_map b A { 80 81; }", 'duplicate "charset_map" between "b" and "A"'),
        ("charset_map a b { 80; }", "invalid parameters number"),
        ("charset_map a b { 80 100; }", 'invalid value "100"'),
        ("charset_map a b { 1x 10; }", 'invalid value "1x"'),
        ("charset_map a utf-8 { 80 8081; }", 'invalid value "8081"'),
        ("charset_map utf-8 a { 80 80; }", '"charset_map utf-8" is not supported by upwell: name utf-8 last'),
        ("charset a; source_charset b;", 'no "charset_map" between the charsets "b" and "a"'),
        ("charset a; charset b;", '"charset" directive is duplicate'),
        ("charset $nosuch;", 'unknown "nosuch" variable'),
        ("charset a$uri;", '"a$uri" is not supported by upwell: a name, or one variable'),
    ],
)
def test_what_is_wrong_is_told(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text(f"events {{}}\nhttp {{\n{line}\n}}\n")
    with pytest.raises(ConfigErrors) as caught:
        load("nginx.conf", str(tmp_path))
    [error] = caught.value.errors
    assert error.message == message
