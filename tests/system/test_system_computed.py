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
    split_clients "$arg_x" $share {{ 10% tenth; 0.05% little; 33.3% third; * rest; }}
    split_clients "a$arg_x" $some {{ 50% half; }}
    server {{
        listen 127.0.0.1:{front};
        location / {{
            return 200 "$plain|$none|$joined|$hosts|$connection_upgrade|$chained|$http_given|$place|$mine|$share|$some";
        }}
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


def test_values_are_nginx_s(beside: Beside) -> None:
    requests = [get(f"/?x={quote(value)}&y=b") for value in sorted(VALUES)]
    requests += [get("/"), get("/?x=a", "Upgrade: websocket"), get("/set?x=a"), get("/peer?x=b")]
    requests += [get("/?x=a", "Given: theirs"), get("/?x=z", "Given: theirs")]
    requests += [get(f"/?x={number}") for number in range(60)]
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
        ("geo $y { ranges; }", '"ranges" in "geo" is not supported by upwell'),
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
