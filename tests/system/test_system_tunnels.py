"""WebSocket and other upgrades through real processes, beside nginx: what each side sees, what the log says."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.system.conftest import StartBalancer
from tests.system.wire import Client, Origin, get, read_request
from upwell.contrib.processes import Balancer, await_condition, free_ports

SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-More: 1\r\n\r\n"
ASKING = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")


def _configuration(front: int, peer: int) -> str:
    return f"""
error_log logs/error.log info;
worker_shutdown_timeout 10s;
events {{ }}
http {{
    log_format tunnel "$request $status $body_bytes_sent $upstream_status $upstream_bytes_received "
                      "$upstream_response_length $request_completion $upstream_http_x_more";
    access_log logs/access.log tunnel;
    upstream peers {{ server 127.0.0.1:{peer}; keepalive 4; }}
    server {{
        listen 127.0.0.1:{front};
        proxy_http_version 1.1;
        location / {{
            proxy_pass http://peers;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            location /literal {{
                proxy_pass http://peers;
                proxy_set_header Upgrade "other";
                proxy_set_header Connection "upgrade";
            }}
            location /timed {{
                proxy_pass http://peers;
                proxy_read_timeout 300ms;
                proxy_set_header Upgrade $http_upgrade;
                proxy_set_header Connection "upgrade";
            }}
        }}
        location /plain {{ proxy_pass http://peers; }}
    }}
}}
"""


class Echo(Origin):
    """Switches and then sends back what it gets; what its path asks for instead, where that is said."""

    def __init__(self) -> None:
        super().__init__(on_connect=self._talk)
        self.heads: list[bytes] = []
        self.ended = threading.Semaphore(0)

    def _talk(self, connection: socket.socket) -> None:
        seen, rest = read_request(connection)
        if seen is None:
            return
        self.heads.append(seen.head)
        if seen.target.endswith(b"refuse"):
            connection.sendall(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno")
            return
        connection.sendall(SWITCHED + b"first")
        if seen.target.endswith(b"hang-up"):
            connection.sendall(b"last")
            return
        data = rest or connection.recv(65536)
        while data:
            connection.sendall(data)
            data = connection.recv(65536)
        self.ended.release()


@dataclass
class Side:
    """One proxy on `port`, its origin and its log."""

    port: int
    origin: Echo
    balancer: Balancer
    name: str


@pytest.fixture(scope="module", params=["nginx", "upwell"])
def side(request: pytest.FixtureRequest, start_shared: StartBalancer, nginx: tuple[str, ...]) -> Iterator[Side]:
    (front,) = free_ports(1)
    with Echo() as origin:
        configuration = _configuration(front, origin.port)
        if request.param == "nginx":
            balancer = start_shared(configuration, [front], nginx)
        else:
            balancer = start_shared(configuration, [front])
        yield Side(front, origin, balancer, request.param)


def _until(client: Client, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        more = client.socket.recv(65536)
        if not more:
            raise AssertionError(f"ended after {data!r}")
        data += more
    return data


def _rest(client: Client) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while more := client.socket.recv(65536):
            data += more
    return data


def _open(side: Side, path: str = "/chat", early: bytes = b"") -> tuple[Client, bytes]:
    client = Client(side.port)
    client.send(get(path, *ASKING) + early)
    return client, _until(client, b"first" + early)


def test_the_head_of_the_switch(side: Side) -> None:
    client, received = _open(side)
    with client:
        head, _, rest = received.partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.startswith((b"Server: ", b"Date: "))]
        assert lines[0] == b"HTTP/1.1 101 Switching Protocols"
        assert sorted(lines[1:]) == [b"Connection: upgrade", b"Upgrade: websocket", b"X-More: 1"]
        assert rest == b"first"
        assert b"Upgrade: websocket\r\nConnection: upgrade\r\n" in side.origin.heads[-1]


def test_bytes_go_both_ways_and_the_log_has_them(side: Side) -> None:
    client, _ = _open(side, "/counted", early=b"early")
    with client:
        for size in (1, 10_000, 1_000_000):
            sender = threading.Thread(target=client.send, args=(b"x" * size,))
            sender.start()
            received = b""
            while len(received) < size:
                received += client.socket.recv(65536)
            assert received == b"x" * size
            sender.join()
    assert side.origin.ended.acquire(timeout=10)
    through = 5 + 5 + 1_010_001
    assert _line(side, "/counted") == f"GET /counted HTTP/1.1 101 {through} 101 {len(SWITCHED) + through} 0 OK 1"


def _line(side: Side, path: str) -> str:
    log = side.balancer.prefix / "logs" / "access.log"

    def lines() -> list[str]:
        return [line for line in log.read_text().splitlines() if f" {path} " in line]

    await_condition(lambda: bool(lines()), f"a line for {path}", 10.0)
    return lines()[-1]


def test_the_peers_end_reaches_the_client_with_all_before_it(side: Side) -> None:
    client = Client(side.port)
    with client:
        client.send(get("/hang-up", *ASKING))
        assert _rest(client).endswith(b"\r\n\r\nfirstlast")


def test_the_clients_end_reaches_the_peer(side: Side) -> None:
    client, _ = _open(side, "/half")
    with client:
        client.socket.shutdown(socket.SHUT_WR)
        assert side.origin.ended.acquire(timeout=10)
        assert _rest(client) == b""


def test_who_is_refused_goes_on_in_http(side: Side) -> None:
    with Client(side.port) as client:
        client.send(get("/refuse", *ASKING) + get("/refuse"))
        for _ in range(2):
            answer = client.answer()
            assert (answer.status, answer.body) == (426, b"no")


def test_silence_ends_a_tunnel(side: Side) -> None:
    client, _ = _open(side, "/timed")
    with client:
        assert _rest(client) == b""
    assert _line(side, "/timed").startswith("GET /timed HTTP/1.1 101 5 ")
    assert "while proxying upgraded connection" in side.balancer.error_log()


def test_stricter_a_switch_nobody_asked_for_is_refused(side: Side) -> None:
    if side.name == "nginx":
        pytest.skip("nginx passes it on")
    for path, fields in (("/plain", ASKING), ("/chat", ()), ("/literal", ())):
        with Client(side.port) as client:
            client.send(get(path, *fields))
            assert client.answer().status == 502, path


def test_a_literal_upgrade_works_for_who_asks(side: Side) -> None:
    client, _ = _open(side, "/literal")
    with client:
        assert b"Upgrade: other\r\n" in side.origin.heads[-1]
        client.send(b"ping")
        assert _until(client, b"ping") == b"ping"


def test_a_reload_and_a_graceful_end_let_a_tunnel_live(start: StartBalancer, nginx: tuple[str, ...]) -> None:
    (front,) = free_ports(1)
    with Echo() as origin:
        balancer = start(_configuration(front, origin.port), [front])
        side = Side(front, origin, balancer, "upwell")
        client, _ = _open(side)
        with client:
            before = balancer.workers
            balancer.send(signal.SIGHUP)
            await_condition(lambda: bool(set(balancer.workers) - set(before)), "new workers", 10.0)
            client.send(b"after the reload")
            assert _until(client, b"reload") == b"after the reload"
            balancer.send(signal.SIGQUIT)
            client.send(b"after QUIT")
            assert _until(client, b"QUIT") == b"after QUIT"
            assert balancer.alive
        assert balancer.wait() == 0
