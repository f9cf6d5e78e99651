"""The probes of other protocols through the checker, over real sockets: kept connections, farewells, time-outs."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.check.probing import Probing
from tests.check.scripted import Scripted, answering
from tests.check.test_check_probe_fastcgi import response
from tests.check.test_check_probe_grpc import Server as GrpcServer
from tests.check.test_check_probe_mysql import DENIED, OK, QUIT, greeting
from tests.check.test_check_probe_postgres import LET_IN, READY, SASL
from upwell.peers.peer import PeerSpec

Peers = Callable[..., Scripted]
Make = Callable[..., Probing]


@pytest.fixture
def probing(tmp_path: Path) -> Iterator[Make]:
    made: list[Probing] = []

    def make(peer: Scripted | PeerSpec, **changes: object) -> Probing:
        spec = peer.spec if isinstance(peer, Scripted) else peer
        made.append(Probing(tmp_path / f"error{len(made)}.log", spec))
        made[-1].check(**changes)
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize(
    ("type_", "answer"),
    [("redis", b"+PONG\r\n"), ("ajp", b"AB\0\1\x09"), ("fastcgi", response())],
)
def test_one_connection_is_asked_again_and_again(scripted: Peers, probing: Make, type_: str, answer: bytes) -> None:
    one = scripted(answering(answer))
    b = probing(one, type=type_, keepalive_time=60.0)
    b.until(lambda: b.state().passes == 6)
    assert (b.state().fails, one.connections, one.resets) == (0, 1, 0)
    other = probing(one, type=type_)
    other.until(lambda: other.state().passes == 3)
    assert one.connections >= 4


def test_a_kept_connection_that_the_server_ends_is_no_failure(scripted: Peers, probing: Make) -> None:
    one = scripted(answering(b"+PONG\r\n", b"+PONG\r\n", kept=False))
    b = probing(one, type="redis", keepalive_time=60.0)
    b.until(lambda: b.state().passes == 6)
    assert b.state().fails == 0
    assert one.connections >= 3


def serve_grpc(server: GrpcServer, sock: socket.socket) -> None:
    while data := sock.recv(65536):
        reply = server.take(data)
        if reply:
            sock.sendall(reply)


def test_grpc_on_kept_connections(scripted: Peers, probing: Make) -> None:
    one = scripted(lambda sock: serve_grpc(GrpcServer(), sock))
    b = probing(one, type="grpc", keepalive_time=60.0)
    b.until(lambda: b.state().passes == 6)
    assert (b.state().fails, one.connections) == (0, 1)


def test_a_grpc_server_may_ping_a_connection_at_rest(scripted: Peers, probing: Make) -> None:
    server = GrpcServer()

    def pinging(sock: socket.socket) -> None:
        while data := sock.recv(65536):
            reply = server.take(data)
            if reply:
                sock.sendall(reply)
                server.conn.ping(b"12345678")
                sock.sendall(server.conn.data_to_send())

    one = scripted(pinging)
    b = probing(one, type="grpc", keepalive_time=60.0, interval=0.05)
    b.until(lambda: b.state().passes >= 4 and server.acks >= 4)
    assert (b.state().fails, one.connections) == (0, 1)


def test_a_goaway_on_a_kept_connection_is_no_failure(scripted: Peers, probing: Make) -> None:
    """It may cross with the question, and says nothing about the server but that this connection ends."""

    class Leaving(GrpcServer):
        def answer(self, stream: int) -> None:
            if stream == 1:
                super().answer(stream)
            else:
                self.conn.close_connection()

    one = scripted(lambda sock: serve_grpc(Leaving(), sock))
    b = probing(one, type="grpc", keepalive_time=60.0)
    b.until(lambda: b.state().passes == 4)
    assert b.state().fails == 0
    assert one.connections >= 4

    class Gone(GrpcServer):
        def answer(self, stream: int) -> None:
            self.conn.close_connection()

    one.script = lambda sock: serve_grpc(Gone(), sock)
    b.until(lambda: b.state().fails > 0)
    assert b.record().why == "GOAWAY before the gRPC response: NO_ERROR"


def test_mysql_is_left_politely(scripted: Peers, probing: Make) -> None:
    seen: list[bytes] = []
    answers = [OK, DENIED]

    def mysql(sock: socket.socket) -> None:
        sock.sendall(greeting())
        sock.recv(1000)
        answer = answers.pop(0) if answers else b""
        sock.sendall(answer)
        if answer is DENIED:
            sock.shutdown(socket.SHUT_WR)
        seen.append(sock.recv(1000))
        if answer is OK:
            sock.shutdown(socket.SHUT_WR)
            seen.append(sock.recv(1000))

    one = scripted(mysql)
    b = probing(one, type="mysql")
    b.until(lambda: b.state().passes >= 2 and len(seen) >= 3)
    # Not a byte to who refuses; to who lets in, the word that ends it.
    assert seen[:3] == [QUIT, b"", b""]
    assert one.resets == 0


def test_postgres_is_left_politely(scripted: Peers, probing: Make) -> None:
    seen: list[bytes] = []
    answers = [LET_IN + READY, SASL]

    def postgres(sock: socket.socket) -> None:
        sock.recv(1000)
        answer = answers.pop(0) if answers else b""
        sock.sendall(answer)
        seen.append(sock.recv(1000))

    b = probing(one := scripted(postgres), type="postgres")
    b.until(lambda: len(seen) >= 2)
    assert seen[:2] == [b"X\0\0\0\4", b""]
    assert one.resets == 0


def test_ssl_hello_ends_the_handshake_at_once(scripted: Peers, probing: Make) -> None:
    folder = Path(__file__).parent / "tls"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "test-only.pem", folder / "test-only.key")
    errors: list[str] = []

    def tls(sock: socket.socket) -> None:
        try:
            context.wrap_socket(sock, server_side=True)
        except ssl.SSLError as error:
            errors.append(type(error).__name__)
            raise

    b = probing(one := scripted(tls), type="ssl_hello")
    b.until(lambda: b.state().passes > 2 and len(errors) > 2)
    assert b.state().fails == 0
    assert one.resets == 0


@pytest.mark.parametrize(
    ("type_", "doing"),
    [
        ("ajp", "awaiting CPong"),
        ("fastcgi", "awaiting the FastCGI response"),
        ("grpc", "awaiting the gRPC response"),
        ("mysql", "awaiting the greeting"),
        ("postgres", "awaiting the answer to StartupMessage"),
        ("redis", "awaiting the reply to PING"),
        ("ssl_hello", "awaiting ServerHello"),
    ],
)
def test_silence_says_what_was_awaited(scripted: Peers, probing: Make, type_: str, doing: str) -> None:
    def silent(sock: socket.socket) -> None:
        while sock.recv(1000):
            pass

    b = probing(scripted(silent), type=type_, timeout=0.05)
    b.until(lambda: b.state().fails > 0)
    assert b.record().why == f"timeout after 0.05 s {doing}"


@pytest.mark.parametrize("type_", ["ajp", "fastcgi", "grpc", "mysql", "postgres", "redis", "ssl_hello"])
def test_a_web_server_is_none_of_them(scripted: Peers, probing: Make, type_: str) -> None:
    def web(sock: socket.socket) -> None:
        if type_ != "mysql":
            sock.recv(1000)
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    b = probing(scripted(web), type=type_)
    b.until(lambda: b.state().fails > 0)
    assert b.record().why.startswith(("not ", "bad ", "the answer is HTTP/1.x"))


def test_a_unix_socket(scripted: Peers, probing: Make, tmp_path: Path) -> None:
    one = scripted(answering(b"+PONG\r\n"), family=socket.AF_UNIX, address=str(tmp_path / "redis.sock"))
    b = probing(one, type="redis")
    b.until(lambda: b.state().passes > 0)
    assert b.state().fails == 0
