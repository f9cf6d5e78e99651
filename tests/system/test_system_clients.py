"""The client's side held beside nginx: limits of heads to the byte, keep-alive, odd requests, ends of connections."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

import h11
import pytest

from tests.system.beside import outcome
from tests.system.conftest import StartBalancer
from tests.system.wire import TIMEOUT, Client, Origin, get, post, response
from upwell.contrib.processes import UPWELL, Balancer, await_condition, free_ports


def _configuration(ports: list[int], peer: int) -> str:
    plain, small, odd, reset, slow = ports
    return f"""
worker_processes 1;
error_log logs/error.log info;
events {{ }}
http {{
    default_type text/plain;
    upstream peers {{ server 127.0.0.1:{peer}; }}
    server {{
        listen 127.0.0.1:{plain};
        server_name localhost;
        location / {{ proxy_pass http://peers; }}
        location /text {{ return 200 "text"; }}
        location /after {{ return 200 "after"; }}
        location /none {{ keepalive_disable none; return 200 "text"; }}
        location /safari {{ keepalive_disable safari; return 200 "text"; }}
        location /both {{ keepalive_disable msie6 safari; return 200 "text"; }}
        location /header {{ keepalive_timeout 5 10; return 200 "text"; }}
        location /header-zero {{ keepalive_timeout 5 0; return 200 "text"; }}
        location /unkept {{ keepalive_timeout 0; return 200 "text"; }}
        location /one {{ keepalive_requests 1; return 200 "text"; }}
        location /least {{ keepalive_min_timeout 5; keepalive_timeout 1; return 200 "text"; }}
        location /small {{ client_max_body_size 3; proxy_pass http://peers; }}
        location /drop {{ return 444; }}
        location /tokens/off {{ server_tokens off; return 404; }}
        location /tokens/on {{ server_tokens on; return 404; }}
        location /tokens/build {{ server_tokens build; return 404; }}
    }}
    server {{
        listen 127.0.0.1:{small};
        server_name localhost;
        client_header_buffer_size 200;
        large_client_header_buffers 2 600;
        max_headers 20;
        return 200 "small";
    }}
    server {{
        listen 127.0.0.1:{odd};
        server_name localhost;
        underscores_in_headers on;
        merge_slashes off;
        location / {{ proxy_pass http://peers; }}
    }}
    server {{
        listen 127.0.0.1:{reset};
        server_name localhost;
        reset_timedout_connection on;
        client_header_timeout 300ms;
        client_body_timeout 300ms;
        send_timeout 300ms;
        keepalive_timeout 300ms;
        location / {{ proxy_pass http://peers; }}
        location /text {{ return 200 "text"; }}
        location /drop {{ return 444; }}
    }}
    server {{
        listen 127.0.0.1:{slow};
        server_name localhost;
        client_header_timeout 300ms;
        client_body_timeout 300ms;
        send_timeout 300ms;
        keepalive_timeout 300ms;
        location / {{ proxy_pass http://peers; }}
        location /text {{ return 200 "text"; }}
        location /drop {{ return 444; }}
    }}
}}
"""


@dataclass
class Side:
    """One balancer and its ports, named as the servers of `_configuration`."""

    balancer: Balancer
    plain: int
    small: int
    odd: int
    reset: int
    slow: int


@dataclass
class Beside:
    nginx: Side
    upwell: Side
    origin: Origin

    def same(self, server: str, request: bytes) -> None:
        """Fail where the two servers of that name differ."""
        method = None if request[:1].isalpha() else "GET"
        expected, got = (
            outcome(getattr(side, server), request, self.origin, method) for side in (self.nginx, self.upwell)
        )
        assert got == expected

    def statuses(self, server: str, request: bytes) -> tuple[int | str, int | str]:
        """nginx's status and upwell's."""
        expected, got = (outcome(getattr(side, server), request, self.origin) for side in (self.nginx, self.upwell))
        return expected.status, got.status


def _side(start: StartBalancer, command: tuple[str, ...], ports: list[int], peer: int) -> Side:
    return Side(start(_configuration(ports, peer), ports, command), *ports)


@pytest.fixture(scope="module")
def beside(nginx: tuple[str, ...], start_shared: StartBalancer) -> Iterator[Beside]:
    ports = free_ports(10)
    with Origin(lambda seen, _: response(bytes(12_000_000) if seen.target == b"/large" else b"fine")) as origin:
        yield Beside(
            _side(start_shared, nginx, ports[:5], origin.port),
            _side(start_shared, UPWELL, ports[5:], origin.port),
            origin,
        )


def _raw(line: str, *fields: str) -> bytes:
    return "".join(f"{one}\r\n" for one in (line, *fields, "")).encode("latin-1")


# Limits of heads: 200 bytes, then two times 600


def _line(size: int) -> bytes:
    """A head whose request line has `size` bytes with its end."""
    return b"GET /" + b"x" * (size - 16) + b" HTTP/1.1\r\nHost: x\r\n\r\n"


def _fields(*sizes: int, line: int = 16) -> bytes:
    """A head whose field lines have these sizes; the first is Host."""
    lines = [b"GET /" + b"x" * (line - 16) + b" HTTP/1.1\r\n", b"Host: x\r\n"]
    return b"".join([*lines, *(b"A: " + b"x" * (size - 5) + b"\r\n" for size in sizes), b"\r\n"])


LIMITS = {
    **{f"a line of {size}": _line(size) for size in (199, 200, 201, 599, 600, 601, 700)},
    **{f"a field of {size}": _fields(size) for size in (170, 175, 176, 599, 600, 601, 700)},
    # what is left of the first buffer (175) is not used for what does not fit
    **{f"two fields, of 500 and {size}": _fields(500, size) for size in (98, 99, 100, 101, 598, 599, 600)},
    **{f"three fields, of 500, 500 and {size}": _fields(500, 500, size) for size in (97, 98, 99, 100, 101)},
    **{f"a whole that ends {size} before the edge": _fields(175, 600, 600 - 2 - size) for size in (-3, -2, -1, 0, 1)},
    **{f"a long line and a field of {size}": _fields(size, line=590) for size in (590, 598, 599, 600)},
    **{f"{count} fields": _fields(*[7] * (count - 1)) for count in (19, 20, 21)},
    "fields that do not count": _raw("GET / HTTP/1.1", "Host: x", *["A_b: 1"] * 25, *["A: 1"] * 19),
}


@pytest.mark.parametrize("name", LIMITS)
def test_the_limits_of_a_head_are_nginxs_to_the_byte(beside: Beside, name: str) -> None:
    beside.same("small", LIMITS[name])


def test_the_limits_are_met_from_both_sides(beside: Beside) -> None:
    found = {beside.statuses("small", request)[1] for request in LIMITS.values()}
    assert found == {200, 400, 414}


DEFAULT_LIMITS = {
    **{f"a line of {size}": _line(size) for size in (8191, 8192, 8193)},
    **{f"a field of {size}": _fields(size) for size in (8191, 8192, 8193)},
    **{f"four large fields and one of {size}": _fields(*[8190] * 4, size) for size in (5, 900, 1100)},
    **{f"{count} fields": _fields(*[5] * (count - 1)) for count in (999, 1000, 1001)},
}


@pytest.mark.parametrize("name", DEFAULT_LIMITS)
def test_so_are_they_where_nothing_is_configured(beside: Beside, name: str) -> None:
    request = DEFAULT_LIMITS[name].replace(b"GET /", b"GET /text", 1)
    if name.startswith("a line"):
        request = request.replace(b"xxxxx", b"x", 1)
    beside.same("plain", request)


# Keep-alive

MSIE6 = "User-Agent: Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1)"
SAFARI = "User-Agent: Mozilla/5.0 (Macintosh; U; PPC Mac OS X; en) AppleWebKit/125.2 (KHTML, like Gecko) Safari/125.8"
AGENTS = {
    "MSIE 6": MSIE6,
    "MSIE 6 SP2": MSIE6.replace("5.1", "5.1; SV1"),
    "MSIE 5": MSIE6.replace("6.0", "5.5"),
    "MSIE 7": MSIE6.replace("6.0", "7.0"),
    "Opera": MSIE6 + " Opera 7",
    "Safari": SAFARI,
    "Chrome": SAFARI + " Chrome/90",
    "Safari elsewhere": SAFARI.replace("Mac OS X", "Windows"),
    "nobody": "X: y",
}
KEPT = {
    **{
        f"{method} to /{place or 'text'} by {name}": request
        for place in ("text", "none", "safari", "both")
        for name, agent in AGENTS.items()
        for method, request in (("GET", get(f"/{place}", agent)), ("POST", post(b"x", f"/{place}", agent)))
    },
    "a header": get("/header"),
    "a header of zero": get("/header-zero"),
    "no time": get("/unkept"),
    "one request": get("/one"),
    "a least time": get("/least"),
    "a header for HTTP/1.0": get("/header", version="1.0"),
    "a header for HTTP/1.0 that asks": get("/header", "Connection: keep-alive", version="1.0"),
    "a header with close": get("/header", "Connection: close"),
    "keep-alive in capitals": get("/text", "Connection: Keep-Alive", version="1.0"),
    "close in capitals": get("/text", "Connection: CLOSE"),
    "close among others": get("/text", "Connection: x, close, y"),
    "close and keep-alive": get("/text", "Connection: keep-alive, close"),
    "too large content": post(b"hello", "/small"),
}


@pytest.mark.parametrize("name", KEPT)
def test_connections_are_kept_as_nginx_keeps_them(beside: Beside, name: str) -> None:
    beside.same("plain", KEPT[name])


# Odd requests

ODD = {
    "a Host with a port": _raw("GET / HTTP/1.1", "Host: a:80"),
    "a Host with an empty port": _raw("GET / HTTP/1.1", "Host: a:"),
    "a Host with a bad port": _raw("GET / HTTP/1.1", "Host: a:b"),
    "a Host with a large port": _raw("GET / HTTP/1.1", "Host: a:99999"),
    "an empty Host": _raw("GET / HTTP/1.1", "Host:"),
    "two Hosts": _raw("GET / HTTP/1.1", "Host: a", "Host: a"),
    "a Host with a slash": _raw("GET / HTTP/1.1", "Host: a/b"),
    "a Host with a user": _raw("GET / HTTP/1.1", "Host: a@b"),
    "a Host with a space": _raw("GET / HTTP/1.1", "Host: a b"),
    "a Host with two dots": _raw("GET / HTTP/1.1", "Host: a..b"),
    "a Host of one dot": _raw("GET / HTTP/1.1", "Host: ."),
    "a Host with a last dot": _raw("GET / HTTP/1.1", "Host: a."),
    "a Host with an underscore": _raw("GET / HTTP/1.1", "Host: a_b"),
    "an IPv6 Host": _raw("GET / HTTP/1.1", "Host: [::1]:80"),
    "an absolute target": _raw("GET http://a/text HTTP/1.1", "Host: b"),
    "an absolute target in capitals": _raw("GET HTTP://A/text HTTP/1.1", "Host: b"),
    "an absolute target with a port": _raw("GET http://a:81/text HTTP/1.1", "Host: b"),
    "an absolute target without a path": _raw("GET http://a HTTP/1.1", "Host: b"),
    "an absolute target with a query alone": _raw("GET http://a?x HTTP/1.1", "Host: b"),
    "an absolute target without a host": _raw("GET http:///text HTTP/1.1", "Host: b"),
    "an absolute target with a user": _raw("GET http://u@a/text HTTP/1.1", "Host: b"),
    "an absolute target without Host": _raw("GET http://a/text HTTP/1.1"),
    "an absolute target in HTTP/1.0": _raw("GET http://a/text HTTP/1.0"),
    "an asterisk": _raw("OPTIONS * HTTP/1.1", "Host: a"),
    "HTTP/0.9 with a version": _raw("GET /text HTTP/0.9", "Host: a"),
    "HTTP/1.2": _raw("GET /text HTTP/1.2", "Host: a"),
    "HTTP/2.0": _raw("GET /text HTTP/2.0", "Host: a"),
    "another protocol": _raw("GET /text HTTPS/1.1", "Host: a"),
    "a method in small letters": _raw("get /text HTTP/1.1", "Host: a"),
    "a method with a digit": _raw("GET1 /text HTTP/1.1", "Host: a"),
    "a method with a dash": _raw("M-SEARCH /text HTTP/1.1", "Host: a"),
    "a long method": b"A" * 70 + _raw(" /text HTTP/1.1", "Host: a"),
    "no method": _raw(" /text HTTP/1.1", "Host: a"),
    "a space in a target": _raw("GET /te xt HTTP/1.1", "Host: a"),
    "a fragment": get("/text#y"),
    "a space before a colon": _raw("GET /text HTTP/1.1", "Host: a", "X : y"),
    "no name": _raw("GET /text HTTP/1.1", "Host: a", ": y"),
    "a NUL": _raw("GET /text HTTP/1.1", "Host: a", "X: y\0z"),
    "empty lines first": b"\r\n\r\n" + get("/text"),
    **{
        f"two of {name}": get("/text", f"{name}: a", f"{name}: a")
        for name in (
            *("Authorization", "Proxy-Authorization", "Expect", "If-Match", "If-None-Match", "If-Modified-Since"),
            *("If-Unmodified-Since", "If-Range", "Range", "Referer", "User-Agent", "Content-Type", "Upgrade", "Via"),
            *("TE", "Accept", "Cookie", "Depth", "Date", "Keep-Alive", "X-Forwarded-For"),
        )
    },
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_request_gets_nginxs_status_and_end(beside: Beside, name: str) -> None:
    beside.same("plain", ODD[name])


STRICTER = {
    # RFC 9112: 3, 2.2, 5, 5.2; two Connection fields are one list
    "two spaces before the target": _raw("GET  /text HTTP/1.1", "Host: a"),
    "two spaces behind the target": _raw("GET /text  HTTP/1.1", "Host: a"),
    "a space behind the version": _raw("GET /text HTTP/1.1 ", "Host: a"),
    "a version of two digits": _raw("GET /text HTTP/1.10", "Host: a"),
    "line feeds alone": b"GET /text HTTP/1.1\nHost: a\n\n",
    "a line without a colon": _raw("GET /text HTTP/1.1", "Host: a", "nothing"),
    "another scheme": _raw("GET ftp://a/text HTTP/1.1", "Host: a"),
}


@pytest.mark.parametrize("name", STRICTER)
def test_stricter_what_can_be_read_in_two_ways_is_refused(beside: Beside, name: str) -> None:
    assert beside.statuses("plain", STRICTER[name]) == (200, 400)


def test_stricter_http_0_9_is_refused(beside: Beside) -> None:
    for port, begins in ((beside.nginx.plain, b"text"), (beside.upwell.plain, b"HTTP/1.1 400 ")):
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as client:
            client.sendall(b"GET /text\r\n")
            assert client.recv(1000).startswith(begins)


@pytest.mark.parametrize(
    "start",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"get /",
        b"GET /\0",
        b"GET / HTTX",
        b"SSH-2.0-x",
        b"PRI * HTTP/2.0\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5 80\r\n",
        b"\r\n\r\n\0\r\nQUIT\n",
    ],
)
def test_what_is_no_http_is_answered_at_its_first_wrong_byte(beside: Beside, start: bytes) -> None:
    for side in (beside.nginx, beside.upwell):
        with socket.create_connection(("127.0.0.1", side.plain), TIMEOUT) as client:
            client.sendall(start)
            assert client.recv(1000).startswith(b"HTTP/1.1 400 ")


FIELDS = {
    "an underscore": get("/", "A_b: 1"),
    "an odd name": get("/", "A.b: 1", "C!d: 2"),
    "slashes": get("/a//b///c"),
}


@pytest.mark.parametrize("server", ["plain", "odd"])
@pytest.mark.parametrize("name", FIELDS)
def test_names_and_slashes_pass_as_they_are_told_to(beside: Beside, name: str, server: str) -> None:
    beside.same(server, FIELDS[name])


# Pipelines


PIPELINES = {
    "three": [get("/text?1"), get("/?2"), get("/text?3")],
    "content between": [post(b"hello", "/"), get("/text"), post(b"x", "/text"), get("/")],
    "an end in the middle": [get("/text"), get("/text", "Connection: close"), get("/text")],
    "a mistake in the middle": [get("/text"), b"nonsense\r\n\r\n", get("/text")],
    "HTTP/1.0 in the middle": [get("/text"), get("/text", version="1.0"), get("/text")],
    "too much in the middle": [get("/text"), post(b"hello", "/small"), get("/text")],
}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_is_answered_as_nginx_answers_it(beside: Beside, name: str) -> None:
    seen = []
    for side in (beside.nginx, beside.upwell):
        with Client(side.plain) as client:
            client.send(b"".join(PIPELINES[name]))
            answers: list[object] = []
            for request in PIPELINES[name]:
                try:
                    answer = client.answer(request.split(b" ")[0].decode() if request[:1].isupper() else "GET")
                except (ConnectionError, h11.RemoteProtocolError):
                    answers.append("closed")
                    break
                answers.append(
                    (answer.status, answer.field("Connection"), answer.body if answer.status == 200 else b"")
                )
            seen.append(answers)
    assert seen[0] == seen[1]


# server_tokens


@pytest.mark.parametrize(("value", "pattern"), [("off", "upwell"), ("on", "upwell/"), ("build", "upwell/")])
def test_server_tokens_say_no_more_than_they_may(beside: Beside, value: str, pattern: str) -> None:
    with Client(beside.upwell.plain) as client:
        answer = client.ask(get(f"/tokens/{value}"))
    server = answer.field("Server") or ""
    assert server == pattern if value == "off" else server.startswith(pattern)
    assert f"<center>{server}</center>".encode() in answer.body


# Ends by time, and by 444


def _end(port: int, sent: bytes, read: bool = True) -> str:
    """How a connection ends that sent this and no more: "fin" or "reset"."""
    with socket.socket() as client:
        client.settimeout(TIMEOUT)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # or the kernel takes megabytes for who does not
        client.connect(("127.0.0.1", port))
        client.sendall(sent)
        if not read:
            # What the kernel takes begins the time anew, here as in nginx (its send_timeout is between two writes). A
            # client that reads nothing gets some 3 MB of buffers at both ends, which an origin without processor time
            # fills in trickles: nginx was seen to take more than ten seconds.
            await_condition(lambda: _is_over(client), "the end", 6 * TIMEOUT)
        try:
            while client.recv(1 << 20):
                pass
        except ConnectionResetError:
            return "reset"
        return "fin"


def _is_over(client: socket.socket) -> bool:
    """Whether the kernel knows of the connection's end: tcp_info's state is neither ESTABLISHED nor SYN_SENT."""
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != 1


ENDS = {
    "half a head": (b"GET / HT", True),
    "half a field": (b"GET / HTTP/1.1\r\nHost: x\r\nX", True),
    "half a content": (post(b"", "/").replace(b"Length: 0", b"Length: 5") + b"he", True),
    "nothing": (b"", True),
    "rest": (get("/text"), True),
    "dropped": (get("/drop"), True),
    "not read": (get("/large"), False),
}
RESET = {"half a head", "half a field", "half a content", "dropped", "not read"}


@pytest.mark.parametrize("name", ENDS)
def test_what_takes_too_long_is_reset_where_that_is_asked_for(beside: Beside, name: str) -> None:
    for side in (beside.nginx, beside.upwell):
        assert _end(side.reset, *ENDS[name]) == ("reset" if name in RESET else "fin"), side.balancer.command


@pytest.mark.parametrize("name", [name for name in ENDS if name != "not read"])
def test_and_closed_in_order_elsewhere(beside: Beside, name: str) -> None:
    for side in (beside.nginx, beside.upwell):
        assert _end(side.slow, *ENDS[name]) == "fin", side.balancer.command
