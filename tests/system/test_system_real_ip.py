"""`set_real_ip_from` and its like beside nginx: the same client is meant by the same fields."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.beside import NGINX, Beside, both_of, compare
from tests.system.conftest import StartBalancer
from tests.system.wire import Client, Seen, get, post, response
from upwell.contrib.processes import UPWELL, free_ports

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (make dev)")

CONFIGURATION = """
events {{}}
http {{
    access_log off;
    map $remote_port $port {{ default any; "" none; 81 81; 8 8; }}
    geo $place {{ default elsewhere; 192.0.2.0/24 there; 127.0.0.0/8 here; }}
    proxy_set_header X-Seen "$remote_addr|$port|$realip_remote_addr|$place|$proxy_add_x_forwarded_for";
    proxy_set_header X-Real-IP "";
    set_real_ip_from 127.0.0.1;
    set_real_ip_from 10.0.0.0/8;
    set_real_ip_from fd00::/8;
    server {{
        listen 127.0.0.1:{front};
        location / {{ proxy_pass http://127.0.0.1:{origin}; }}
        location /gone {{ error_page 404 /moved; return 404; }}
        location /moved {{ proxy_pass http://127.0.0.1:{origin}; }}
        location /denied {{ deny 192.0.2.1; proxy_pass http://127.0.0.1:{origin}; }}
        location /allowed {{ allow 192.0.2.1; deny all; proxy_pass http://127.0.0.1:{origin}; }}
        location /told {{ add_header X-Client "$remote_addr $realip_remote_addr"; return 200 "$remote_addr"; }}
    }}
    server {{
        listen 127.0.0.1:{front};
        server_name first;
        real_ip_header X-Forwarded-For;
        location / {{ proxy_pass http://127.0.0.1:{origin}; }}
        location /own {{ real_ip_header X-Own; proxy_pass http://127.0.0.1:{origin}; }}
    }}
    server {{
        listen 127.0.0.1:{front};
        server_name all;
        real_ip_header X-Forwarded-For;
        real_ip_recursive on;
        location / {{ proxy_pass http://127.0.0.1:{origin}; }}
    }}
    server {{
        listen 127.0.0.1:{front};
        server_name other;
        real_ip_header x-forwarded-for;
        real_ip_recursive on;
        location / {{ proxy_pass http://127.0.0.1:{origin}; }}
        location /own {{
            set_real_ip_from 127.0.0.2; real_ip_header X-Real-IP; proxy_pass http://127.0.0.1:{origin};
        }}
    }}
    server {{
        listen 127.0.0.1:{front};
        server_name distrusting;
        set_real_ip_from 127.0.0.2;
        set_real_ip_from unix:;
        location / {{ proxy_pass http://127.0.0.1:{origin}; }}
        location /trusting {{ set_real_ip_from 127.0.0.1; proxy_pass http://127.0.0.1:{origin}; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def beside(start_shared: StartBalancer) -> Iterator[Beside]:

    def respond(_: Seen, __: socket.socket) -> bytes:
        return response(b"yes")

    with both_of(CONFIGURATION, respond, start_shared) as found:
        yield found


def as_host(name: str, request: bytes) -> bytes:
    return request.replace(b"Host: test", b"Host: " + name.encode())


VALUES = (
    "192.0.2.1",
    "192.0.2.1:81",
    "192.0.2.1:0",
    "192.0.2.1:65536",
    "2001:db8::1",
    "2001:DB8:0:0::1",
    "[2001:db8::1]:81",
    "[2001:db8::1]",
    "::ffff:192.0.2.1",
    "300.1.1.1",
    "nonsense",
    "unix:",
    "",
    ",",
    "192.0.2.1,",
    "192.0.2.1, ,",
    "192.0.2.1, 10.1.1.1",
    "192.0.2.1,10.1.1.1",
    "192.0.2.1 10.1.1.1",
    "10.2.2.2, 10.1.1.1",
    "192.0.2.9, 192.0.2.1, 10.1.1.1, 10.1.1.2",
    "192.0.2.9, nonsense, 10.1.1.1",
    "192.0.2.9, nonsense",
    "192.0.2.1, fd00::1, 10.1.1.1:8",
)


def test_the_client_is_whom_nginx_takes(beside: Beside) -> None:
    requests = [get("/"), get("/moved"), get("/told", "X-Real-IP: 192.0.2.1")]
    for value in VALUES:
        requests += [get("/", f"X-Real-IP: {value}"), get("/gone", f"X-Real-IP: {value}")]
        for host in ("first", "all", "other"):
            requests.append(as_host(host, get("/", f"X-Forwarded-For: {value}")))
        requests.append(as_host("all", get("/", "X-Forwarded-For: 192.0.2.7, 10.9.9.9", f"X-Forwarded-For: {value}")))
        requests.append(as_host("other", get("/", f"X-Forwarded-For: {value}", "X-Forwarded-For: 192.0.2.7")))
    requests += [
        get("/", "X-Real-IP: 192.0.2.1", "X-Real-IP: 192.0.2.2"),
        get("/denied", "X-Real-IP: 192.0.2.1"),
        get("/denied", "X-Real-IP: 192.0.2.2"),
        get("/allowed", "X-Real-IP: 192.0.2.1"),
        get("/allowed", "X-Real-IP: 192.0.2.2"),
        as_host("first", get("/own", "X-Own: 192.0.2.1", "X-Forwarded-For: 192.0.2.2")),
        as_host("first", get("/own", "X-Own: 192.0.2.1")),
        as_host("other", get("/own", "X-Real-IP: 192.0.2.1")),
        as_host("distrusting", get("/", "X-Real-IP: 192.0.2.1")),
        as_host("distrusting", get("/trusting", "X-Real-IP: 192.0.2.1")),
        post(b"content", "/", "X-Real-IP: 192.0.2.1"),
    ]
    shown: list[str] = []
    assert compare(beside.nginx, beside.upwell, requests, beside.origin, shown.append) == [], "".join(shown)


def test_the_next_request_of_a_connection_has_its_own_client(beside: Beside) -> None:
    for port in (beside.nginx, beside.upwell):
        with Client(port) as client:
            bodies = [
                client.ask(get("/told", *fields)).body
                for fields in (("X-Real-IP: 192.0.2.1",), (), ("X-Real-IP: 192.0.2.2",))
            ]
        assert bodies == [b"192.0.2.1", b"127.0.0.1", b"192.0.2.2"]


def test_who_comes_by_a_unix_socket_may_be_believed(start: StartBalancer, tmp_path: Path) -> None:
    assert NGINX is not None
    answers = []
    for name, command in (("nginx", NGINX), ("upwell", UPWELL)):
        path = tmp_path / name
        (port,) = free_ports(1)
        start(
            f"""
events {{}}
http {{
    set_real_ip_from unix:;
    server {{
        listen 127.0.0.1:{port};
        listen unix:{path};
        location / {{ return 200 "$remote_addr|$remote_port|$realip_remote_addr|$realip_remote_port"; }}
        location /in {{ deny unix:; allow 192.0.2.1; deny all; proxy_pass http://127.0.0.1:{port}/told; }}
    }}
}}
""",
            [port],
            command,
        )
        told = []
        for request in (get("/"), get("/", "X-Real-IP: 192.0.2.1:80"), get("/in"), get("/in", "X-Real-IP: 192.0.2.1")):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(10)
                connection.connect(str(path))
                connection.sendall(request.replace(b"HTTP/1.1", b"HTTP/1.0"))
                answer = b""
                while piece := connection.recv(65536):
                    answer += piece
            status, _, body = answer.partition(b"\r\n\r\n")
            told.append((status[:12], body.split(b"|")[0] if b"<html>" not in body else b""))
        answers.append(told)
    assert answers[1] == answers[0]
    assert answers[1][1] == (b"HTTP/1.1 200", b"192.0.2.1")
