"""`stream` where upwell does more than nginx, or does it in processes of its own: ends, memory, reloads, pages."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.conftest import StartBalancer
from tests.system.talkers import Datagrams, Talker, echo, read_all, reset
from upwell.contrib.processes import UPWELL, App, Balancer, await_condition, free_ports
from upwell.contrib.traffic import fetch


def _configuration(servers: str, main: str = "", http: str = "") -> str:
    return f"""
error_log logs/error.log info;
{main}
events {{ }}
{f"http {{ {http} }}" if http else ""}
stream {{
    log_format all '$status $bytes_received/$bytes_sent "$upstream_addr"';
    access_log logs/stream.log all;
    {servers}
}}
"""


def _connect(port: int, buffer: int = 0) -> socket.socket:
    sock = socket.socket()
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.settimeout(10)
    try:
        sock.connect(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock


def _reading(port: int, peer: int, more: str = "") -> str:
    return f"server {{ listen 127.0.0.1:{port}; proxy_pass 127.0.0.1:{peer}; {more} }}"


def _memory(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def test_a_reset_of_the_peer_is_no_end_for_the_client(start: StartBalancer) -> None:
    def resetting(connection: socket.socket) -> None:
        connection.recv(10)
        reset(connection)

    (front,) = free_ports(1)
    with Talker(resetting) as peer:
        balancer = start(_configuration(_reading(front, peer.port)), [front])
        with _connect(front) as client:
            client.sendall(b"x")
            with pytest.raises(ConnectionResetError):
                client.recv(10)
        assert "recv() failed (104: Connection reset by peer) while proxying and reading from upstream" in (
            balancer.error_log()
        )


def test_a_reset_is_no_end_for_a_client_that_is_slow_to_read_either(start: StartBalancer) -> None:
    """The session is over long before the client has got what the peer had sent."""
    size = 50_000  # which the peer's kernel is rid of at once

    def resetting(connection: socket.socket) -> None:
        connection.sendall(b"a" * size)
        connection.recv(1)
        reset(connection)

    (front,) = free_ports(1)
    with Talker(resetting) as peer:
        balancer = start(_configuration(_reading(front, peer.port)), [front])
        with _connect(front, buffer=4096) as client:
            client.sendall(b"x")
            over = f"upstream disconnected, bytes from/to client:1/{size}"
            await_condition(lambda: over in balancer.error_log(), "the session over", 10)
            with client.makefile("rb") as read:
                assert len(read.read(size)) == size
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_a_reset_of_the_client_is_no_end_for_the_peer(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Talker(echo) as peer:
        start(_configuration(_reading(front, peer.port)), [front])
        client = _connect(front)
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        reset(client)
        await_condition(lambda: any("reset" in one for one in peer.refused), "the peer's connection reset", 5)


def test_what_a_peer_sent_before_its_end_arrives_though_the_client_goes_on_sending(start: StartBalancer) -> None:
    """nginx closes with unread bytes in the kernel, and its RST takes the end of the answer away."""
    size = 8 << 20

    def early(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(b"a" * size)
        connection.shutdown(socket.SHUT_WR)
        read_all(connection)

    def going_on(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client.send(b"y")
                time.sleep(0.001)

    (front,) = free_ports(1)
    with Talker(early) as peer:
        balancer = start(_configuration(_reading(front, peer.port)), [front])
        with _connect(front, buffer=16_384) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"a"
            old = set(balancer.workers)
            balancer.send(signal.SIGHUP)  # nor does a worker that is to end leave before
            threading.Thread(target=going_on, args=(client,), daemon=True).start()
            got = 1
            while data := client.recv(16_384):
                got += len(data)
                time.sleep(0.0005)
            assert got == size
        await_condition(lambda: not old & set(balancer.workers), "the old processes gone", 10)


def test_an_answer_is_not_lost_where_the_peer_takes_no_more(start: StartBalancer) -> None:
    """A peer that answers early and resets what still comes: what it had said is passed on."""

    def refusing(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(b"too large")
        connection.shutdown(socket.SHUT_WR)
        time.sleep(0.1)

    (front,) = free_ports(1)
    with Talker(refusing) as peer:
        start(_configuration(_reading(front, peer.port)), [front])
        with _connect(front) as client:
            client.sendall(b"x")
            assert client.recv(20) == b"too large"


@pytest.mark.parametrize("way", ["up", "down"])
def test_who_does_not_read_costs_little(start: StartBalancer, way: str) -> None:
    """What nobody takes is not read: it stays with whoever sends it."""
    held = threading.Event()
    sent = 0

    def flood(sock: socket.socket) -> None:
        nonlocal sent
        sock.settimeout(1)
        try:
            while not held.is_set():
                sent += sock.send(b"x" * 65_536)
        except TimeoutError:
            return

    def peer_side(connection: socket.socket) -> None:
        if connection.recv(1) == b"0":
            read_all(connection)
            return
        if way == "down":
            flood(connection)
        held.wait(20)

    (front,) = free_ports(1)
    with Talker(peer_side) as peer:
        balancer = start(_configuration(_reading(front, peer.port)), [front])
        with _connect(front) as client:
            client.sendall(b"0" * (4 << 20))
        (worker,) = _serving(balancer)
        before = _memory(worker)
        with _connect(front) as client:
            client.sendall(b"1")
            if way == "up":
                flood(client)
            else:
                await_condition(lambda: sent > 0, "something sent", 5)
                time.sleep(1.5)
            held.set()
            assert sent < 64 << 20
            assert _memory(worker) - before < 4 << 20


def _serving(balancer: Balancer) -> list[int]:
    return [pid for pid in balancer.workers if b"worker" in Path(f"/proc/{pid}/comm").read_bytes()]


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_a_handshake_with_a_peer_on_a_unix_socket_ends_in_time(start: StartBalancer, tmp_path: Path) -> None:
    path = tmp_path / "silent.sock"
    (front,) = free_ports(1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        path.chmod(0o777)
        silent.listen(5)
        tmp_path.chmod(0o755)
        more = "proxy_ssl on; proxy_connect_timeout 200ms;"
        balancer = start(
            _configuration(f"server {{ listen 127.0.0.1:{front}; proxy_pass unix:{path}; {more} }}"), [front]
        )
        with _connect(front) as client:
            assert client.recv(1) == b""
        assert "upstream timed out" in balancer.error_log()


def test_connections_that_are_over_make_room_for_new_ones(start: StartBalancer) -> None:
    """What nobody takes stays with the kernel, which nginx leaves it to at once."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(b"a" * 100_000)

    (front, other) = free_ports(2)
    with Talker(answer) as peer, Talker(echo) as well, contextlib.ExitStack() as held:
        servers = _reading(front, peer.port) + _reading(other, well.port)
        configuration = _configuration(servers).replace("events {", "events { worker_connections 40;")
        balancer = start(configuration, [front, other])
        with _connect(other) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        (worker,) = _serving(balancer)
        before = _open_files(worker)
        first = held.enter_context(_connect(front, buffer=2048))
        for _ in range(80):
            assert held.enter_context(_connect(front, buffer=2048)).recv(1) == b"a"
        with _connect(other) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        assert _open_files(worker) - before <= 42
        assert len(read_all(first)) == 100_000  # the kernel had it
        assert "not enough" not in balancer.error_log()


def test_open_sessions_live_on_over_a_reload(start: StartBalancer) -> None:
    first, second = free_ports(2)
    with Talker(echo) as peer:
        balancer = start(_configuration(_reading(first, peer.port)), [first])
        with _connect(first) as client:
            client.sendall(b"a")
            assert client.recv(1) == b"a"
            old = set(balancer.workers)
            balancer.configure(_configuration(_reading(first, peer.port) + _reading(second, peer.port)))
            balancer.send(signal.SIGHUP)
            await_condition(lambda: _speaks(second), "the new port", 10)
            client.sendall(b"b")
            assert client.recv(1) == b"b"
            assert old & set(balancer.workers)
            assert _speaks(first)
        await_condition(lambda: not old & set(balancer.workers), "the old processes gone", 10)


def _speaks(port: int) -> bool:
    try:
        with _connect(port) as client:
            client.sendall(b"?")
            return client.recv(1) == b"?"
    except OSError:
        return False


def test_a_worker_waits_so_long_for_its_sessions(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Talker(echo) as peer:
        balancer = start(_configuration(_reading(front, peer.port), "worker_shutdown_timeout 300ms;"), [front])
        with _connect(front) as client:
            client.sendall(b"a")
            assert client.recv(1) == b"a"
            old = set(balancer.workers)
            balancer.send(signal.SIGHUP)
            assert read_all(client) == b""
        await_condition(lambda: not old & set(balancer.workers), "the old processes gone", 10)


def test_datagrams_are_answered_over_a_reload(start: StartBalancer) -> None:
    front, extra = free_ports(2)
    with Datagrams(lambda data: [data]) as peer:
        servers = f"""
            server {{ listen 127.0.0.1:{extra}; return up; }}
            server {{ listen 127.0.0.1:{front} udp; proxy_pass 127.0.0.1:{peer.port}; }}"""
        balancer = start(_configuration(servers), [extra])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.connect(("127.0.0.1", front))
            client.send(b"a")
            assert client.recv(10) == b"a"
            old = set(balancer.workers)
            balancer.send(signal.SIGHUP)
            await_condition(lambda: bool(set(balancer.workers) - old), "new processes", 10)
            for _ in range(5):
                client.send(b"b")
                assert client.recv(10) == b"b"


def test_pages_know_the_peers_of_stream(start: StartBalancer, app: Callable[[str], App]) -> None:
    front, page = free_ports(2)
    one = app("one")
    with Talker(echo) as peer:
        (nobody,) = free_ports(1)
        upstream = f"upstream db {{ server 127.0.0.1:{peer.port}; server 127.0.0.1:{nobody} max_fails=1; }}"
        http = (
            f"upstream db {{ server 127.0.0.1:{one.port}; }} access_log off;"
            f"server {{ listen 127.0.0.1:{page}; location /status {{ upwell_status; status_format json; }}"
            " location / { proxy_pass http://db; } }"
        )
        servers = f"{upstream} server {{ listen 127.0.0.1:{front}; proxy_pass db; }}"
        start(_configuration(servers, http=http), [page])
        for _ in range(4):
            assert _speaks(front)
        assert fetch(page, "/")[1].startswith("one")

        def told() -> bool:
            text = fetch(page, "/status")[1]
            return '"stream/db"' in text and '"db"' in text and f"127.0.0.1:{nobody}" in text

        await_condition(told, "both upstreams on the page", 5)


def test_an_upstream_of_http_is_none_of_stream(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    file = tmp_path / "nginx.conf"
    file.write_text(
        "events {} http { upstream db { server 127.0.0.1:1; } server { listen 127.0.0.1:8099; } }\n"
        "stream { server { listen 127.0.0.1:8098; proxy_pass db:1; }\n"
        "server { listen 127.0.0.1:8097; proxy_pass db; } }\n"
    )
    command = [*UPWELL, "-t", "-p", str(tmp_path), "-c", "nginx.conf", "-e", "stderr"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert 'host not found in upstream "db:1"' in done.stderr
    assert 'no port in upstream "db"' in done.stderr


@pytest.mark.parametrize("method", ["least_time first_byte", "least_time last_byte inflight", "ewma"])
def test_a_peer_that_is_slow_to_answer_gets_fewer_sessions(method: str, start: StartBalancer) -> None:
    def late(connection: socket.socket) -> None:
        time.sleep(0.3)  # what this is about: its first byte comes late
        connection.sendall(b"late")

    (front,) = free_ports(1)
    with Talker(late) as slow, Talker(lambda connection: connection.sendall(b"soon")) as fast:
        servers = f"server 127.0.0.1:{slow.port}; server 127.0.0.1:{fast.port};"
        start(
            _configuration(
                f"upstream u {{ {method}; {servers} }} server {{ listen 127.0.0.1:{front}; proxy_pass u; }}",
                main="worker_processes 1;",
            ),
            [front],
            UPWELL,
        )
        said = []
        for _ in range(12):
            with _connect(front) as client:
                said.append(read_all(client))
    assert said.count(b"late") == 1
    assert said.count(b"soon") == 11


def test_no_peer_is_to_blame_for_a_name_that_tls_cannot_ask_for(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Talker(echo) as first, Talker(echo) as second:
        upstream = f"upstream two {{ server 127.0.0.1:{first.port}; server 127.0.0.1:{second.port}; }}"
        tls = "proxy_ssl on; proxy_ssl_server_name on; proxy_ssl_name a..b;"
        server = f"server {{ listen 127.0.0.1:{front}; proxy_pass two; {tls} }}"
        balancer = start(_configuration(upstream + server), [front])
        for _ in range(3):
            with _connect(front) as client:
                assert read_all(client) == b""
    log = balancer.error_log()
    assert log.count("the name for TLS with the peer (proxy_ssl_name) cannot be asked for") >= 3
    assert "temporarily disabled" not in log
    lines = (balancer.prefix / "logs" / "stream.log").read_text().splitlines()
    assert {line.split()[0] for line in lines} == {"500"}
