"""`listen ... proxy_protocol` of http beside nginx: whom a connection speaks for, and what is wrong with its word."""

from __future__ import annotations

import re
import socket
import struct
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.beside import NGINX
from tests.system.conftest import StartBalancer
from tests.system.talkers import trusting
from upwell.contrib.processes import UPWELL, Balancer, await_condition, free_ports

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (make dev)")

TLS = Path(__file__).parents[1] / "check" / "tls"

CONFIGURATION = """
error_log logs/error.log info;
events {{}}
http {{
    log_format who '$remote_addr "$proxy_protocol_addr" $realip_remote_addr $status';
    access_log logs/access.log who;
    real_ip_header proxy_protocol;
    map "" $on_to {{ default "$proxy_protocol_server_addr:$proxy_protocol_server_port"; }}
    map "" $values {{
        default
        "$proxy_protocol_tlv_alpn|$proxy_protocol_tlv_authority|$proxy_protocol_tlv_unique_id|$proxy_protocol_tlv_0xea";
    }}
    map "" $of_tls {{
        default
        "$proxy_protocol_tlv_netns|$proxy_protocol_tlv_ssl_verify|$proxy_protocol_tlv_ssl_cn|$proxy_protocol_tlv_ssl_0x21";
    }}
    map $remote_port $port {{ default any; "" none; 80 80; 65535 65535; }}
    geo $place {{ default elsewhere; 192.0.2.0/24 there; }}
    server {{
        listen 127.0.0.1:{plain} proxy_protocol;
        location / {{
            return 200 "$remote_addr $proxy_protocol_addr:$proxy_protocol_port $on_to $values|$of_tls";
        }}
    }}
    server {{
        listen 127.0.0.1:{plain};
        server_name real;
        set_real_ip_from 127.0.0.0/8;
        location / {{ return 200 "$remote_addr $port $realip_remote_addr $place"; }}
    }}
    server {{
        listen 127.0.0.1:{secure} ssl proxy_protocol;
        ssl_certificate {tls}/good-test-only.pem;
        ssl_certificate_key {tls}/leaf-test-only.key;
        set_real_ip_from 127.0.0.0/8;
        location / {{ return 200 "$remote_addr $proxy_protocol_addr $https"; }}
    }}
}}
"""


@dataclass
class Side:
    """One of the two on its ports."""

    plain: int
    secure: int
    balancer: Balancer


@pytest.fixture(scope="module")
def sides(start_shared: StartBalancer) -> tuple[Side, Side]:
    """nginx and upwell."""
    assert NGINX is not None
    ports = free_ports(4)

    def side(command: tuple[str, ...], plain: int, secure: int) -> Side:
        text = CONFIGURATION.format(plain=plain, secure=secure, tls=TLS)
        return Side(plain, secure, start_shared(text, [plain, secure], command))

    return side(NGINX, *ports[:2]), side(UPWELL, *ports[2:])


def binary(command: int, family: int, addresses: bytes, said: bytes = b"") -> bytes:
    """A header of version 2."""
    length = struct.pack("!H", len(addresses) + len(said))
    return b"\r\n\r\n\0\r\nQUIT\n" + bytes((command, family)) + length + addresses + said


def value(kind: int, said: bytes) -> bytes:
    return bytes((kind,)) + struct.pack("!H", len(said)) + said


FOUR = bytes((192, 0, 2, 1, 198, 51, 100, 2, 0, 80, 1, 187))
SIX = bytes(15) + b"\1" + b"\x20\1\x0d\xb8" + bytes(12) + b"\0\1\0\2"
REST = b"GET / HTTP/1.0\r\nHost: %b\r\n\r\n"
VALUES = value(1, b"h2") + value(2, b"name") + value(0xEA, b"own") + value(5, b"id")
IN_TLS = value(0x20, b"\7\0\0\0\1" + value(0x21, b"TLSv1.3") + value(0x22, b"name"))

HEADERS = {
    "version 1": b"PROXY TCP4 192.0.2.1 198.51.100.2 80 443\r\n",
    "version 1, IPv6": b"PROXY TCP6 2001:db8::1 ::1 65535 0\r\n",
    "unknown": b"PROXY UNKNOWN\r\n",
    "unknown with more": b"PROXY UNKNOWN ffff:: 1 2\r\n",
    "version 2": binary(0x21, 0x11, FOUR),
    "version 2, IPv6": binary(0x21, 0x21, SIX),
    "of the proxy itself": binary(0x20, 0x11, FOUR),
    "of a unix socket": binary(0x21, 0x31, bytes(216)),
    "of no kind": binary(0x21, 0x00, b""),
    "with values": binary(
        0x21, 0x11, FOUR, value(1, b"h2") + value(2, b"name") + value(0xEA, b"own") + value(5, b"id")
    ),
    "with TLS": binary(0x21, 0x11, FOUR, value(0x30, b"space") + IN_TLS),
    "with too short TLS": binary(0x21, 0x11, FOUR, value(0x20, b"\7")),
    "with a value cut short": binary(0x21, 0x11, FOUR, b"\1\0\5h2"),
    "nothing": b"",
    "no carriage return": b"PROXY TCP4 192.0.2.1 198.51.100.2 80 443\n",
    "too few words": b"PROXY TCP4 192.0.2.1\r\n",
    "a port too high": b"PROXY TCP4 192.0.2.1 198.51.100.2 80 65536\r\n",
    "no family": b"PROXY TCP5 192.0.2.1 198.51.100.2 80 443\r\n",
    "a later version": binary(0x31, 0x11, FOUR),
    "twice": b"PROXY TCP4 192.0.2.1 198.51.100.2 80 443\r\n" * 2,
}


def exchanged(port: int, data: bytes) -> bytes:
    """What comes back; a reset is as good as an end."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
    return re.sub(rb"<hr>.*", b"", re.sub(rb"(?s)\r\n.*\r\n\r\n", b"|", answer))


@pytest.mark.parametrize("name", list(HEADERS))
def test_whom_a_connection_speaks_for(sides: tuple[Side, Side], name: str) -> None:
    for host in (b"any", b"real"):
        answers = [exchanged(side.plain, HEADERS[name] + REST % host) for side in sides]
        assert answers[1] == answers[0]


def test_values_of_all_kinds_are_found(sides: tuple[Side, Side]) -> None:
    """As the comparison would not tell, if none was found by either."""
    answer = exchanged(sides[1].plain, HEADERS["with values"] + REST % b"any")
    assert answer.endswith(b"|127.0.0.1 192.0.2.1:80 198.51.100.2:443 h2|name|id|own||||"), answer
    answer = exchanged(sides[1].plain, HEADERS["with TLS"] + REST % b"any")
    assert answer.endswith(b" ||||space|1|name|TLSv1.3"), answer
    answer = exchanged(sides[1].plain, HEADERS["version 1"] + REST % b"real")
    assert answer.endswith(b"|192.0.2.1 80 127.0.0.1 there"), answer


def test_what_is_wrong_is_told(sides: tuple[Side, Side]) -> None:
    told = []
    for side in sides:
        for name in ("too few words", "a later version", "a port too high", "nothing"):
            exchanged(side.plain, HEADERS[name])
        await_end(side)
        lines = [line for line in side.balancer.error_log().splitlines() if "while reading PROXY protocol" in line]
        lines = [re.sub(r"^.*?\[(\w+)\] .*?\*\d+ ", r"\1: ", line).replace(str(side.plain), "PORT") for line in lines]
        told.append(lines[-4:])
    assert told[1] == told[0]


def await_end(side: Side) -> None:
    await_condition(lambda: "client closed connection" in side.balancer.error_log(), "the last line", 10)


def test_it_stands_before_tls(sides: tuple[Side, Side]) -> None:
    for side in sides:
        context = trusting(TLS / "authority-test-only.pem")
        context.check_hostname = False
        with closing(socket.create_connection(("127.0.0.1", side.secure), timeout=10)) as raw:
            raw.sendall(HEADERS["with TLS"])
            with context.wrap_socket(raw) as connection:
                connection.sendall(REST % b"any")
                answer = b""
                while piece := connection.recv(65536):
                    answer += piece
        assert answer.endswith(b"\r\n\r\n192.0.2.1 192.0.2.1 on"), answer
