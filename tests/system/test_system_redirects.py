"""Internal redirects, error pages, X-Accel-* and what is changed in a peer's answer, held beside nginx."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.parse import parse_qsl, quote

import pytest

from tests.system.beside import Beside, compare, outcome
from tests.system.conftest import StartBalancer
from tests.system.wire import Origin, Seen, get, post, response
from upwell.config.command import words
from upwell.contrib.processes import free_ports

LOCATIONS = r"""
        set $where /page;
        set $empty "";
        set $named @named;
        set $elsewhere http://elsewhere.test/x;
        location / { proxy_pass http://peers; }
        location /page { return 200 "page $uri $args $request_uri $request_method"; }
        location /typed.html { return 200 "typed"; }
        location /proxied { proxy_pass http://peers; }
        location /replaced/ { proxy_pass http://peers/inner/; }
        location @named { return 200 "named $uri $args $request_method"; }
        location @peer { proxy_pass http://peers; proxy_set_header Host named; }
        location @gone { return 410; }
        location /private/ { internal; proxy_pass http://peers/; }
        location = /private/text { internal; return 200 "private"; }

        location /none { proxy_pass http://peers; proxy_intercept_errors on; }
        location /off { proxy_pass http://peers; error_page 404 /page; }
        location /on { proxy_pass http://peers; proxy_intercept_errors on; error_page 404 301 401 500 /page?a=b; }
        location /on/peer { proxy_pass http://peers; proxy_intercept_errors on; error_page 404 500 503 /proxied?x=y; }
        location /on/named {
            proxy_pass http://peers; proxy_intercept_errors on; error_page 404 @named; error_page 500 @peer;
            error_page 410 @gone; error_page 418 @nosuch;
        }
        location /on/same { proxy_pass http://peers; proxy_intercept_errors on; error_page 404 = /page; }
        location /on/200 { proxy_pass http://peers; proxy_intercept_errors on; error_page 404 =200 /page; }
        location /on/203 { proxy_pass http://peers; proxy_intercept_errors on; error_page 404 =203 @peer; }
        location /on/empty { proxy_pass http://peers; proxy_intercept_errors on; error_page 404 =204 /page; }
        location /on/variable {
            proxy_pass http://peers; proxy_intercept_errors on;
            error_page 404 $where$is_args$args; error_page 500 $elsewhere; error_page 410 $named; error_page 418 $empty;
        }
        location /on/url { proxy_pass http://peers; proxy_intercept_errors on; error_page 404 http://other.test/$uri; }
        location /on/url/301 { proxy_pass http://peers; proxy_intercept_errors on; error_page 404 =301 /page;
            error_page 500 =303 http://other.test/; error_page 503 =200 http://other.test/; }
        location /on/again { proxy_pass http://peers; proxy_intercept_errors on; error_page 404 /on/again; }
        location /on/recursive {
            proxy_pass http://peers; proxy_intercept_errors on; recursive_error_pages on;
            error_page 404 /on/recursive; error_page 500 /on;
        }
        location /first { return 404; error_page 404 /page; error_page 404 /private/text; }
        location /third { return 403; error_page 403 404 /third/page; location /third/page { return 401; } }
        location /third/same { return 403; error_page 403 = /third/page; }
        location /third/ok { return 403; error_page 403 =200 /third/page; }
        location /third/text { return 403; error_page 403 /third/text/page;
            location /third/text/page { return 401 "own text"; } }
        location /moved { return 301 /there; error_page 301 /page; }
        location /moved/named { return 302 /there; error_page 302 =200 @named; }
        location /deny { deny all; error_page 403 /page; }
        location /deny/post { deny all; error_page 403 @peer; }
        location /deny/peer { deny all; error_page 403 /proxied; }
        location /large { client_max_body_size 4; proxy_pass http://peers; error_page 413 /page; }
        location /large/peer { client_max_body_size 4; proxy_pass http://peers; error_page 413 /proxied; }
        location /large/named { client_max_body_size 4; proxy_pass http://peers; error_page 413 @peer; }
        location /dead { proxy_pass http://dead; error_page 502 504 /proxied; }
        location /dead/named { proxy_pass http://dead; error_page 502 504 = @peer; }
        location /dead/gone { proxy_pass http://dead; error_page 502 @gone; }
        location /inherit { error_page 404 /page; location /inherit/a { return 404; }
            location /inherit/b { error_page 500 /page; return 404; } location /inherit/c { return 403; } }
        location /twice { error_page 404 /once; return 404; }
        location /once { error_page 403 /page; return 403; }
        location /recursive { error_page 404 /further; return 404; }
        location /further { error_page 404 403 /page; recursive_error_pages on; return 403; }
        location /cycle { error_page 404 /cycle; recursive_error_pages on; return 404; }

        location = /page/status { return 200 "$status"; }
        location = /page/status/503 { return 503 "$status"; }
        location @status { return 203 "$status"; }
        location @before {
            proxy_pass http://peers;
            proxy_set_header X-Before "$upstream_status|$upstream_addr|$upstream_http_x_seen|$upstream_response_length";
        }
        location @before/dead {
            proxy_pass http://dead; proxy_set_header X-Before $upstream_status; error_page 502 @before;
            recursive_error_pages on;
        }
        location /before {
            proxy_pass http://peers; proxy_intercept_errors on; error_page 503 @before; error_page 500 @before/dead;
            proxy_set_header X-Before $upstream_status; proxy_set_header X-Addr $upstream_addr;
            recursive_error_pages on;
        }
        location /before/again {
            proxy_pass http://again; proxy_next_upstream error http_503; proxy_set_header X-Before $upstream_status;
        }
        location /before/content {
            proxy_pass http://peers; proxy_set_body "<$upstream_status>"; proxy_intercept_errors on;
            error_page 404 @before/content;
        }
        location @before/content { proxy_pass http://peers; proxy_set_body "<$upstream_status>"; }
        location /status/same { error_page 404 /page/status; return 404; }
        location /status/other { error_page 404 =299 /page/status; return 404; }
        location /status/own { error_page 404 = /page/status; return 404; }
        location /status/named { error_page 404 @status; return 404; }
        location /status/dead { proxy_pass http://dead; error_page 502 /page/status/503; }
        location /status/on { proxy_pass http://peers; proxy_intercept_errors on; error_page 404 /page/status; }
        location /status/to-peer { error_page 404 /proxied?status=299&X-Seen=$status; return 404; }
        location /status/address { error_page 404 =301 http://other.test/$status; return 404; }
        location /status/address/same { error_page 404 http://other.test/$status; return 404; }
        location /status/argument { error_page 404 /page?$status; return 404; }
        location /status/text { return 203 "$status"; }
        location /status/moved { return 302 http://other.test/$status; }
        location /status/494/text { return 494 "$status"; }
        location /status/494/named { error_page 414 =494 @status; return 414; }

        location /ignore/redirect { proxy_pass http://peers; proxy_ignore_headers X-Accel-Redirect; }
        location /ignore/charset { proxy_pass http://peers; proxy_ignore_headers X-Accel-Charset X-Accel-Expires; }
        location /pass/accel {
            proxy_pass http://peers; proxy_ignore_headers X-Accel-Redirect;
            proxy_pass_header X-Accel-Redirect; proxy_pass_header x-accel-expires; proxy_hide_header x-seen;
        }
        location /pass/none { proxy_pass http://peers; proxy_hide_header X-Accel-Redirect; proxy_hide_header Set-Cookie;
            proxy_hide_header Content-Type; proxy_hide_header Content-Length; proxy_pass_header Connection; }

        location /cookie/domain {
            proxy_pass http://peers;
            proxy_cookie_domain localhost example.org;
            proxy_cookie_domain .dotted.test .other.test;
            proxy_cookie_domain ~\.(?P<sub>\w+)\.test$ $sub.example.org;
            proxy_cookie_domain $http_x_domain from.variable;
        }
        location /cookie/path {
            proxy_pass http://peers;
            proxy_cookie_path /one/ /1/;
            proxy_cookie_path ~^/two/(\w+) /2/$1;
            proxy_cookie_path ~*^/three /3;
            proxy_cookie_path ~middle /m;
            proxy_cookie_path $http_x_path /variable;
        }
        location /cookie/flags {
            proxy_pass http://peers;
            proxy_cookie_flags one secure httponly samesite=strict;
            proxy_cookie_flags two nosecure nohttponly nosamesite;
            proxy_cookie_flags ~^three samesite=lax;
            proxy_cookie_flags four samesite=none Secure;
            proxy_cookie_flags five $http_x_flag;
            proxy_cookie_flags $http_x_name httponly;
        }
        location /cookie/off { proxy_pass http://peers; proxy_cookie_flags off; proxy_cookie_path off; }
        location /cookie/all {
            proxy_pass http://peers; proxy_cookie_domain a b; proxy_cookie_path / /all/; proxy_cookie_flags ~. secure;
        }
        location /redirect/ {
            proxy_pass http://peers/r/;
            proxy_redirect default;
            proxy_redirect http://literal.test/ /mine/;
            proxy_redirect ~^http://regex\.test/(\w+) http://$host/$1;
            proxy_redirect ~*MIDDLE /m;
            proxy_redirect $http_x_from /variable/;
        }
        location /redirect/off { proxy_pass http://peers/r/; proxy_redirect off; }
        location /redirect/none { proxy_pass http://peers; }
"""


def _configuration(front: int, peer: int, dead: int) -> str:
    return f"""
events {{ }}
http {{
    default_type application/octet-stream;
    log_format tries "$uri|$upstream_addr|$upstream_status|$upstream_http_x_seen|$status";
    access_log logs/tries.log tries;
    upstream peers {{ server 127.0.0.1:{peer}; }}
    upstream again {{ server 127.0.0.1:{dead} max_fails=0; server 127.0.0.1:{peer} backup; }}
    upstream dead {{ server 127.0.0.1:{dead}; }}
    proxy_next_upstream off;
    server {{
        listen 127.0.0.1:{front};
        server_name localhost;
{LOCATIONS}
    }}
}}
"""


def _respond(seen: Seen, connection: socket.socket) -> bytes | None:
    """Answers with the status and the fields that the target's arguments name."""
    args = parse_qsl(seen.target.decode().partition("?")[2], keep_blank_values=True)
    status = next((value for name, value in args if name == "status"), "200 OK")
    fields = [f"{name}: {value}" for name, value in args if "-" in name or name[0].isupper()]
    content = b"from the peer"
    answer = response(content, *fields, status=status if " " in status else f"{status} Peculiar")
    if status.startswith(("204", "304")) or seen.head.startswith(b"HEAD"):
        return answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    return answer


def _target(path: str, status: str = "", *fields: str) -> str:
    pairs = [("status", status)] if status else []
    pairs += [tuple(field.split(": ", 1)) for field in fields]  # type: ignore[misc]  # a field line has both
    return path + ("?" + "&".join(f"{quote(a)}={quote(b)}" for a, b in pairs) if pairs else "")


def _asked(path: str, status: str = "", *fields: str) -> bytes:
    return get(_target(path, status, *fields))


_MANY = (
    "Set-Cookie: a=1",
    "Set-Cookie: b=2; Path=/",
    "Content-Type: text/x-kept; charset=koi8-r",
    "Content-Disposition: attachment",
    "Cache-Control: private",
    "Expires: Thu, 01 Jan 2026 00:00:00 GMT",
    "Accept-Ranges: bytes",
    "ETag: x",
    "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT",
    "X-Seen: first",
    "Vary: Accept",
    "Link: <x>",
    "Location: http://x/",
    "Content-Encoding: br",
)

REQUESTS = {
    **{
        f"{path} {status}": _asked(path, status, "X-Seen: 1")
        for path, status in [
            ("/none", "404"),
            ("/off", "404"),
            ("/on", "404"),
            ("/on", "301"),
            ("/on", "500"),
            ("/on", "403"),
            ("/on", "200"),
            ("/on/peer", "404"),
            ("/on/peer", "500"),
            ("/on/peer", "503"),
            ("/on/named", "404"),
            ("/on/named", "500"),
            ("/on/named", "410"),
            ("/on/named", "418"),
            ("/on/same", "404"),
            ("/on/200", "404"),
            ("/on/203", "404"),
            ("/on/empty", "404"),
            ("/on/variable", "404"),
            ("/on/variable", "500"),
            ("/on/variable", "410"),
            ("/on/variable", "418"),
            ("/on/url", "404"),
            ("/on/url/301", "404"),
            ("/on/url/301", "500"),
            ("/on/url/301", "503"),
            ("/on/again", "404"),
            ("/on/recursive", "404"),
            ("/on/recursive", "500"),
        ]
    },
    "intercepted 401": _asked("/on", "401", 'WWW-Authenticate: Basic realm="x"', "X-Seen: 1", "Set-Cookie: a=b"),
    "intercepted HEAD": _asked("/on", "404").replace(b"GET", b"HEAD", 1),
    "intercepted HEAD to a peer": _asked("/on/peer", "404").replace(b"GET", b"HEAD", 1),
    "intercepted POST": post(b"content", _target("/on", "404")),
    "intercepted POST to a peer": post(b"content", _target("/on/peer", "404")),
    "intercepted POST to a named peer": post(b"content", _target("/on/named", "500")),
    "intercepted HTTP/1.0": get(_target("/on/peer", "404"), version="1.0"),
    **{
        path: get(path)
        for path in [
            "/first",
            "/third",
            "/third/same",
            "/third/ok",
            "/third/text",
            "/moved",
            "/moved/named",
            "/deny",
            "/deny/peer",
            "/dead",
            "/dead/named",
            "/dead/gone",
            "/inherit/a",
            "/inherit/b",
            "/inherit/c",
            "/cycle",
            "/twice",
            "/recursive",
            "/private/x",
            "/private/text",
        ]
    },
    "POST to a denied place": post(b"content", "/deny"),
    "POST to a denied place, to a peer": post(b"content", "/deny/peer"),
    "POST to a denied place, to a named peer": post(b"content", "/deny/post"),
    "POST to nobody": post(b"content", "/dead"),
    "POST to nobody, named": post(b"content", "/dead/named"),
    "too large": post(b"content", "/large"),
    "too large, to a peer": post(b"content", "/large/peer"),
    "too large, to a named peer": post(b"content", "/large/named"),
    "accel": _asked("/x", "", "X-Accel-Redirect: /private/x?y=z"),
    "accel, text": _asked("/x", "", "X-Accel-Redirect: /private/text"),
    "accel, fields": _asked("/x", "", "X-Accel-Redirect: /private/text", *_MANY),
    "accel, fields to a peer": _asked(
        "/x",
        "",
        "X-Accel-Redirect: /private/p?Content-Type=text/inner&Set-Cookie=c%3d3&Cache-Control=inner&X-Seen=second",
        *_MANY,
    ),
    "accel, fields to a peer, one without": _asked("/x", "", "X-Accel-Redirect: /private/p", *_MANY),
    "accel, fields to a 404": _asked("/x", "", "X-Accel-Redirect: /first", *_MANY),
    "accel, fields to @gone": _asked("/x", "", "X-Accel-Redirect: @gone", *_MANY),
    **{
        f"status, {path}": get(f"/status/{path}")
        for path in words(
            """same other own named dead to-peer address address/same argument text moved
            494/text 494/named"""
        )
    },
    "before, first": _asked("/before", "200"),
    "before, second": _asked("/before", "503", "X-Seen: 1"),
    "before, third": _asked("/before", "500", "X-Seen: 1"),
    "before, again": _asked("/before/again", "503"),
    "before, content": _asked("/before/content", "404"),
    "status, on": _asked("/status/on", "404"),
    "status, 494 of a peer": _asked("/none", "494"),
    "status, 494 of a peer, its fields changed": _asked("/cookie/all", "494", "Set-Cookie: a=b"),
    "accel, fields to a redirect": _asked("/x", "", "X-Accel-Redirect: /moved/there", *_MANY),
    "accel, status": _asked("/x", "404", "X-Accel-Redirect: /private/text"),
    "accel, its peer's status": _asked("/x", "404", "X-Accel-Redirect: /private/p?status=403"),
    "accel, intercepted first": _asked("/on", "404", "X-Accel-Redirect: /private/text"),
    "accel, named": _asked("/x", "", "X-Accel-Redirect: @named"),
    "accel, named peer": _asked("/x", "", "X-Accel-Redirect: @peer"),
    "accel, nosuch": _asked("/x", "", "X-Accel-Redirect: @nosuch"),
    "accel, POST": post(b"content", _target("/x", "", "X-Accel-Redirect: /private/p")),
    "accel, POST named": post(b"content", _target("/x", "", "X-Accel-Redirect: @named")),
    "accel, POST named peer": post(b"content", _target("/x", "", "X-Accel-Redirect: @named")),
    "accel, HEAD": _asked("/x", "", "X-Accel-Redirect: /private/p").replace(b"GET", b"HEAD", 1),
    "accel, escaped": _asked("/x", "", "X-Accel-Redirect: /private/a%20b%2Fc?d%20e"),
    "accel, a space": _asked("/x", "", "X-Accel-Redirect: /private/a b"),
    "accel, climbing": _asked("/x", "", "X-Accel-Redirect: /private/../x"),
    "accel, climbing escaped": _asked("/x", "", "X-Accel-Redirect: /private/%2e%2e/x"),
    "accel, no climbing": _asked("/x", "", "X-Accel-Redirect: /private/..x/a..b"),
    "accel, double slashes": _asked("/x", "", "X-Accel-Redirect: /private//x"),
    "accel, a NUL": _asked("/x", "", "X-Accel-Redirect: /private/%00"),
    "accel, an address": _asked("/x", "", "X-Accel-Redirect: http://elsewhere/"),
    "accel, empty": _asked("/x", "", "X-Accel-Redirect: "),
    "accel, only arguments": _asked("/x", "", "X-Accel-Redirect: ?x"),
    "accel, replaced URI": _asked("/x", "", "X-Accel-Redirect: /replaced/a%20b?c"),
    "accel, ignored": _asked("/ignore/redirect", "", "X-Accel-Redirect: /private/text"),
    "accel, charset": _asked("/x", "", "X-Accel-Charset: koi8-r", "Content-Type: text/html"),
    "accel, charset over another": _asked(
        "/x", "", "X-Accel-Charset: koi8-r", "Content-Type: text/html; charset=utf-8"
    ),
    "accel, charset over parameters": _asked(
        "/x", "", "X-Accel-Charset: koi8-r", "Content-Type: text/html; a=b; charset=utf-8"
    ),
    "accel, charset beside a parameter": _asked("/x", "", "X-Accel-Charset: koi8-r", "Content-Type: text/html; a=b"),
    "accel, charset without a type": _asked("/x", "", "X-Accel-Charset: koi8-r"),
    "accel, charset of a picture": _asked("/x", "", "X-Accel-Charset: koi8-r", "Content-Type: image/png"),
    "accel, charset of a redirect": _asked(
        "/x", "302", "X-Accel-Charset: koi8-r", "Content-Type: text/html", "Location: http://x/"
    ),
    "accel, charset ignored": _asked("/ignore/charset", "", "X-Accel-Charset: koi8-r", "Content-Type: text/html"),
    "accel, buffering": _asked("/x", "", "X-Accel-Buffering: no"),
    "accel, rate": _asked("/x", "", "X-Accel-Limit-Rate: 1000000"),
    "accel, no rate": _asked("/x", "", "X-Accel-Limit-Rate: much"),
    "accel, expires": _asked("/x", "", "X-Accel-Expires: 0"),
    "accel, a cycle": _asked("/x", "", "X-Accel-Redirect: /x?X-Accel-Redirect=/private/text"),
    "passed": _asked(
        "/pass/accel", "", "X-Accel-Redirect: /x", "X-Accel-Expires: 1", "X-Seen: y", "X-Accel-Charset: z"
    ),
    "hidden": _asked("/pass/none", "", "Set-Cookie: a", "Content-Type: text/plain", "X-Y: z", "X-Pad: x"),
    "hidden, but obeyed": _asked("/pass/none", "", "X-Accel-Redirect: /private/text", "Set-Cookie: a=b"),
    "Status": _asked("/x", "", "Status: 404", "X-A: b"),
    **{
        f"domain {one}": _asked("/cookie/domain", "", f"Set-Cookie: {one}")
        for one in [
            "a=b; domain=localhost",
            "a=b; Domain=.LOCALHOST",
            "a=b; domain=sub.localhost",
            "a=b; domain=dotted.test",
            "a=b; domain=.dotted.test; Path=/",
            "a=b; domain=x.word.test",
            "a=b; domain=",
            "a=b; domain",
            "domain=localhost",
            "a; domain=localhost",
            "a=b ;  domain = localhost ; x ",
            "a=b; domain=localhost; domain=localhost",
            "a=b;domain=localhost",
            "a=b; domain=localhost;",
            "a=b;; domain=other",
            "",
        ]
    },
    "domain by a variable": get(
        _target("/cookie/domain", "", "Set-Cookie: a=b; domain=v.test.org"), "X-Domain: V.test.org"
    ),
    "domain, two cookies": _asked(
        "/cookie/domain", "", "Set-Cookie: a=b; domain=localhost", "Set-Cookie: c=d; domain=x"
    ),
    **{
        f"path {one}": _asked("/cookie/path", "", f"Set-Cookie: {one}")
        for one in [
            "a=b; path=/one/",
            "a=b; Path=/one/two",
            "a=b; path=/ONE/",
            "a=b; path=/two/x/y",
            "a=b; path=/THREE/x",
            "a=b; path=/in/middle/of",
            "a=b; path=/other",
            "a=b; path",
            "a=b; path=",
        ]
    },
    "path by a variable": get(_target("/cookie/path", "", "Set-Cookie: a=b; path=/v/x"), "X-Path: /v"),
    **{
        f"flags {one}": _asked("/cookie/flags", "", f"Set-Cookie: {one}")
        for one in [
            "one=1",
            "ONE=1; Path=/",
            "one=1; secure; HTTPONLY; samesite=Strict",
            "one=1; samesite=lax; x=y",
            "one=1; SameSite",
            "one",
            "two=2; Secure; HttpOnly; SameSite=Lax; a=b",
            "two=2; Secure=x",
            "two=2",
            "three3=3; secure",
            "THREE=1",
            "four=4; samesite=None",
            "five=5",
            "six=6; a ; b",
            "seven=7 ; a",
            "one=1; samesite=lax; samesite=none",
        ]
    },
    "flags by a variable": get(_target("/cookie/flags", "", "Set-Cookie: five=5; a"), "X-Flag: SameSite=Lax"),
    "flags by an odd variable": get(_target("/cookie/flags", "", "Set-Cookie: five=5; a"), "X-Flag: odd"),
    "flags for a variable": get(_target("/cookie/flags", "", "Set-Cookie: vary=5; a"), "X-Name: Vary"),
    "cookies as they are": _asked("/cookie/off", "", "Set-Cookie: one=1 ;  path=/one/"),
    "cookies without any rule": _asked("/x", "", "Set-Cookie: one=1 ;  path=/one/"),
    "all of a cookie": _asked("/cookie/all", "", "Set-Cookie: x=y; path=/p; domain=A", "Set-Cookie: z"),
    "cookies of a redirect": _asked("/cookie/all", "", "Set-Cookie: x=y; path=/p", "X-Accel-Redirect: /private/text"),
    **{
        f"redirect {one}": _asked("/redirect/", "302", one)
        for one in [
            "Location: http://peers/r/x",
            "Location: http://peers/r",
            "Location: http://literal.test/x",
            "Location: /x",
            "Location: http://regex.test/word/rest",
            "Location: http://x/middle/y",
            "Location: http://X/Middle",
            "Location: ",
            "Refresh: 5; url=http://peers/r/x",
            "Refresh: 5; URL=http://literal.test/y",
            "Refresh: 5",
            "Refresh: 5;a=b",
            "Refresh: 5; url=http://regex.test/word",
            "Refresh: 5; x=y; url=http://peers/r/z",
        ]
    },
    "redirect by a variable": get(_target("/redirect/", "302", "Location: http://v.test/x"), "X-From: http://v.test/"),
    "redirect off": _asked("/redirect/off", "302", "Location: http://peers/r/x"),
    "redirect of another": _asked("/redirect/none", "302", "Location: http://peers/redirect/none"),
    "redirect with 200": _asked("/redirect/", "200", "Location: http://peers/r/x"),
    "redirect, default": _asked("/redirect/none", "302", "Location: http://peers/x"),
}


@pytest.fixture(scope="module")
def beside(nginx: tuple[str, ...], start_shared: StartBalancer) -> Iterator[Beside]:
    of_nginx, of_upwell, dead = free_ports(3)
    with Origin(_respond) as origin:
        start_shared(_configuration(of_nginx, origin.port, dead), [of_nginx], nginx)
        start_shared(_configuration(of_upwell, origin.port, dead), [of_upwell])
        yield Beside(of_nginx, of_upwell, origin)


@pytest.mark.parametrize("request_bytes", REQUESTS.values(), ids=REQUESTS.keys())
def test_as_nginx_does_it(beside: Beside, request_bytes: bytes) -> None:
    shown: list[str] = []
    compare(beside.nginx, beside.upwell, [request_bytes], beside.origin, shown.append)
    assert not shown, shown[0]


def test_the_comparison_can_fail(beside: Beside) -> None:
    assert outcome(beside.upwell, get("/first"), beside.origin) != outcome(beside.upwell, get("/third"), beside.origin)
