"""Sessions that go where their variables say, in upwell and in nginx with the same configuration: `ssl_preread`,
`map`, `geo`, `split_clients`, `set`, and `proxy_pass` with variables."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.resolve.dns_server import DnsServer
from tests.system.beside import NGINX
from tests.system.conftest import StartBalancer
from tests.system.talkers import Talker
from upwell.contrib.processes import UPWELL, Balancer, await_condition, free_ports

NAMES = ("named", "small", "quick", "passed", "shown", "free")


def _hello(name: str | None, protocols: tuple[str, ...] = (), newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = newest
    if protocols:
        context.set_alpn_protocols(list(protocols))
    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


def _naming(word: bytes) -> Talker:
    """Says `word` and what it has heard, once that is a whole record or another message."""

    def talk(connection: socket.socket) -> None:
        heard = b""
        while data := connection.recv(65536):
            heard += data
            if heard[:1] != b"\x16" or len(heard) >= 5 + int.from_bytes(heard[3:5], "big"):
                connection.sendall(word + b" %d" % len(heard))
                return

    return Talker(talk)


def _configuration(ports: dict[str, int], a: int, b: int, dead: int) -> str:
    def server(name: str, rest: str) -> str:
        return f"server {{ listen 127.0.0.1:{ports[name]}; {rest} }}"

    return f"""
error_log logs/error.log info;
events {{ }}
stream {{
    log_format all '$server_port "$ssl_preread_server_name" "$ssl_preread_protocol" "$ssl_preread_alpn_protocols" '
                   '"$where" "$part" $status "$upstream_addr"';
    access_log logs/stream.log all;
    upstream GROUP {{ server 127.0.0.1:{a}; }}
    upstream dead {{ server 127.0.0.1:{dead}; }}
    map_hash_max_size 1024;
    map $ssl_preread_server_name $where {{
        hostnames;
        default group;
        .b.test 127.0.0.1:{b};
        noport.test 127.0.0.1;
        name.test nosuch:80;
        nohost.test "";
        dead.test dead;
        ~^(?<part>c+)\\.(re)gex$ $2$part:1;
    }}
    geo $place {{ default far; 127.0.0.0/8 near; }}
    split_clients $remote_addr $share {{ 100% all; }}
    {server("named", "ssl_preread on; proxy_pass $where;")}
    {server("small", "ssl_preread on; preread_buffer_size 300; proxy_pass $where;")}
    {server("quick", "ssl_preread on; preread_timeout 100ms; proxy_pass $where;")}
    {server("passed", f"set $x 127.0.0.1; proxy_pass $x:{b};")}
    {server("shown", 'set $x 1; set $y "$x$x"; return "$x $y $place $share $remote_addr";')}
    {server("free", 'return "[$x]";')}
}}
"""


@dataclass
class _Side:
    balancer: Balancer
    ports: dict[str, int]
    peers: dict[int, str]

    def ask(self, name: str, *parts: bytes, end: bool = False) -> bytes:
        """What a client hears to the end; each part is sent when the one before is where it should be."""
        with socket.create_connection(("127.0.0.1", self.ports[name]), 10) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for part in parts:
                client.sendall(part)
            if end:
                client.shutdown(socket.SHUT_WR)
            heard = b""
            try:
                while data := client.recv(1000):
                    heard += data
            except ConnectionResetError:
                pass
        return heard

    def log(self, lines: int) -> list[str]:
        path = Path(self.balancer.prefix, "logs/stream.log")
        free = str(self.ports["free"])  # who started it looked in there, too

        def there() -> list[str]:
            return [line for line in path.read_text().splitlines() if not line.startswith(free)]

        await_condition(lambda: path.exists() and len(there()) >= lines, "the log", 10)
        text = "\n".join(there())
        for name, port in self.ports.items():
            text = text.replace(f"{port} ", f"{name} ")
        for port, word in self.peers.items():
            text = text.replace(str(port), word)
        return sorted(text.splitlines())

    def errors(self) -> list[str]:
        text = Path(self.balancer.prefix, "logs/error.log").read_text()
        wanted = ("no port", "no host", "no resolver", "preread buffer")
        lines = [
            re.split(", client| while ", line)[0] for line in text.splitlines() if any(one in line for one in wanted)
        ]
        return sorted(line[line.rindex(" *") :].partition(" ")[2].partition(" ")[2] for line in lines)


@pytest.fixture
def sides(start: StartBalancer) -> Iterator[list[_Side]]:
    found = []
    with _naming(b"a") as a, _naming(b"b") as b:
        for command in (UPWELL, NGINX):
            if command is None:
                continue
            *given, dead = free_ports(len(NAMES) + 1)
            ports = dict(zip(NAMES, given, strict=True))
            balancer = start(_configuration(ports, a.port, b.port, dead), [ports["free"]], command)
            found.append(_Side(balancer, ports, {a.port: "A", b.port: "B", dead: "DEAD"}))
        yield found


def test_where_a_session_goes_is_what_its_variables_say(sides: list[_Side]) -> None:
    logs, errors = [], []
    for side in sides:
        a_test = _hello("a.test", ("h2", "http/1.1"))
        whole = b" %d" % len(a_test)
        assert side.ask("named", a_test) == b"a" + whole
        assert side.ask("named", a_test[:3], a_test[3:100], a_test[100:]) == b"a" + whole
        assert side.ask("named", _hello("x.b.test", newest=ssl.TLSVersion.TLSv1_2))[:2] == b"b "
        assert side.ask("named", _hello("B.Test"))[:2] == b"b "
        assert side.ask("named", _hello(None))[:2] == b"a "
        assert side.ask("named", b"GET / HTTP/1.0\r\n\r\n") == b"a 18"
        for refused in ("noport.test", "name.test", "nohost.test", "dead.test", "ccc.regex"):
            assert side.ask("named", _hello(refused)) == b""
        assert side.ask("named", a_test[:50], end=True) == b""
        assert side.ask("named", end=True) == b""
        assert side.ask("quick", a_test[:50]) == b""
        assert side.ask("small", a_test) == b""
        assert side.ask("small", b"hello") == b"a 5"
        assert side.ask("passed", b"hello") == b"b 5"
        assert side.ask("shown") == b"1 11 near all 127.0.0.1"
        assert side.ask("free") == b"[]"
        logs.append(side.log(18))
        errors.append(side.errors())
    assert len(logs[0]) == 18
    assert len(errors[0]) == 5
    for mine, theirs in zip(logs[0], logs[-1], strict=True):
        assert mine == theirs
    assert all(one == errors[0] for one in errors), errors


def test_names_are_looked_up_and_datagrams_wait_for_that(start: StartBalancer) -> None:
    front, datagrams = free_ports(2)
    with DnsServer() as dns, _naming(b"a") as peer, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        other.settimeout(10)
        dns.set("peer.example", "A", "127.0.0.1")
        balancer = start(
            f"""
error_log logs/error.log info;
events {{ }}
stream {{
    resolver 127.0.0.1:{dns.address[1]};
    map $ssl_preread_server_name $name {{ default peer.example; none.test none.example; }}
    server {{ listen 127.0.0.1:{front}; ssl_preread on; proxy_pass $name:{peer.port}; }}
    server {{ listen 127.0.0.1:{datagrams} udp; set $it peer.example; proxy_pass $it:{other.getsockname()[1]}; }}
}}
""",
            [front],
        )
        side = _Side(balancer, {"front": front}, {})
        assert side.ask("front", b"hello") == b"a 5"
        assert side.ask("front", _hello("none.test")) == b""
        words = "none.example could not be resolved (3: Host not found)"
        assert words in Path(balancer.prefix, "logs/error.log").read_text()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.connect(("127.0.0.1", datagrams))
            for number in range(3):
                client.send(b"%d" % number)
            heard = [other.recvfrom(100) for _ in range(3)]
            assert [data for data, _ in heard] == [b"0", b"1", b"2"]
            other.sendto(b"back", heard[0][1])
            assert client.recv(100) == b"back"
