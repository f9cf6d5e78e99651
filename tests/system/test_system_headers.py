"""Field lines on both sides of the proxy, held beside nginx: what the app gets to see, what the client gets back."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.system.beside import Beside, both, compare, outcome
from tests.system.conftest import StartBalancer
from tests.system.wire import Seen, chunked, get, post, response

LOCATIONS = """
        location / { proxy_pass http://peers; }
        location /set/ {
            proxy_pass http://peers;
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Empty "";
            proxy_set_header Accept-Encoding "";
        }
        location /uri/ { proxy_pass http://peers/other/; }
        location /bare { proxy_pass http://peers/other; }
        location = /exact { proxy_pass http://peers; }
        location ^~ /prefix { return 200 "prefix"; }
        location ~ \\.php$ { return 200 "php"; }
        location ~* \\.JPE?G$ { return 200 "picture"; }
        location /nested/ { location /nested/in { return 200 "inner"; } return 200 "outer"; }
        location /return/text { return 200 "text"; }
        location /return/moved { return 301 /elsewhere?x=1; }
        location /return/temporary { return 302 http://example.org/; }
        location /return/gone { return 410; }
        location /return/none { return 204; }
        location /return/close { return 444; }
        location /denied { deny all; return 200 "never"; }
        location /allowed { allow 127.0.0.0/8; deny all; proxy_pass http://peers; }
"""


def _configuration(front: int, peer: int) -> str:
    return f"""
events {{ }}
http {{
    default_type application/octet-stream;
    upstream peers {{ server 127.0.0.1:{peer}; }}
    server {{
        listen 127.0.0.1:{front};
        server_name localhost;
{LOCATIONS}
    }}
}}
"""


def _respond(seen: Seen, connection: socket.socket) -> bytes | None:
    answer = _answer(seen, connection)
    return answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if answer and seen.head.startswith(b"HEAD") else answer


def _answer(seen: Seen, connection: socket.socket) -> bytes | None:
    path = seen.target.decode().partition("?")[0]
    fields = {
        "/redirect": "Location: http://127.0.0.1/there",
        "/own-server": "Server: own/1.0",
        "/own-date": "Date: Thu, 01 Jan 2026 00:00:00 GMT",
        "/hop": "Keep-Alive: timeout=5",
        "/accel": "X-Accel-Charset: utf-8",
        "/cookies": "Set-Cookie: a=1\r\nSet-Cookie: b=2",
        "/type": "Content-Type: text/html; charset=utf-8",
        "/cache": 'ETag: "abc"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nCache-Control: no-cache',
        "/ranges": "Accept-Ranges: bytes",
        "/upgrade": "Upgrade: h2c",
    }
    if path == "/chunked":
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked([b"one", b"two"])
    if path == "/close":
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil close")
        return None
    if path == "/status":
        return response(b"short and stout", status="418 I'm a teapot")
    if path == "/no-reason":
        return b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"
    if path == "/not-modified":
        return b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n'
    if path == "/unauthorized":
        return response(b"", 'WWW-Authenticate: Basic realm="x"', status="401 Unauthorized")
    return response(b"fine", *([fields[path]] if path in fields else []))


REQUESTS = {
    "minimal": get(),
    "a browser": get(
        "/page?query=1",
        "User-Agent: Mozilla/5.0",
        "Accept: text/html,*/*;q=0.8",
        "Accept-Language: en",
        "Accept-Encoding: gzip, br",
        "Referer: http://localhost/",
        "Cookie: a=1; b=2",
        "Upgrade-Insecure-Requests: 1",
        "Cache-Control: max-age=0",
    ),
    "HTTP/1.0": get(version="1.0"),
    "HTTP/1.0 without Host": b"GET / HTTP/1.0\r\n\r\n",
    "HTTP/1.0 kept": get("/", "Connection: keep-alive", version="1.0"),
    "Connection: close": get("/", "Connection: close"),
    "Keep-Alive": get("/", "Connection: keep-alive", "Keep-Alive: timeout=5"),
    "TE": get("/", "TE: trailers"),
    "Upgrade": get("/", "Connection: Upgrade", "Upgrade: websocket"),
    "Proxy-Connection": get("/", "Proxy-Connection: keep-alive"),
    "a field twice": get("/", "X-Twice: one", "X-Twice: two"),
    "an underscore in a name": get("/", "X_Under: dropped", "X-Dash: kept"),
    "an odd name": get("/", "X!#$%&'*+.^`|~: odd"),
    "spaces around a value": get("/", "X-Spaces:   around   "),
    "an empty value": get("/", "X-Empty:"),
    "UTF-8 in a value": get("/", "X-Text: \u00fcber"),
    "letters as sent": get("/", "x-lower: 1", "X-UPPER: 2", "x-MiXeD: 3"),
    "Expect": post(b"content", "/", "Expect: something"),
    "HEAD": get().replace(b"GET", b"HEAD", 1),
    "HEAD of chunks": get("/chunked").replace(b"GET", b"HEAD", 1),
    "OPTIONS": get().replace(b"GET", b"OPTIONS", 1),
    "a method of one's own": get().replace(b"GET", b"BREW", 1),
    "TRACE": get().replace(b"GET", b"TRACE", 1),
    "CONNECT": b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",
    "POST": post(b"content", "/", "Content-Type: text/plain"),
    "POST of nothing": post(b""),
    "POST without a length": b"POST / HTTP/1.1\r\nHost: test\r\n\r\n",
    "PUT in chunks": b"PUT / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked([b"one", b"two"]),
    "GET with content": get("/", "Content-Length: 5") + b"hello",
    "an absolute target": b"GET http://other.example/path?x HTTP/1.1\r\nHost: test\r\n\r\n",
    "a target to be normalised": get("/a/../b//c/./d"),
    "an escaped target": get("/%61%2Fb%20c?d=%20e"),
    "a target that leaves the root": get("/../etc"),
    "an asterisk": b"OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n",
    "Host with a port": b"GET / HTTP/1.1\r\nHost: test:8080\r\n\r\n",
    "Host in capitals": b"GET / HTTP/1.1\r\nHost: TEST.Example.\r\n\r\n",
    "set headers": get("/set/x", "Host2: x", "X-Forwarded-For: 10.0.0.1", "X-Empty: was", "Accept-Encoding: gzip"),
    "set headers, anew": get("/set/x"),
    "a replaced prefix": get("/uri/rest?x=1"),
    "a replaced prefix, escaped": get("/uri/a%20b/%2F/%C3%BC?x=%20"),
    "a replaced prefix without slash": get("/bare/rest"),
    "a directory without its slash": get("/uri"),
    "exact": get("/exact"),
    "not exact": get("/exact/"),
    "prefix before regex": get("/prefix/x.php"),
    "regex": get("/x.php"),
    "regex without case": get("/x.JpG"),
    "nested": get("/nested/inner"),
    "nest": get("/nested/other"),
    "return text": get("/return/text"),
    "return text to HEAD": get("/return/text").replace(b"GET", b"HEAD", 1),
    "return text to POST": post(b"content", "/return/text"),
    "return 301": get("/return/moved"),
    "return 302": get("/return/temporary"),
    "return 410": get("/return/gone"),
    "return 204": get("/return/none"),
    "return 444": get("/return/close"),
    "denied": get("/denied"),
    "allowed": get("/allowed"),
    "response: redirect": get("/redirect"),
    "response: its own Server": get("/own-server"),
    "response: its own Date": get("/own-date"),
    "response: hop by hop": get("/hop"),
    "response: X-Accel": get("/accel"),
    "response: two cookies": get("/cookies"),
    "response: a type": get("/type"),
    "response: validators": get("/cache"),
    "response: ranges": get("/ranges"),
    "response: chunked": get("/chunked"),
    "response: chunked to HTTP/1.0": get("/chunked", version="1.0"),
    "response: until close": get("/close"),
    "response: until close to HTTP/1.0": get("/close", version="1.0"),
    "response: a status of its own": get("/status"),
    "response: no reason": get("/no-reason"),
    "response: 304": get("/not-modified"),
    "response: 401": get("/unauthorized"),
    "a bad request": b"GET / HTTP/1.1\r\n\r\n",
    "a version of the future": b"GET / HTTP/2.0\r\nHost: test\r\n\r\n",
    "a target that is none": b"GET nonsense HTTP/1.1\r\nHost: test\r\n\r\n",
    "an escape that is none": get("/%zz"),
    "an escaped NUL": get("/%00"),
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


def test_stricter_fields_named_by_connection_go_no_further(beside: Beside) -> None:
    # RFC 9110, 7.6.1: an intermediary must remove them; nginx passes them on.
    request = get("/", "Connection: X-Hop", "X-Hop: 1")
    assert b"X-Hop: 1" in outcome(beside.nginx, request, beside.origin).origin_saw[0]
    assert b"X-Hop" not in outcome(beside.upwell, request, beside.origin).origin_saw[0]


def test_stricter_an_upgrade_that_nobody_asked_for_goes_no_further(beside: Beside) -> None:
    assert ("Upgrade", "h2c") in outcome(beside.nginx, get("/upgrade"), beside.origin).fields
    assert "Upgrade" not in dict(outcome(beside.upwell, get("/upgrade"), beside.origin).fields)


def test_the_comparison_can_fail(beside: Beside) -> None:
    one = outcome(beside.upwell, get("/page?a"), beside.origin)
    other = outcome(beside.upwell, get("/page?b"), beside.origin)
    assert one != other
    assert one.origin_saw != other.origin_saw
