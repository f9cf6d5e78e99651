"""proxy_pass by value, what goes to the peer and how much of it: upwell beside nginx, and where it is stricter."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.system.beside import Beside, both, compare, outcome
from tests.system.conftest import StartBalancer
from tests.system.wire import Seen, chunked, get, post, response

LOCATIONS = """
        location / { proxy_pass http://peers; }
        location /value/ { proxy_pass http://$arg_h; proxy_set_header X-V "$proxy_host|$proxy_port"; }
        location /value/host/ { proxy_pass http://$arg_h; proxy_set_header Host $proxy_host; }
        location /uri/ { proxy_pass http://$arg_h$uri; }
        location /request/ { proxy_pass http://$arg_h$request_uri; }
        location ~ ^/re/(.*)$ { proxy_pass http://peers/$1; }
        location /raw { proxy_pass $arg_u; }
        location /pairs/ { proxy_pass http://peers$uri; proxy_redirect http://in/ /out/; }
        location /inherits {
            proxy_set_header X-A a;
            location /inherits/not { proxy_pass http://peers; proxy_set_header X-B b; }
            location /inherits/all { proxy_pass http://peers; }
        }
        location /hop { proxy_pass http://peers; proxy_set_header Host ""; proxy_set_header TE trailers;
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Keep-Alive 5; }
        location /length { proxy_pass http://peers; proxy_set_header Content-Length $http_content_length; }
        location /length/none { proxy_pass http://peers; proxy_set_header Content-Length ""; }
        location /body/none { proxy_pass http://peers; proxy_pass_request_body off;
            proxy_set_header Content-Length ""; }
        location /body/set { proxy_pass http://peers; proxy_set_body "a=$arg_a&b"; }
        location /body/old { proxy_pass http://peers; proxy_http_version 1.0; proxy_request_buffering off;
            proxy_set_header Connection close; }
        location /fields/none { proxy_pass http://peers; proxy_pass_request_headers off; }
        location /fields/set { proxy_pass http://peers; proxy_pass_request_headers off; proxy_set_header X-B $http_x; }
        location /method { proxy_pass http://peers; proxy_method $arg_m; }
        location /method/get { proxy_pass http://peers; proxy_method GET; }
        location /most/10 { proxy_pass http://peers; client_max_body_size 10; }
        location /most/any { proxy_pass http://peers; client_max_body_size 0; }
        location /most/unread { client_max_body_size 10; return 200 "unread"; }
"""


def _configuration(front: int, peer: int) -> str:
    return f"""
events {{ }}
http {{
    upstream peers {{ server 127.0.0.1:{peer}; }}
    server {{
        listen 127.0.0.1:{front};
        server_name localhost;
{LOCATIONS}
    }}
}}
"""


def _respond(seen: Seen, _: socket.socket) -> bytes | None:
    if seen.target.startswith(b"/pairs/"):
        return response(b"", f"Location: http://{seen.target[7:].decode()}/x", status="302 Found")
    return response(b"fine")


def _by_value(origin: str) -> dict[str, bytes]:
    return {
        "an address": get(f"/value/a%20b?h={origin}"),
        "a group": get("/value/?h=peers"),
        "a group in capitals": get("/value/?h=PEERS"),
        "a group with a port": get("/value/?h=peers:80"),
        "a name": get("/value/?h=nosuch"),
        "a name with a user": get(f"/value/?h=user@{origin}"),
        "nothing": get("/value/?h="),
        "port 0": get("/value/?h=127.0.0.1:0"),
        "a port beyond": get("/value/?h=127.0.0.1:99999"),
        "a port that is none": get("/value/?h=127.0.0.1:x"),
        "no host": get("/value/?h=:80"),
        "half an IPv6 address": get("/value/?h=[::1"),
        "a closed port": get("/value/?h=127.0.0.1:1"),
        "no socket": get("/value/?h=unix:/nowhere"),
        "no socket's path": get("/value/?h=unix:"),
        "a URI": get(f"/value/a?h={origin}/other?x=%20"),
        "a query": get(f"/value/a?h={origin}?x"),
        "a fragment": get(f"/value/a?h={origin}#x"),
        "its host": get(f"/value/host/?h={origin}"),
        "the decoded URI": get(f"/uri/a%2Fb/../c?h={origin}"),
        "the URI as sent": get(f"/request/a%20%2Fb/../c?h={origin}"),
        "a capture": get("/re/a/b?c=d"),
        "an empty capture": get("/re/"),
        "another scheme": get(f"/raw?u=ftp://{origin}"),
        "a scheme in capitals": get(f"/raw?u=HTTP://{origin}/x"),
        "no scheme": get(f"/raw?u={origin}"),
        "no URL": get("/raw"),
        "nothing but a scheme": get("/raw?u=http://"),
        "a redirect to itself": get("/pairs/peers"),
        "a redirect that is rewritten": get("/pairs/in"),
        "a directory without its slash": get("/value?h=peers"),
    }


WHAT_GOES = {
    "inherited fields": get("/inherits/all"),
    "fields that replace them": get("/inherits/not"),
    "fields of a hop": get("/hop", "Upgrade: x", "TE: gzip", "Keep-Alive: 1"),
    "no length, no content": get("/length"),
    "no content": post(b"hello", "/body/none"),
    "content of one's own": post(b"hello", "/body/set?a=1"),
    "content of one's own for none": get("/body/set"),
    "content of one's own for chunks": get("/body/set", "Transfer-Encoding: chunked") + chunked([b"hello"]),
    "chunks to HTTP/1.0": get("/body/old", "Transfer-Encoding: chunked") + chunked([b"hel", b"lo"]),
    "a length to HTTP/1.0": post(b"hello", "/body/old"),
    "no fields": post(b"hello", "/fields/none", "X: y", "Cookie: z"),
    "a field for none": get("/fields/set", "X: y"),
    "another method": get("/method?m=PURGE"),
    "another method with content": post(b"hello", "/method?m=put"),
    "HEAD as GET": get("/method/get").replace(b"GET", b"HEAD", 1),
    "not too much": post(b"0123456789", "/most/10"),
    "too much": post(b"0123456789a", "/most/10"),
    "not too much in chunks": get("/most/10", "Transfer-Encoding: chunked") + chunked([b"01234", b"56789"]),
    "too much in chunks": get("/most/10", "Transfer-Encoding: chunked") + chunked([b"01234", b"56789a"]),
    "too much that nobody reads": post(b"0123456789a", "/most/unread"),
    "too much by default": post(bytes((1 << 20) + 1), "/"),
    "not too much by default": post(bytes(1 << 20), "/"),
    "any amount": post(bytes(3 << 20), "/most/any"),
}


@pytest.fixture(scope="module")
def beside(nginx: tuple[str, ...], start_shared: StartBalancer) -> Iterator[Beside]:
    with both(_configuration, _respond, nginx, start_shared) as beside:
        yield beside


def _assert_alike(beside: Beside, request_bytes: bytes) -> None:
    shown: list[str] = []
    compare(beside.nginx, beside.upwell, [request_bytes], beside.origin, shown.append)
    assert not shown, shown[0]


@pytest.mark.parametrize("name", _by_value("").keys())
def test_a_value_leads_where_nginx_s_leads(beside: Beside, name: str) -> None:
    _assert_alike(beside, _by_value(f"127.0.0.1:{beside.origin.port}")[name])


@pytest.mark.parametrize("request_bytes", WHAT_GOES.values(), ids=WHAT_GOES.keys())
def test_what_goes_to_the_peer(beside: Beside, request_bytes: bytes) -> None:
    _assert_alike(beside, request_bytes)


def test_stricter_a_decoded_line_end_does_not_split_the_request(beside: Beside) -> None:
    request = get("/uri/a%0d%0aX-Evil:%20b?h=peers")
    assert b"\r\nX-Evil: b" in outcome(beside.nginx, request, beside.origin).origin_saw[0]
    assert outcome(beside.upwell, request, beside.origin).origin_saw == [
        b"GET /uri/a%0D%0AX-Evil:%20b HTTP/1.1\r\nHost: peers\r\n\r\n"
    ]


def test_stricter_content_is_never_sent_without_its_length(beside: Beside) -> None:
    # nginx's peer would read what follows the head as the next request.
    request = post(b"hello", "/length/none")
    assert b"Content-Length" not in outcome(beside.nginx, request, beside.origin).origin_saw[0]
    assert outcome(beside.upwell, request, beside.origin).origin_saw == [
        b"POST /length/none HTTP/1.1\r\nHost: peers\r\nContent-Length: 5\r\n\r\nhello"
    ]


def test_stricter_an_empty_method_is_the_client_s(beside: Beside) -> None:
    request = get("/method?m=")
    assert outcome(beside.nginx, request, beside.origin).origin_saw[0].startswith(b" /method")
    assert outcome(beside.upwell, request, beside.origin).origin_saw[0].startswith(b"GET /method")
