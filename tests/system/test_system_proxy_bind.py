"""proxy_bind beside nginx: where connections to a peer come from, by value, off, and from no address of ours."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.system.conftest import StartBalancer
from tests.system.wire import Client, Origin, Seen, ask, get, response
from upwell.contrib.processes import Balancer, free_ports


def _say_who(_: Seen, connection: socket.socket) -> bytes:
    host, port = connection.getpeername()[:2]
    return response(f"{host} {port}".encode())


def _configuration(front: int, peer: int, near: int) -> str:
    return f"""
events {{ }}
http {{
    upstream peers {{ server 127.0.0.1:{peer}; keepalive 0; }}
    upstream kept {{ server 127.0.0.1:{peer}; }}
    server {{
        listen 127.0.0.1:{front};
        proxy_bind 127.0.0.5;
        proxy_socket_keepalive on;
        location / {{ proxy_pass http://peers; }}
        location /address {{ proxy_pass http://127.0.0.1:{peer}; }}
        location /off {{ proxy_pass http://peers; proxy_bind off; }}
        location /value {{ proxy_pass http://peers; proxy_bind $arg_b; }}
        location /value/value {{ proxy_pass http://$arg_h; proxy_bind $arg_b; }}
        location /port {{ proxy_pass http://peers; proxy_bind 127.0.0.6:{near}; }}
        location /foreign {{ proxy_pass http://peers; proxy_bind 192.0.2.1; }}
        location /family {{ proxy_pass http://peers; proxy_bind [::1]; }}
        location /unix {{ proxy_pass http://unix:/nowhere; }}
        location /buffers {{ proxy_pass http://peers; proxy_bind off;
            proxy_socket_rcvbuf 64k; proxy_socket_sndbuf 64k; }}
        location /kept {{ proxy_pass http://kept; proxy_bind $arg_b; }}
        location /kept/off {{ proxy_pass http://kept; proxy_bind off; }}
    }}
}}
"""


@dataclass
class Side:
    port: int
    near: int
    balancer: Balancer
    origin: Origin


@pytest.fixture(scope="module")
def sides(nginx: tuple[str, ...], start_shared: StartBalancer) -> Iterator[tuple[Side, Side]]:
    one, near_one, other, near_other = free_ports(4)
    with Origin(_say_who) as origin:
        first = start_shared(_configuration(one, origin.port, near_one), [one], nginx)
        second = start_shared(_configuration(other, origin.port, near_other), [other])
        yield Side(one, near_one, first, origin), Side(other, near_other, second, origin)


@pytest.mark.parametrize(
    ("target", "status", "comes_from"),
    [
        ("/", 200, "127.0.0.5"),
        ("/address", 200, "127.0.0.5"),
        ("/off", 200, "127.0.0.1"),
        ("/value?b=127.0.0.7", 200, "127.0.0.7"),
        ("/value?b=", 200, "127.0.0.1"),
        ("/value?b=nonsense", 200, "127.0.0.1"),
        ("/value?b=127.0.0.7:x", 200, "127.0.0.1"),
        ("/value/value?b=127.0.0.8&h=peers", 200, "127.0.0.8"),
        ("/value?b=192.0.2.1", 500, None),
        ("/foreign", 500, None),
        ("/family", 500, None),
        ("/unix", 500, None),
        ("/buffers", 200, "127.0.0.1"),
    ],
)
def test_connections_come_from_where_they_are_told(
    sides: tuple[Side, Side], target: str, status: int, comes_from: str | None
) -> None:
    for side in sides:
        answer = ask(side.port, get(target))
        assert answer.status == status
        if comes_from is not None:
            assert answer.body.decode().split(" ")[0] == comes_from


def test_a_port_may_be_told_too(sides: tuple[Side, Side]) -> None:
    for side in sides:
        assert ask(side.port, get("/port")).body.decode() == f"127.0.0.6 {side.near}"


def test_what_goes_wrong_is_in_the_log(sides: tuple[Side, Side]) -> None:
    for side in sides:
        ask(side.port, get("/foreign"))
        ask(side.port, get("/value?b=nonsense"))
        log = side.balancer.error_log()
        assert "bind(192.0.2.1) failed (99: " in log
        assert " while connecting to upstream, client: 127.0.0.1" in log
        assert 'invalid local address "nonsense", client: 127.0.0.1' in log


def test_stricter_a_kept_connection_serves_its_own_address_only(sides: tuple[Side, Side]) -> None:
    nginx, upwell = sides
    with Client(nginx.port) as client:
        first, second = (client.ask(get(f"/kept?b=127.0.0.{last}")).body for last in (20, 21))
        assert first == second
    with Client(upwell.port) as client:
        seen = [client.ask(get(f"/kept?b=127.0.0.{last}")).body.decode() for last in (20, 21, 20, 21)]
        assert [one.split(" ")[0] for one in seen] == ["127.0.0.20", "127.0.0.21", "127.0.0.20", "127.0.0.21"]
        assert seen[0] == seen[2]
        assert seen[1] == seen[3]
        assert client.ask(get("/kept/off")).body.decode().split(" ")[0] == "127.0.0.1"
