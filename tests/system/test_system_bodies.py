"""Bodies of every framing in both directions, kept connections, pipelines and old clients, through real sockets."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.configurations import proxying
from tests.system.conftest import StartBalancer
from tests.system.wire import Answer, Client, Origin, Seen, ask, chunked, get, post, response
from upwell.contrib.processes import Balancer, await_condition, free_ports

MEGABYTE = 1 << 20
BIG = bytes(range(256)) * (10 * MEGABYTE // 256)


def _respond(seen: Seen, connection: socket.socket) -> bytes | None:
    path = seen.target.decode()
    if path == "/length":
        return response(b"0123456789", "Content-Type: text/plain")
    if path == "/empty":
        return response()
    if path == "/no-content":
        return b"HTTP/1.1 204 No Content\r\n\r\n"
    if path == "/not-modified":
        return b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n'
    if path == "/chunked":
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked([b"01234", b"56789"])
    if path == "/trailer":
        body = b"5\r\n01234\r\n0\r\nX-Trailer: one\r\n\r\n"
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Trailer\r\n\r\n" + body
    if path == "/until-close":
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n0123456789")
        return None
    if path == "/old":
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n0123456789")
        return None
    if path == "/continue":
        return b"HTTP/1.1 100 Continue\r\n\r\n" + response(b"0123456789")
    if path == "/big":
        return response(BIG)
    if path == "/big-chunked":
        pieces = [BIG[at : at + 50_000] for at in range(0, len(BIG), 50_000)]
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(pieces)
    return response(f"{len(seen.body)} {hashlib.sha256(seen.body).hexdigest()}".encode())


@dataclass
class Proxied:
    """upwell on `port` before `origin`."""

    port: int
    origin: Origin
    balancer: Balancer


@pytest.fixture(scope="module")
def proxied(start_shared: StartBalancer) -> Iterator[Proxied]:
    (front,) = free_ports(1)
    with Origin(_respond) as origin:
        text = proxying(front, [origin.port], http="client_max_body_size 11m;")
        yield Proxied(front, origin, start_shared(text, [front]))


@pytest.fixture
def port(proxied: Proxied) -> int:
    proxied.origin.seen.clear()
    return proxied.port


def _digest(body: bytes) -> bytes:
    return f"{len(body)} {hashlib.sha256(body).hexdigest()}".encode()


SAME = ("/length", "/chunked", "/until-close", "/old", "/continue")


@pytest.mark.parametrize("path", SAME)
def test_a_body_of_any_framing_arrives_whole(port: int, path: str) -> None:
    with Client(port) as client:
        first = client.ask(get(path))
        assert (first.status, first.body) == (200, b"0123456789")
        # However the peer ended it, the client's connection goes on.
        assert client.ask(get("/length")).body == b"0123456789"


@pytest.mark.parametrize("path", SAME)
def test_a_client_of_http_1_0_gets_no_chunks(port: int, path: str) -> None:
    with Client(port) as client:
        answer = client.ask(get(path, version="1.0"))
        assert answer.body == b"0123456789"
        assert answer.field("Transfer-Encoding") is None
        assert client.closed()


def test_a_client_of_http_1_0_may_ask_to_keep_the_connection(port: int) -> None:
    with Client(port) as client:
        for _ in range(2):
            answer = client.ask(get("/length", "Connection: keep-alive", version="1.0"))
            assert answer.body == b"0123456789"
            assert (answer.field("Connection") or "").lower() == "keep-alive"


def test_connection_close_is_heard(port: int) -> None:
    with Client(port) as client:
        answer = client.ask(get("/length", "Connection: close"))
        assert (answer.field("Connection") or "").lower() == "close"
        assert client.closed()


@pytest.mark.parametrize("path", ["/length", "/chunked", "/empty", "/big"])
def test_head_has_the_fields_and_no_body(port: int, path: str) -> None:
    with Client(port) as client:
        answer = client.ask(get(path).replace(b"GET", b"HEAD", 1), "HEAD")
        assert (answer.status, answer.body) == (200, b"")
        assert client.ask(get("/length")).body == b"0123456789"


@pytest.mark.parametrize(("path", "status"), [("/no-content", 204), ("/not-modified", 304), ("/empty", 200)])
def test_a_response_without_body_ends_at_its_head(port: int, path: str, status: int) -> None:
    with Client(port) as client:
        answer = client.ask(get(path))
        assert (answer.status, answer.body) == (status, b"")
        assert client.ask(get("/length")).body == b"0123456789"


def test_trailer_fields_do_not_break_the_connection(port: int) -> None:
    with Client(port) as client:
        assert client.ask(get("/trailer")).body == b"01234"
        assert client.ask(get("/length")).body == b"0123456789"


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 16384, 100_000])
def test_a_post_arrives_whole(port: int, size: int) -> None:
    body = BIG[:size]
    with Client(port) as client:
        assert client.ask(post(body)).body == _digest(body)
        streamed = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(
            [body[:100], body[100:]]
        )
        assert client.ask(streamed).body == _digest(body)


def test_the_head_may_come_byte_by_byte_and_the_body_late(port: int) -> None:
    body = b"hello world"
    with Client(port) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head, _, rest = post(body).partition(b"\r\n\r\n")
        for byte in head + b"\r\n\r\n":
            client.send(bytes([byte]))
        time.sleep(0.05)
        client.send(rest[:4])
        time.sleep(0.05)
        client.send(rest[4:])
        assert client.answer("POST").body == _digest(body)


def test_expect_100_continue_is_answered(port: int) -> None:
    with Client(port) as client:
        head, _, body = post(b"hello", "/", "Expect: 100-continue").partition(b"\r\n\r\n")
        client.send(head + b"\r\n\r\n")
        interim = client.socket.recv(1000)
        assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(body)
        assert client.answer("POST").body == _digest(b"hello")


def test_a_pipeline_is_answered_in_order(port: int) -> None:
    with Client(port) as client:
        bodies = [b"%d" % number * (number + 1) for number in range(20)]
        client.send(b"".join(post(body) + get("/chunked") for body in bodies))
        for body in bodies:
            assert client.answer("POST").body == _digest(body)
            assert client.answer("GET").body == b"0123456789"


def test_many_requests_on_one_connection_share_connections_to_the_peer(proxied: Proxied) -> None:
    before = proxied.origin.connections
    with Client(proxied.port) as client:
        for _ in range(50):
            assert client.ask(get("/length")).status == 200
    assert proxied.origin.connections - before <= 1


@pytest.mark.parametrize("path", ["/big", "/big-chunked"])
def test_ten_megabytes_down(port: int, path: str) -> None:
    assert ask(port, get(path)).body == BIG


def test_ten_megabytes_up(port: int) -> None:
    assert ask(port, post(BIG)).body == _digest(BIG)


def test_ten_megabytes_up_in_chunks(port: int) -> None:
    pieces = [BIG[at : at + 50_000] for at in range(0, len(BIG), 50_000)]
    assert ask(
        port, b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(pieces)
    ).body == _digest(BIG)


def test_ten_megabytes_to_an_old_client(port: int) -> None:
    assert ask(port, get("/big-chunked", version="1.0")).body == BIG


def _memory(balancer: Balancer) -> int:
    """Resident bytes of the largest process of the balancer, whose worker has answered somebody."""
    with Client(balancer.ports[0]) as client:  # a port accepts connections before there is a worker
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert client.answer().status == 400
    sizes = []
    for pid in balancer.workers:
        status = Path(f"/proc/{pid}/status").read_text()
        sizes.append(int(status.partition("VmRSS:")[2].split()[0]) * 1024)
    return max(sizes)


def test_a_slow_reader_holds_back_its_peer(start: StartBalancer) -> None:
    sent = 0
    total = 128 * MEGABYTE
    block = bytes(MEGABYTE)

    def flood(seen: Seen, connection: socket.socket) -> bytes | None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while sent < total:
            connection.sendall(block)
            sent += len(block)
        return b""

    (front,) = free_ports(1)
    with Origin(flood) as origin:
        # Without temporary files nginx, like upwell, takes from the peer only what the client takes.
        balancer = start(proxying(front, [origin.port], location="proxy_max_temp_file_size 0;"), [front])
        before = _memory(balancer)
        with Client(front) as client:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.send(get())
            last = -1
            while sent != last:  # until the flood has come to rest
                last = sent
                time.sleep(0.4)
            assert sent < 64 * MEGABYTE
            assert _memory(balancer) - before < 32 * MEGABYTE
            # A client that reads gets it all.
            received = 0
            while received < total:
                data = client.socket.recv(1 << 20)
                assert data
                received += len(data)


def test_a_slow_peer_holds_back_its_client(start: StartBalancer) -> None:
    go = threading.Event()
    received = 0

    def slow(connection: socket.socket) -> None:
        nonlocal received
        go.wait(30)
        while data := connection.recv(1 << 20):
            received += len(data)
            if received > 64 * MEGABYTE:
                connection.sendall(response(b"took it"))
                return

    (front,) = free_ports(1)
    with Origin(on_connect=slow) as origin:
        text = proxying(front, [origin.port], location="proxy_request_buffering off; client_max_body_size 0;")
        balancer = start(text, [front])
        before = _memory(balancer)
        with Client(front) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % (64 * MEGABYTE + 1))
            sent = 0
            client.socket.settimeout(1.0)
            try:
                while sent < 64 * MEGABYTE + 1:
                    sent += client.socket.send(bytes(min(65536, 64 * MEGABYTE + 1 - sent)))
            except TimeoutError:
                pass
            assert sent < 32 * MEGABYTE
            assert _memory(balancer) - before < 32 * MEGABYTE
            go.set()
            client.socket.settimeout(10.0)
            client.send(bytes(64 * MEGABYTE + 1 - sent))
            assert client.answer("POST").body == b"took it"


def test_a_client_that_leaves_lets_its_peer_go(start: StartBalancer) -> None:
    gone = threading.Event()

    def wait_for_the_end(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass
        gone.set()

    (front,) = free_ports(1)
    with Origin(on_connect=wait_for_the_end) as origin:
        start(proxying(front, [origin.port]), [front])
        with Client(front) as client:
            client.send(get())
            await_condition(lambda: origin.connections == 1, "the request at the origin", 5)
        assert gone.wait(5)


@pytest.fixture(scope="module")
def limited(start_shared: StartBalancer) -> Iterator[Proxied]:
    (front,) = free_ports(1)
    with Origin(_respond) as origin:
        text = proxying(front, [origin.port], http="client_max_body_size 1k;")
        yield Proxied(front, origin, start_shared(text, [front]))


def _refused(limited: Proxied, request: bytes) -> Answer:
    limited.origin.seen.clear()
    answer = ask(limited.port, request)
    assert limited.origin.seen == []
    return answer


def test_a_body_above_the_limit_is_413(limited: Proxied) -> None:
    assert ask(limited.port, post(bytes(1024))).status == 200
    assert _refused(limited, post(bytes(1025))).status == 413


def test_a_chunked_body_above_the_limit_is_413(limited: Proxied) -> None:
    head = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert ask(limited.port, head + chunked([bytes(1024)])).status == 200
    assert _refused(limited, head + chunked([bytes(1000), bytes(1000)])).status == 413


def test_a_target_above_the_limit_is_414(limited: Proxied) -> None:
    assert ask(limited.port, get("/" + "x" * 8000)).status == 200
    assert _refused(limited, get("/" + "x" * 8192)).status == 414


def test_a_field_line_above_the_limit_is_refused(limited: Proxied) -> None:
    assert ask(limited.port, get("/", "X: " + "x" * 8000)).status == 200
    assert _refused(limited, get("/", "X: " + "x" * 8200)).status in (400, 431)


def test_a_head_above_the_limit_is_refused(limited: Proxied) -> None:
    lines = [f"X-{number}: {'x' * 7000}" for number in range(5)]
    assert _refused(limited, get("/", *lines)).status in (400, 431)
