"""What the access log says of a request, held beside nginx: each variable of requests, answers and peers."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.conftest import StartBalancer
from tests.system.wire import TIMEOUT, Origin, Seen, chunked, get, post, response
from upwell.config.command import words
from upwell.contrib.processes import Balancer, await_condition, free_ports

VARIABLES = words("""
    ancient_browser arg_a arg_b args body_bytes_sent bytes_sent connection_requests content_length content_type
    cookie_a cookie_b document_uri host hostname http_connection http_cookie http_host http_link
    http_transfer_encoding http_user_agent http_via http_x_f http_x_forwarded_for http2 https is_args modern_browser
    msie is_request_port pipe proxy_add_x_forwarded_for proxy_host proxy_port query_string remote_addr remote_port
    remote_user request request_body request_completion request_length request_method request_port request_time
    request_uri scheme sent_http_cache_control sent_http_content_length sent_http_content_type sent_http_date
    sent_http_etag sent_http_expires sent_http_keep_alive sent_http_last_modified sent_http_link sent_http_location
    sent_http_server sent_http_set_cookie sent_http_transfer_encoding sent_http_x_a server_addr server_name
    server_port server_protocol status upstream_addr upstream_bytes_received upstream_bytes_sent
    upstream_connect_time upstream_cookie_a upstream_cookie_b upstream_header_time upstream_http_connection
    upstream_http_content_length upstream_http_content_type upstream_http_date upstream_http_etag
    upstream_http_server upstream_http_set_cookie upstream_http_transfer_encoding upstream_http_x_a
    upstream_response_length upstream_response_time upstream_status uri
""")
# Left out is $sent_http_connection: nginx logs "close" for a connection that it has just kept.


def _configuration(front: int, peer: int, dead: int) -> str:
    every = "~".join(f"{name}=<${name}>" for name in sorted(VARIABLES))
    return f"""
events {{ }}
http {{
    log_format every '{every}';
    log_format now '$msec $date_gmt $date_local $time_local $time_iso8601 $request_id $pid $connection'
                   ' $connection_time $tcpinfo_rtt $tcpinfo_rttvar $tcpinfo_snd_cwnd $tcpinfo_rcv_space';
    access_log logs/access.log every;
    upstream peers {{ server 127.0.0.1:{peer}; keepalive 4; }}
    upstream two {{ server 127.0.0.1:{dead} max_fails=0; server 127.0.0.1:{peer} backup; }}
    upstream dead {{ server 127.0.0.1:{dead} max_fails=0; server 127.0.0.1:{dead} max_fails=0; }}
    server {{
        listen 127.0.0.1:{front};
        server_name example.org other.org;
        location / {{ proxy_pass http://peers; proxy_http_version 1.1; proxy_set_header Connection ""; }}
        location /two {{ proxy_pass http://two; }}
        location /dead {{ proxy_pass http://dead; }}
        location /replaced/ {{ proxy_pass http://127.0.0.1:{peer}/x/; }}
        location /hide {{
            proxy_pass http://peers/fields; proxy_hide_header X-A; proxy_hide_header Set-Cookie;
            proxy_hide_header ETag; proxy_hide_header Content-Length;
        }}
        location /pass {{ proxy_pass http://peers/fields; proxy_pass_header Date; proxy_pass_header Server; }}
        location /cookies {{ proxy_pass http://peers/fields; proxy_cookie_path / /all/; }}
        location /again {{ proxy_pass http://peers/repeated; }}
        location /again/filtered {{ proxy_pass http://peers/repeated; proxy_cookie_path / /all/; }}
        location /empty {{ proxy_pass http://peers/empty; }}
        location /elsewhere {{ proxy_pass http://peers/elsewhere; }}
        location /here {{ internal; return 200 "here"; }}
        location /there {{ internal; proxy_pass http://peers/chunked; }}
        location /text {{ return 200 "text"; }}
        location /moved {{ return 301 /else; }}
        location /none {{ return 204; }}
        location /drop {{ return 444; }}
        location /timeout {{ keepalive_timeout 5 10; return 200 "x"; }}
        location /once {{ keepalive_timeout 0; return 200 "x"; }}
        location /small {{ client_max_body_size 5; proxy_pass http://peers; }}
        location /now {{ access_log logs/now.log now; return 200; }}
    }}
    server {{
        listen 127.0.0.1:{front};
        server_name second.org;
        return 200 "second";
    }}
}}
"""


def _respond(seen: Seen, connection: socket.socket) -> bytes | None:
    answer = _answer(seen)
    return answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if answer and seen.head.startswith(b"HEAD") else answer


def _answer(seen: Seen) -> bytes | None:
    path = seen.target.decode().partition("?")[0]
    if path == "/chunked":
        fields = b"Transfer-Encoding: chunked\r\nX-A: 1\r\nX-A: 2\r\n\r\n"
        return b"HTTP/1.1 200 OK\r\n" + fields + chunked([b"one", b"two"])
    if path == "/nothing":
        return None
    if path == "/fields":
        return response(
            b"fine",
            "Set-Cookie: a=1; Path=/",
            "Set-Cookie: b=2",
            "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT",
            'ETag: "x"',
            "Cache-Control: a",
            "Cache-Control: b",
            "Server: own",
            "Date: Thu, 01 Jan 2026 00:00:00 GMT",
            "Link: </a>",
            "Link: </b>",
            "Keep-Alive: timeout=5",
        )
    if path.startswith("/repeated"):
        return response(
            b"fine",
            "Content-Type: a/b",
            "Content-Type: c/d",
            "ETag: a",
            "ETag: b",
            "Expires: a",
            "Expires: b",
            "Last-Modified: a",
            "Last-Modified: b",
            "X-A: 1",
            "X-A: 2",
            "Set-Cookie: a=1; Path=/",
            "Set-Cookie: b=2; Path=/",
        )
    if path == "/empty":
        return b"HTTP/1.1 204 No Content\r\nContent-Type: a/b\r\nX-A: 1\r\n\r\n"
    if path == "/elsewhere":
        to = "/there" if seen.target.endswith(b"?there") else "/here"
        return response(b"", f"X-Accel-Redirect: {to}", "Set-Cookie: a=1", "Set-Cookie: b=2", "Content-Type: a/b")
    if path == "/redirect":
        return response(b"", "Location: http://127.0.0.1/there", status="302 Found")
    if path == "/not-modified":
        return b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n'
    if path == "/error":
        return response(b"error", status="500 Oops")
    return response(b"fine", "X-A: 1", "Content-Type: text/x")


def _raw(line: str, *fields: str) -> bytes:
    return "".join(f"{one}\r\n" for one in (line, *fields, "")).encode("latin-1")


def _in_chunks(path: str) -> bytes:
    head = _raw(f"POST {path} HTTP/1.1", "Host: test:99", "Transfer-Encoding: chunked")
    return head + chunked([b"abc", b"defg"])


REQUESTS = {
    "proxied": get(),
    "made here": get("/text?a=1&b=%41"),
    "empty arguments": get("/text?"),
    "a redirect": get("/moved"),
    "no content": get("/none"),
    "dropped": get("/drop"),
    "a time with the connection": get("/timeout"),
    "not kept": get("/once"),
    "chunks": get("/chunked"),
    "chunks for HTTP/1.0": get("/chunked", version="1.0"),
    "a peer that says nothing": get("/nothing"),
    "all fields of an answer": get("/fields", "Cookie: a=1; b=2"),
    "hidden fields": get("/hide"),
    "fields that are passed": get("/pass"),
    "changed cookies": get("/cookies"),
    "fields of one value twice": get("/again"),
    "fields of one value twice, filtered": get("/again/filtered"),
    "no content of a type": get("/empty"),
    "cookies of a redirect": get("/elsewhere"),
    "cookies of a redirect to a peer": get("/elsewhere?there"),
    "a peer's redirect": get("/redirect"),
    "not modified": get("/not-modified"),
    "an error": get("/error"),
    "two tries": get("/two"),
    "two tries in vain": get("/dead"),
    "a replaced path": get("/replaced/y"),
    "content": post(b"hello", "/p", "Content-Type: a/b"),
    "content in chunks": _in_chunks("/p"),
    "content that nobody reads": post(b"hello", "/text"),
    "chunks that nobody reads": _in_chunks("/text"),
    "no content announced": post(b"", "/p"),
    "too much content": post(b"hello, world", "/small"),
    "HEAD": get().replace(b"GET", b"HEAD", 1),
    "HEAD made here": get("/text").replace(b"GET", b"HEAD", 1),
    "forwarded": get("/text", "X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 2.2.2.2", "X-F: a", "X-F: b"),
    "a user": get("/text", "Authorization: Basic dXNlcjpwYXNz"),
    "a user without a colon": get("/text", "Authorization: Basic dXNlcg=="),
    "a user without padding": get("/text", "Authorization: Basic dXNlcjpwYXN"),
    "an empty user": get("/text", "Authorization: Basic OnA="),
    "no user": get("/text", "Authorization: Basic !!!"),
    "HTTP/1.0 without Host": b"GET /text HTTP/1.0\r\n\r\n",
    "HTTP/1.0 kept": get("/text", "Connection: keep-alive", version="1.0"),
    "HTTP/1.2": _raw("GET /text HTTP/1.2", "Host: a"),
    "a port": _raw("GET /text HTTP/1.1", "Host: TEST.Example.:8080"),
    "an empty port": _raw("GET /text HTTP/1.1", "Host: a.b:"),
    "an IPv6 address": _raw("GET /text HTTP/1.1", "Host: [::1]:8080"),
    "an absolute target": _raw("GET http://abs.example:81/text?x HTTP/1.1", "Host: test"),
    "closing": get("/text", "Connection: close"),
    "several of a field": get("/text", "Via: a", "Via: b", "Link: c", "Link: d"),
    "two cookie fields": get("/text", "Cookie: x=0; A=1", "Cookie: b=2"),
    "odd cookies": get("/text", "Cookie: a=1,b=2;  b=3 ; c"),
    "cookies with spaces": get("/text", "Cookie: aa=1; a =2; b= 3"),
    "arguments' letters": get("/text?A=1&B"),
    "arguments twice": get("/text?a=1&a=2;b=3"),
    "a method of its own": get("/text").replace(b"GET", b"M-SEARCH", 1),
    "MSIE": get("/text", "User-Agent: Mozilla/4.0 (compatible; MSIE 6.0)"),
    "hardly MSIE": get("/text", "User-Agent: MSIE 6."),
    "another server": _raw("GET / HTTP/1.1", "Host: second.org"),
    "bytes in a target": _raw('GET /text\xff"<> HTTP/1.1', "Host: a"),
    "nonsense": b"nonsense\r\n\r\n",
    "no Host": _raw("GET / HTTP/1.1"),
    "small letters": _raw("get /text HTTP/1.1", "Host: a"),
    "a coding of its own": _raw("POST /p HTTP/1.0", "Host: a", "Transfer-Encoding: chunked"),
    "half a line": b"GET / HT",
}
PIPELINES = {
    "three": [get("/text?1") + get("/text?2") + get("/text?3")],
    "ended by the second": [get("/text?1") + get("/text?2", "Connection: close") + get("/text?3")],
    "one after the other": [get("/text?1"), get("/text?2")],
}


@dataclass
class Sides:
    """nginx and upwell with the same configuration, and where each has come in its log."""

    nginx: Balancer
    upwell: Balancer

    def lines(self, side: Balancer, pieces: list[bytes], count: int) -> list[str]:
        """What `side` logs for what is sent on one connection, each piece after the answer to the one before."""
        port = side.ports[0]
        path = side.prefix / "logs" / "access.log"
        known = path.read_bytes().count(b"\n")
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as client:
            for number, piece in enumerate(pieces, 1):
                client.sendall(piece)
                if not piece.endswith(b"\n") and b"\r\n\r\n" not in piece:
                    client.shutdown(socket.SHUT_WR)
                wanted = known + (number if len(pieces) > 1 else count)
                await_condition(lambda: path.read_bytes().count(b"\n") >= wanted, f"{wanted} lines", TIMEOUT)  # noqa: B023 - called here and now
        return [_comparable(line, port) for line in path.read_text("latin-1").splitlines()[known:]]


def _comparable(line: str, port: int) -> str:
    line = line.replace(str(port), "PORT")
    line = re.sub(r"remote_port=<\d+", "remote_port=<PORT", line)
    line = re.sub(r"(?:nginx|upwell)/[0-9.]+", "SERVER", line)
    return re.sub(r"_time=<[^>]*", lambda match: re.sub(r"\d\.\d\d\d", "T", match[0]), line)


@pytest.fixture(scope="module")
def sides(nginx: tuple[str, ...], start_shared: StartBalancer) -> Iterator[Sides]:
    of_nginx, of_upwell, dead = free_ports(3)
    with Origin(_respond) as origin:
        yield Sides(
            start_shared(_configuration(of_nginx, origin.port, dead), [of_nginx], nginx),
            start_shared(_configuration(of_upwell, origin.port, dead), [of_upwell]),
        )


def _differences(expected: list[str], got: list[str]) -> list[tuple[str, str]]:
    assert len(expected) == len(got)
    return [
        pair
        for ours, theirs in zip(expected, got, strict=True)
        for pair in zip(ours.split("~"), theirs.split("~"), strict=True)
        if pair[0] != pair[1]
    ]


# What is known of a request that was refused in its middle: nginx knows less, or counts its bytes otherwise.
_OF_REFUSED = ("request_length=", "server_protocol=")


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_is_logged_as_nginx_does(sides: Sides, name: str) -> None:
    pieces = [REQUESTS[name]]
    found = _differences(sides.lines(sides.nginx, pieces, 1), sides.lines(sides.upwell, pieces, 1))
    assert [pair for pair in found if not (name == "half a line" and pair[0].startswith(_OF_REFUSED))] == []


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_is_logged_as_nginx_does(sides: Sides, name: str) -> None:
    pieces = PIPELINES[name]
    count = 3 if name == "three" else 2
    assert _differences(sides.lines(sides.nginx, pieces, count), sides.lines(sides.upwell, pieces, count)) == []


NOW = re.compile(
    r"\d{10}\.\d{3} \w{6,9}, \d\d-\w{3}-\d{4} \d\d:\d\d:\d\d (?:GMT|UTC) \w{6,9}, \d\d-\w{3}-\d{4} \d\d:\d\d:\d\d \S+"
    r" \d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4} \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d [0-9a-f]{32} \d+ \d+"
    r" \d+\.\d{3} [1-9]\d* [1-9]\d* [1-9]\d* [1-9]\d*"
)


def test_times_and_the_connections_numbers_have_nginxs_form(sides: Sides) -> None:
    for side in (sides.nginx, sides.upwell):
        path: Path = side.prefix / "logs" / "now.log"
        with socket.create_connection(("127.0.0.1", side.ports[0]), TIMEOUT) as client:
            client.sendall(get("/now"))
            await_condition(lambda: path.exists() and bool(path.read_bytes()), "a line", TIMEOUT)  # noqa: B023 - called here and now
        line = path.read_text("latin-1").rstrip("\n")
        assert NOW.fullmatch(line), line


def test_the_comparison_can_fail(sides: Sides) -> None:
    one, other = ([get(f"/text?a={value}")] for value in "12")
    found = _differences(sides.lines(sides.upwell, one, 1), sides.lines(sides.upwell, other, 1))
    assert ("arg_a=<1>", "arg_a=<2>") in found
