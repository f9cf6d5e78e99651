"""`map`, `geo` and `split_clients` beside nginx: the same values, and the same words for what is wrong."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.system.beside import NGINX, Beside, both_of, compare
from tests.system.conftest import StartBalancer
from tests.system.wire import Seen, get, response
from upwell.config.command import words
from upwell.errors import ConfigErrors
from upwell.modules.load import load

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (make dev)")

CONFIGURATION = r"""
events {{}}
http {{
    access_log off;
    map $arg_x $plain {{ default other; a first; B second; "" empty; \default escaped; ~^r(\d+)$ "number $1";
        ~*^(?<word>q.)$ "word $word"; ~^z "$arg_y-$joined"; c ""; }}
    map $arg_x $none {{ a b; }}
    map "$arg_x/$arg_y" $joined {{ a/b both; ~^(.*)/(.*)$ $2/$1; }}
    map $arg_x $hosts {{ hostnames; default none; example.com exact; *.example.com leading; .dotted.com dotted;
        mail.* trailing; *.deep.example.com deeper; ~^re regex; }}
    map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
    map $plain $chained {{ first "from $plain"; default "no: $plain"; }}
    map $arg_x $http_given {{ a replaced; default ""; }}
    geo $arg_x $place {{ default nowhere; 10.0.0.0/8 ten; 10.1.0.0/16 eleven; 10.1.2.3 one; 127.0.0.0/8 here;
        0.0.0.0/1 low; fd00::/8 unique; fd00:1::/32 nearer; ::1 loop; }}
    geo $mine {{ 127.0.0.1 me; }}
    geo $arg_x $ranged {{ ranges; default nowhere; 10.0.0.0-10.255.255.255 ten; 10.1.0.0-10.1.255.255 eleven;
        10.1.2.3-10.1.2.3 one; 127.0.0.0-127.0.0.255 here; 126.0.0.0-126.0.0.0 gone; delete 126.0.0.0-126.0.0.0;
        200.0.0.0-255.255.255.254 high; 10.2.0.0-10.2.255.255 twelve; 10.2.0.0-10.2.0.0 first; }}
    geo $arg_x $deleted {{ 10.0.0.0/8 ten; 10.1.0.0/16 eleven; delete 10.1.0.0/16; delete 9.0.0.0/8; }}
    geo $behind {{ proxy 127.0.0.1; 10.0.0.0/8 ten; 127.0.0.0/8 here; fd00::/8 unique; }}
    geo $arg_x $far {{ proxy 127.0.0.0/8; proxy 10.1.0.0/16; proxy fd00::/8; proxy_recursive; ranges; default none;
        10.0.0.0-10.255.255.255 ten; 127.0.0.1-127.0.0.1 here; }}
    split_clients "$arg_x" $share {{ 10% tenth; 0.05% little; 33.3% third; * rest; }}
    split_clients "a$arg_x" $some {{ 50% half; }}
    server {{
        listen 127.0.0.1:{front};
        location / {{
            return 200 "$plain|$none|$joined|$hosts|$connection_upgrade|$chained|$http_given|$place|$mine|$share|$some";
        }}
        location /geo {{ return 200 "$ranged|$deleted|$behind|$far"; }}
        location /set {{ set $plain mine; return 200 "$plain|$chained"; }}
        location /peer {{ proxy_pass http://127.0.0.1:{origin}/$plain; proxy_set_header X-Chosen $connection_upgrade; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def beside(start_shared: StartBalancer) -> Iterator[Beside]:

    def respond(_: Seen, __: socket.socket) -> bytes:
        return response(b"yes")

    with both_of(CONFIGURATION, respond, start_shared) as found:
        yield found


VALUES = words(
    """a A b B c default r12 rx qa QB zz example.com EXAMPLE.COM example.com. a.example.com a.b.example.com
    x.deep.example.com dotted.com a.dotted.com mail.x mail.x.y mail re1 10.0.0.1 10.1.9.9 10.1.2.3 10.2.0.0 127.1.1.1
    126.0.0.1 200.0.0.1
    fd00::1 fd00:1::7 fe80::1 ::1 ::ffff:10.1.2.3 10.1.2 300.1.1.1 nonsense"""
)


FORWARDED = (
    ("10.9.9.9",),
    ("1.2.3.4, 10.1.0.7",),
    ("10.9.9.9", "127.0.0.1, 10.1.5.5"),
    ("10.9.9.9, nonsense, 127.0.0.1",),
    ("fd00::1",),
    ("10.9.9.9, fd00::1",),
    ("",),
    ("nonsense",),
    ("10.9.9.9:80",),
)


def test_values_are_nginx_s(beside: Beside) -> None:
    requests = [get(f"/?x={quote(value)}&y=b") for value in sorted(VALUES)]
    requests += [get(f"/geo?x={quote(value)}") for value in sorted(VALUES)]
    requests += [get("/geo"), get("/"), get("/?x=a", "Upgrade: websocket"), get("/set?x=a"), get("/peer?x=b")]
    requests += [get("/?x=a", "Given: theirs"), get("/?x=z", "Given: theirs")]
    requests += [get(f"/?x={number}") for number in range(60)]
    requests += [
        get(f"/geo?x={address}", *[f"X-Forwarded-For: {line}" for line in lines])
        for address in ("127.0.0.1", "10.1.0.1", "10.2.0.1", "nonsense", "")
        for lines in FORWARDED
    ]
    shown: list[str] = []
    assert compare(beside.nginx, beside.upwell, requests, beside.origin, shown.append) == [], "".join(shown)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("map $arg_x x { a b; }", 'invalid variable name "x"'),
        ("map $arg_x $y { a; }", "invalid number of the map parameters"),
        ("map $arg_x $y { a b; A c; }", 'conflicting parameter "a"'),
        ("map $arg_x $y { default b; default c; }", "duplicate default map parameter"),
        ("map $arg_x $y { ~( b; }", "pcre2_compile() failed"),
        ("map $arg_x $y { hostnames; *a b; }", 'invalid hostname or wildcard "*a"'),
        ("map $arg_x $uri { a b; }", 'the duplicate "uri" variable'),
        ("map $nosuch $y { a b; }", 'unknown "nosuch" variable'),
        ("map $arg_x $y { a $nosuch; }", 'unknown "nosuch" variable'),
        ("geo $y { x a; }", 'invalid network "x"'),
        ("geo $y { 10.0.0.0/255.0.0.0 a; }", 'invalid network "10.0.0.0/255.0.0.0"'),
        ("geo $y { ::1%lo a; }", 'invalid network "::1%lo"'),
        ("geo $y { 10.0.0.0/8 a; ranges; }", 'the "ranges" directive must be the first directive inside "geo" block'),
        ("geo $y { default a; ranges; }", 'the "ranges" directive must be the first directive inside "geo" block'),
        ("geo $y { ranges; 1.0.0.0/8 a; }", 'invalid range "1.0.0.0/8"'),
        ("geo $y { ranges; 1.0.0.9-1.0.0.1 a; }", 'invalid range "1.0.0.9-1.0.0.1"'),
        ("geo $y { ranges; 1.0.0.0-255.255.255.255 a; }", 'invalid range "1.0.0.0-255.255.255.255"'),
        ("geo $y { ranges; ::1-::2 a; }", 'invalid range "::1-::2"'),
        (
            "geo $y { ranges; 1.0.0.10-1.0.0.20 b; 1.0.0.15-1.0.0.255 a; }",
            'range "1.0.0.15-1.0.0.255" overlaps "1.0.0.10-1.0.0.20"',
        ),
        (
            "geo $y { ranges; 1.0.0.10-1.0.0.20 b; 1.0.0.0-1.0.0.255 a; }",
            'range "1.0.0.0-1.0.0.255" overlaps "1.0.0.10-1.0.0.20"',
        ),
        ("geo $y { delete x; }", 'invalid network "x"'),
        ("geo $y { proxy x; }", 'invalid network "x"'),
        ("geo $y { proxy; }", "invalid number of the geo parameters"),
        ("geo $y { ranges x; }", 'invalid network "ranges"'),
        ("split_clients $arg_x $y { 60% a; 50% b; }", "percent total is greater than 100%"),
        ("split_clients $arg_x $y { 0% a; }", 'invalid percent value "0%"'),
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
