"""`rewrite`, `if`, `set`, `break` and `return` beside nginx: the same answers, requests to peers, and log lines."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.system.beside import NGINX, Beside, both, compare
from tests.system.conftest import StartBalancer
from tests.system.wire import TIMEOUT, Seen, get, post, response
from upwell.config.command import words
from upwell.contrib.processes import await_condition
from upwell.errors import ConfigErrors
from upwell.modules.load import load

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (make dev)")

LOCATIONS = r"""
        location ~ ^/set/(.*) { set $x $1; set $y "<$x>"; return 200 "$x|$y|$1|$args|$unset"; }
        location ~ ^/behind/(.*) { rewrite ^/behind/(.*)$ /other?q=$1; set $y $1; return 200 "$y|$uri|$args"; }
        location /twice/ { rewrite ^/twice/(.*)$ /g?a=$1&b=2; rewrite ^ /shown?c=3; }
        location /lost/ { rewrite nomatch /x; return 200 "($1)"; }
        location ~ ^/tested/(.*) { if ($uri ~ nomatch) { } return 200 "($1)"; }
        location ~ ^/bare/(.*) { if ($uri ~ ^) { } return 200 "($1)"; }
        location ~ ^/kept/(.*) { if ($arg_a = 1) { } return 200 "($1)"; }
        location /same { rewrite ^(.*)$ $1 last; }
        location /round { rewrite ^ /trip last; }
        location /trip { rewrite ^ /round last; }
        location /broken/ { rewrite ^/broken/(.*)$ /new/$1?x=1 break; proxy_pass http://ORIGIN/base/; }
        location /whole { rewrite ^/whole(.*) /zz$1 break; proxy_pass http://ORIGIN; }
        location /only { break; set $z 1; proxy_pass http://ORIGIN/rr; }
        location /stopped { rewrite ^ /s2; break; proxy_pass http://ORIGIN/rr; }
        location /based/ { proxy_pass http://ORIGIN/b/; }
        location /to-based { rewrite ^/to-based(.*) /based$1 last; }
        location /temporary/ { rewrite ^/temporary/(.*)$ /h/$1? redirect; }
        location /permanent/ { rewrite ^/permanent/(.*)$ /h/$1?a=b permanent; }
        location /away/ { rewrite ^/away/(.*)$ http://e.org/$1; return 200 no; }
        location /secure/ { rewrite ^/secure/(.*)$ https://e.org/$1 break; return 200 no; }
        location /scheme { rewrite ^ $scheme://h$uri; }
        location /paged { error_page 302 /shown; rewrite ^ /zzz redirect; }
        location /every/ { rewrite ^/every/(.*)$ /x?$1 redirect; }
        location /each/ { rewrite ^/each/(.*)$ /shown?$1? last; }
        location /empty { rewrite ^/empty(.*)$ $arg_no last; }
        location /shown { return 200 "$uri|$args|$is_args|$request_uri|$document_uri|$1"; }
        location /named/ { rewrite ^/named/(?<nm>.*)$ /name; }
        location /name { return 200 "$nm|$1|$uri"; }
        location /in { internal; return 200 "in $request_uri $uri"; }
        location /inner { rewrite ^ /in last; }
        location /drop { rewrite ^ /shown? last; }
        location /drop2 { rewrite ^ /shown?k=v? last; }
        location /quote { rewrite ^ "/shown?u=$uri&x=$arg_x" last; }
        location /caseless { rewrite (?i)^/CASELESS/(.*) /shown?c=$1 last; }
        location /two?marks { return 200 no; }
        location /marks { rewrite ^ /shown?a?b?c last; }

        location /truth { if ($arg_a) { return 200 yes; } return 200 no; }
        location /equal { if ($arg_v = 1) { return 200 one; } if ($arg_v != "2 3") { return 200 not; } return 200 two; }
        location /match {
            if ($arg_v ~ ^A(b+)$) { set $r "${r}s$1"; } if ($arg_v ~* "^a(b+)$") { set $r "${r}i$1"; }
            if ($arg_v !~ A) { set $r "${r}n"; } if ($arg_v !~* a) { set $r "${r}m"; } return 200 "$r";
        }
        location /file {
            if (-f /etc/passwd) { set $f "${f}f"; } if (!-f /etc/passwd) { set $f "${f}!f"; }
            if (-d /etc) { set $f "${f}d"; } if (!-d /etc/passwd) { set $f "${f}!d"; }
            if (-e /nope) { set $f "${f}e"; } if (!-e /nope/$arg_a) { set $f "${f}!e"; }
            if (-x /etc) { set $f "${f}x"; } if (!-x /etc/passwd) { set $f "${f}!x"; }
            if (-f /etc) { set $f "${f}?"; } if (-e /etc/$arg_a) { set $f "${f}$arg_a"; } if (-f "") { set $f "no"; }
            if (-e /etc/passwd/x) { set $f "no"; }
            return 200 "$f";
        }
        location /args { set $args a=$arg_b&c; return 200 "$args|$is_args|$query_string|$arg_a"; }
        location /sent { set $args q=1; proxy_pass http://ORIGIN; }
        location /sent2/ { set $args q=1; proxy_pass http://ORIGIN/x/; }
        location /evil/ {
            add_header X-O o; error_page 404 /shown; proxy_pass http://ORIGIN;
            if ($arg_a) { add_header X-A a; }
            if ($arg_b) { set $c 1; add_header X-B b; }
            if ($arg_c) { set $d 1; }
            if ($arg_e) { return 403; }
            if ($arg_f) { return 200 "f"; }
            if ($arg_g) { add_header X-G g; break; }
            if ($arg_h) { add_header X-H h; return 404; }
            if ($arg_i) { error_page 404 = /based/paged; return 404; }
            if ($arg_j) { rewrite ^ /based/j last; }
            if ($arg_k) { rewrite ^ /j break; }
            if ($arg_l) { expires 1; rewrite ^ /k redirect; }
        }
        location /pass {
            proxy_pass http://ORIGIN/replaced; proxy_set_header X-A a; proxy_redirect http://e.org/ /from/;
            if ($arg_p) { proxy_pass http://ORIGIN; }
            if ($arg_q) { set $qq 1; }
            if ($request_method = POST) { return 405; }
            if ($arg_r) { proxy_pass http://ORIGIN/$arg_r$arg_s; }
        }
        location /default {
            proxy_pass http://ORIGIN/default;
            if ($arg_p) { proxy_pass http://ORIGIN; }
        }
        location /unproxied { if ($arg_p) { proxy_pass http://ORIGIN; } return 200 "here"; }
        location /proxied/ { if ($arg_p) { proxy_pass http://ORIGIN; } if ($arg_q) { return 200 q; } return 204; }
        location ~ ^/re/(.+)$ { proxy_pass http://ORIGIN/$1; if ($arg_a ~ (x)) { set $o 1; } }
        location /outer/ { set $o outer; location /outer/in { return 200 "($o)"; } return 200 "($o)"; }
        location /error { error_page 403 = @n; if ($arg_a) { return 403; } return 200 l; }
        location @n { rewrite ^/error(.*) /shown?n=$1 last; }
        location /at-break { error_page 403 = @b; return 403; }
        location @b { rewrite ^ /changed break; proxy_pass http://ORIGIN; }
        location /given { set $http_x mine; return 200 "$http_x"; }
        location /given2 { return 200 "$http_x"; }
        location /rate { set $limit_rate 1m; return 200 "$limit_rate"; }
        location /mapped { set $m "a"; return 200 $mm; }
        location /chain { rewrite ^/chain/a /chain/b last; rewrite ^/chain/b /chain/c last; return 200 $uri; }
        location /post { if ($request_method = POST) { rewrite ^ /based/post last; } return 200 get; }
        location /drop444 { if ($arg_a) { return 444; } return 204; }
        location /msg { rewrite_log on;
            if ($uri ~ ^/msg/(x|y)) { rewrite ^ /c?z; } rewrite no /x; rewrite /c /d/$1 break;
            return 200 "$uri $args"; }
        location /msg/away { rewrite_log on; rewrite ^ /zz? permanent; }
        location /passwd { root /nope; if ($arg_a) { root /etc; } if ($arg_b) { expires epoch; } }
        location /tried { root /etc; try_files /passwd =404; if ($arg_a) { set $x 1; } }
        location /slash/ { proxy_pass http://ORIGIN; return 403; }
        location /slashed/ { proxy_pass http://ORIGIN; rewrite ^ /x break; deny all; }
        location /closed { deny all; proxy_pass http://ORIGIN; if ($arg_a) { add_header X-A b always; } }
        location /paged2 { error_page 403 /shown; if ($arg_a) { error_page 404 /shown; return 403; } return 403; }
        location /types { types { } default_type a/b; return 200 x; if ($arg_a) { return 200 y; } }
        location /media { default_type a/b; if ($arg_a) { return 200 y; } return 200 x; }
        location ~ ^/(hosts|guests)$ {
            root /etc;
            if (-f $request_filename) { return 200 "there: $document_root $request_filename"; }
            if (!-e $document_root$uri) { rewrite ^/(.*)$ /index.php?page=$1&$args? last; }
        }
        location = /index.php { proxy_pass http://ORIGIN; }
        location /mine {
            set $wanted "$host:$scheme";
            if ($http_user_agent ~* (bot|crawler)) { set $wanted "$wanted:$1"; }
            if ($http_cookie ~ "id=([^;]+)(?:;|$)") { set $wanted "$wanted:$1"; }
            if ($mm = "[]") { set $wanted "$wanted:none"; }
            if ($scheme != https) { return 301 https://$host$request_uri?wanted=$wanted; }
        }
        location /unset { if ($unset) { } return 200 "[$unset]"; }
        location /quiet { uninitialized_variable_warn off; return 200 "[$unset]"; }
        if ($arg_zzz) { set $unset 1; }
"""

CONFIGURATION = r"""
events { }
error_log logs/error.log notice;
http {
    access_log off;
    map $uri $mm { default "[$m]"; }
    log_format unset "<$unset>";
    server {
        listen 127.0.0.1:FRONT;
        LOCATIONS
    }
    server {
        listen 127.0.0.1:FRONT;
        server_name second;
        set $a 1;
        if ($arg_x) { set $a 2; rewrite ^ /z?c=d; break; }
        rewrite ^/a/(.*) /b/$1 last;
        set $a "$a 3 $1";
        if ($arg_r) { return 302 /rr; }
        if ($arg_s) { rewrite ^ http://h/ permanent; }
        if ($arg_t) { return 403; }
        if ($request_uri ~ ^/stop) { rewrite ^/stop(.*) /base$1 break; }
        error_page 404 /page;
        location / { return 200 "$a|$uri|$args|$1"; }
        location = /b/inner { internal; return 200 inner; }
        location /base { proxy_pass http://ORIGIN/pp; }
        location /missing { return 404; }
    }
}
"""

PATHS = words("""
    /set/b%20c+d /set/b+c?x /set/bc /set/%2541%26 /behind/x%20y%3f?z /behind/x /twice/x%20y?z=1 /lost/x
    /tested/x /bare/x /kept/x /same /round /broken/x%20y?b /whole%20x?a=%20 /only?1 /stopped?1 /based/x%20y?z
    /to-based/a%2Fb?q /temporary/x%20y%41%2f%3f%26?z=1 /temporary/a?b /permanent/x%2b?z=1 /permanent/x /away/a?b
    /away/%7e%c3%a4 /secure/a /scheme /paged /every/a%3Fb%3dc%3D /each/a%3Fb%26c+d?e /each/a&b?e /empty
    /empty?no=/shown /named/xyz?1 /in /inner?x /drop?a /drop2?a /drop2 /quote/a?x=b /caseless/QQ?z /marks
    /marks?z /truth /truth?a= /truth?a=0 /truth?a=00 /truth?a=x /equal?v=1 /equal?v=2%203 /equal /match?v=Abb
    /match?v=abb /match?v=x /match /file /file?a=hosts /args?b=1 /args /sent?x /sent2/a%20b?x /evil/ /evil/?a=1
    /evil/?a=1&b=1 /evil/?a=1&c=1 /evil/?a=1&e=1 /evil/?a=1&f=1 /evil/?g=1&h=1 /evil/?b=1&h=1 /evil/?i=1
    /evil/?j=1 /evil/?k=1 /evil/?l=1 /pass/1 /pass/1?p=1 /pass/1?q=1 /pass/1?p=1&q=1 /pass/1?r=a&s=b
    /unproxied?p=1 /unproxied /default/a /default/a?p=1 /proxied/?p=1 /re/a?a=x /re/a?a=b /re/a%20b /outer/
    /outer/in /error /error/b?a=1 /at-break/x?y /rate /mapped /chain/a /post /drop444 /drop444?a=1 /msg/x?1
    /msg/z?1 /msg/away?a /unset /quiet
    /passwd /passwd?a=1 /passwd?a=1&b=1 /tried /tried?a=1 /slash /slash/ /slashed /slashed/ /slashed?a=b /closed?a=1
    /hosts /guests?a=b /closed /paged2 /paged2?a=1 /types /media /media?a=1
""")
SECOND = words("""
    / /?x=1 /a/q /a/inner /b/inner /?r=1 /?s=1 /?t=1 /missing /stop/x%20y?z /base/x
""")
_ESCAPED = "".join(f"%{byte:02x}" for byte in range(1, 256) if byte != 10)


def _host(seen: Seen) -> str:
    return seen.head.partition(b"Host: ")[2].partition(b"\r")[0].decode()


def _respond(seen: Seen, _: socket.socket) -> bytes:
    if b"/default" in seen.head:
        return response(b"", f"Location: http://{_host(seen)}/default/x", status="302 Found")
    return response(b"yes", "Location: http://e.org/x")


@pytest.fixture(scope="module")
def beside(start_shared: StartBalancer) -> Iterator[Beside]:
    assert NGINX is not None

    with both(_configuration, _respond, NGINX, start_shared) as found:
        yield found


def _configuration(front: int, origin: int) -> str:
    text = CONFIGURATION.replace("LOCATIONS", LOCATIONS).replace("FRONT", str(front))
    return text.replace("ORIGIN", f"127.0.0.1:{origin}")


def _alike(beside: Beside, requests: Sequence[bytes]) -> None:
    shown: list[str] = []
    assert compare(beside.nginx, beside.upwell, requests, beside.origin, shown.append) == [], "".join(shown)


def test_a_location_s_steps_do_what_nginx_s_do(beside: Beside) -> None:
    requests = [get(path) for path in sorted(PATHS)]
    requests += [post(b"x", "/pass/1"), post(b"content", "/post?a")]
    requests += [get("/mine/x?y", "User-Agent: a Crawler", "Cookie: a=b; id=7; c=d"), get("/mine")]
    requests += [get("/given", "X: theirs"), get("/given2", "X: a")]
    _alike(beside, requests)


def test_a_server_s_steps_do_what_nginx_s_do(beside: Beside) -> None:
    _alike(beside, [get(path).replace(b"Host: test", b"Host: second") for path in sorted(SECOND)])


def test_captures_are_escaped_as_nginx_escapes_them(beside: Beside) -> None:
    _alike(
        beside, [get(f"{path}{_ESCAPED}?a=b") for path in ("/set/", "/temporary/", "/each/", "/permanent/", "/behind/")]
    )


def _lines(path: Path, about: str) -> list[str]:
    """The lines of one error log about requests whose target begins with `about`, without times, numbers and places."""
    return [
        re.sub(r"^\S+ \S+ (\[\w+\]) [0-9#]+: \*[0-9]+ ", r"\1 ", line)
        for line in path.read_text().splitlines()
        if f'request: "GET {about}' in line and "/html/" not in line
    ]


LOGGED = {"/msg/x?1": 6, "/msg/z?1": 3, "/msg/away?a": 2, "/same": 1, "/empty?logged": 1, "/unset": 1, "/quiet": 0}


def test_what_is_logged_is_what_nginx_logs(start_shared: StartBalancer, tmp_path: Path) -> None:
    """In a configuration of their own: what is asked elsewhere is in the logs as well."""
    assert NGINX is not None

    def configuration(front: int, origin: int) -> str:
        return _configuration(front, origin).replace("logs/error.log", str(tmp_path / f"{front}.log"))

    with both(configuration, _respond, NGINX, start_shared) as own:
        _alike(own, [get(path) for path in LOGGED])
        told = []
        for port in (own.nginx, own.upwell):
            log = tmp_path / f"{port}.log"

            def lines(log: Path = log) -> dict[str, list[str]]:
                return {path: _lines(log, path) for path in LOGGED}

            def complete(now: Callable[[], dict[str, list[str]]] = lines) -> bool:
                return {path: len(found) for path, found in now().items()} == LOGGED

            await_condition(complete, f"the lines in {log}", TIMEOUT)
            told.append(lines())
        assert told[1] == told[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rewrite a b c;", 'invalid parameter "c"'),
        ("rewrite a;", 'invalid number of arguments in "rewrite" directive'),
        ("rewrite ( b;", "pcre2_compile() failed"),
        ('rewrite a "";', "empty replacement"),
        ("rewrite a b$;", "invalid variable name"),
        ("rewrite a $nosuch;", 'unknown "nosuch" variable'),
        (r"rewrite a\Kb /c;", r"pcre2_compile() failed: \K is not supported by upwell"),
        ("if (1) { }", 'invalid condition "1"'),
        ("if $a { }", 'invalid condition "$a"'),
        ("if ($arg_a { }", 'invalid condition "$arg_a"'),
        ("if () { }", 'invalid condition ")"'),
        ("if ($) { }", 'invalid condition "$"'),
        ("if ($arg_a = ) { }", 'invalid condition "$arg_a"'),
        ("if ($arg_a x b) { }", 'unexpected "x" in condition'),
        ("if ($arg_a == b) { }", 'unexpected "==" in condition'),
        ("if ($arg_a = b c) { }", 'invalid condition "$arg_a"'),
        ("if (-q /x) { }", 'invalid condition "-q"'),
        ("if (-f) { }", 'invalid condition "-f"'),
        ("if (! $arg_a) { }", 'invalid condition "!"'),
        ('if ("$arg_a" = b) { }', 'invalid condition ""$arg_a""'),
        ("if (${arg_a}) { }", 'unknown "{arg_a}" variable'),
        ("if ($1 = a) { }", 'unknown "1" variable'),
        ("if ($arg_a = $nosuch) { }", 'unknown "nosuch" variable'),
        ('if ($arg_a ~ "(") { }', "pcre2_compile() failed"),
        ("if ($arg_a) { location /x { } }", '"location" directive is not allowed here'),
        ("if ($arg_a) { if ($arg_b) { } }", '"if" directive is not allowed here'),
        ("if ($arg_a) { allow all; }", '"allow" directive is not allowed here'),
        ("if ($arg_a) { proxy_set_header A b; }", '"proxy_set_header" directive is not allowed here'),
        (
            "if ($arg_a) { proxy_pass http://[::1]/x; }",
            '"proxy_pass" cannot have URI part in location given by regular',
        ),
        ("if ($arg_a);", 'directive "if" has no opening "{"'),
        ("set a b;", 'invalid variable name "a"'),
        ("set $is_args b;", 'the duplicate "is_args" variable'),
        ("set $proxy_host b;", '"set $proxy_host" is not supported by upwell'),
        ("break x;", 'invalid number of arguments in "break" directive'),
        ("rewrite_log x;", 'invalid value "x" in "rewrite_log" directive, it must be "on" or "off"'),
    ],
)
def test_what_is_wrong_is_told_with_its_place(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text(f"events {{}}\nhttp {{\nserver {{ location / {{\n{line}\n}} }} }}\n")
    with pytest.raises(ConfigErrors) as caught:
        load("nginx.conf", str(tmp_path))
    [error] = caught.value.errors
    assert error.message.startswith(message)
    assert error.position is not None
    assert error.position.line == 4


@pytest.mark.parametrize("line", ["add_header A b;", "proxy_pass http://[::1];", "access_log off;"])
def test_an_if_of_a_server_has_steps_only(line: str, tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text(f"events {{}}\nhttp {{\nserver {{ if ($arg_a) {{ {line} }} }} }}\n")
    with pytest.raises(ConfigErrors, match="directive is not allowed here"):
        load("nginx.conf", str(tmp_path))
