"""`stream`: how connections with TLS end, each way by itself (`proxy_half_close on`) and by force; nothing is lost."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path

import pytest

from tests.system.conftest import StartBalancer
from tests.system.talkers import Talker, read_all, reset, trusting
from upwell.contrib.processes import await_condition, free_ports

TLS = Path(__file__).parents[1] / "check" / "tls"
CERTIFICATE = f"ssl_certificate {TLS}/good-test-only.pem; ssl_certificate_key {TLS}/leaf-test-only.key;"
_MUCH = 8 << 20


def _configuration(port: int, peer: int, more: str, listen: str = "") -> str:
    return f"""
error_log logs/error.log info;
events {{ }}
stream {{
    server {{ listen 127.0.0.1:{port} {listen}; proxy_pass 127.0.0.1:{peer}; {more} }}
}}
"""


def _trusting() -> ssl.SSLContext:
    return trusting(TLS / "authority-test-only.pem")


class Speaker:
    """A client whose TLS is told step by step: it may say its end, and read on."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 10)
        self._come = ssl.MemoryBIO()
        self._gone = ssl.MemoryBIO()
        self._tls = _trusting().wrap_bio(self._come, self._gone, server_hostname="app.test")
        while not self._tried(self._tls.do_handshake):
            self._hear()

    def _tried(self, step: object) -> bool:
        assert callable(step)
        try:
            step()
        except ssl.SSLWantReadError:
            return False
        finally:
            self.sock.sendall(self._gone.read())
        return True

    def _hear(self) -> None:
        data = self.sock.recv(65_536)
        if data:
            self._come.write(data)
        else:
            self._come.write_eof()

    def say(self, data: bytes) -> None:
        self._tls.write(data)
        self.sock.sendall(self._gone.read())

    def say_end(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self.sock.sendall(self._gone.read())

    def read_all(self) -> bytes:
        """Until the end is told by TLS. Raises ssl.SSLError where it is told by TCP alone."""
        told = b""
        while True:
            try:
                data = self._tls.read(65_536)
            except ssl.SSLWantReadError:
                self._hear()
                continue
            except ssl.SSLZeroReturnError:
                return told
            if not data:
                return told
            told += data


def test_what_a_client_sends_behind_the_end_of_its_peer_arrives(start: StartBalancer) -> None:
    """Much comes at the very moment at which the client is told of the end."""
    counts: list[int] = []

    def early(connection: socket.socket) -> None:
        first = connection.recv(65_536)
        connection.sendall(b"enough")
        connection.shutdown(socket.SHUT_WR)
        counts.append(len(first) + len(read_all(connection)))

    (front,) = free_ports(1)
    with Talker(early) as peer:
        start(_configuration(front, peer.port, f"{CERTIFICATE} proxy_half_close on;", "ssl"), [front])
        counts.clear()
        for _ in range(3):
            plain = socket.create_connection(("127.0.0.1", front), 10)
            with _trusting().wrap_socket(plain, server_hostname="app.test") as client:
                client.sendall(b"x" * _MUCH)
                client.shutdown(socket.SHUT_WR)
                read_all(client)  # who closes with something unread resets
        await_condition(lambda: len(counts) == 3, "the ends", 10)
        assert counts == [_MUCH] * 3


def test_what_a_peer_sends_behind_the_end_of_its_client_arrives(start: StartBalancer) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "good-test-only.pem", TLS / "leaf-test-only.key")

    def much(connection: socket.socket) -> None:
        connection.sendall(b"a" * _MUCH)
        read_all(connection)

    (front,) = free_ports(1)
    with Talker(much, context) as peer:
        start(_configuration(front, peer.port, "proxy_ssl on; proxy_half_close on;"), [front])
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", front), 10) as client:
                assert client.recv(1) == b"a"
                client.shutdown(socket.SHUT_WR)
                assert len(read_all(client)) == _MUCH - 1


def test_a_client_that_ends_first_is_told_by_tls_of_the_end_of_the_answer(start: StartBalancer) -> None:
    def counting(connection: socket.socket) -> None:
        connection.sendall(b"%d" % len(read_all(connection)))

    (front,) = free_ports(1)
    with Talker(counting) as peer:
        start(_configuration(front, peer.port, f"{CERTIFICATE} proxy_half_close on;", "ssl"), [front])
        client = Speaker(front)
        with client.sock:
            client.say(b"x" * 1000)
            client.say_end()
            assert client.read_all() == b"1000"


def test_a_client_that_ends_second_ends_well(start: StartBalancer) -> None:
    """Its end by TLS, behind that which it was told, is no fault, and the peer gets no RST for it."""
    told: list[bytes] = []
    ended = threading.Event()

    def early(connection: socket.socket) -> None:
        connection.sendall(b"hello")
        connection.shutdown(socket.SHUT_WR)
        ended.wait(10)
        told.append(read_all(connection))

    (front,) = free_ports(1)
    with Talker(early) as peer:
        balancer = start(_configuration(front, peer.port, f"{CERTIFICATE} proxy_half_close on;", "ssl"), [front])
        client = Speaker(front)
        with client.sock:
            assert client.read_all() == b"hello"
            client.say(b"x" * 1000)
            client.say_end()
            over = "bytes from/to client:1000/5"
            await_condition(lambda: over in balancer.error_log(), "the session over", 5)
            ended.set()
        await_condition(lambda: b"x" * 1000 in told, "all at the peer", 5)
        assert "SSL failed" not in balancer.error_log()


def test_a_reset_of_the_peer_is_not_told_as_an_end(start: StartBalancer) -> None:
    """By TLS a client knows for certain that all is there; it is not."""

    def resetting(connection: socket.socket) -> None:
        connection.recv(10)
        connection.sendall(b"some")
        reset(connection)

    (front,) = free_ports(1)
    with Talker(resetting) as peer:
        start(_configuration(front, peer.port, CERTIFICATE, "ssl"), [front])
        client = Speaker(front)
        with client.sock:
            client.say(b"x")
            with pytest.raises(OSError, match=r"reset|EOF"):
                client.read_all()
