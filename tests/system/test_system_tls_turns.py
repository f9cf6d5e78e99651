"""Many TLS connections of one worker at once, each in another state: OpenSSL's words go out through one memory for all,
and nobody may get what is another's.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.system.conftest import StartBalancer
from tests.system.talkers import trusting
from tests.system.wire import Client
from upwell.contrib.processes import free_ports

TLS = Path(__file__).parents[1] / "check" / "tls"
MUCH = hashlib.shake_128(b"much").digest(3 << 20)
OPENSSL = shutil.which("openssl")
RECEIVED = 16_384  # what the system keeps for a reader who does not read

CONFIGURATION = """
worker_processes 1;
events {{}}
http {{
    access_log off;
    client_max_body_size 16m;
    ssl_certificate {tls}/good-test-only.pem;
    ssl_certificate_key {tls}/leaf-test-only.key;
    server {{
        listen 127.0.0.1:{front} ssl;
        {record}
        location / {{ proxy_pass http://127.0.0.1:{back}; proxy_http_version 1.1; }}
        location /name {{ return 200 $arg_name; }}
    }}
    server {{
        listen 127.0.0.1:{back};
        root files;
        location /took {{ client_body_in_single_buffer on; return 200 $content_length; }}
    }}
}}
"""


@pytest.fixture(params=["", "ssl_buffer_size 1k;"], scope="module", ids=["16k", "1k"])
def port(request: pytest.FixtureRequest, start_shared: StartBalancer) -> int:
    front, back = free_ports(2)
    text = CONFIGURATION.format(tls=TLS, front=front, back=back, record=request.param)
    files = start_shared(text, [front, back]).prefix / "files"
    files.mkdir()
    files.chmod(0o755)  # for workers of a master that is root, as the file
    (files / "much").write_bytes(MUCH)
    (files / "much").chmod(0o644)
    return front


def _context() -> ssl.SSLContext:
    context = trusting(TLS / "authority-test-only.pem")
    context.check_hostname = False
    return context


class _Inside:
    """A client that turns the handshake's steps itself."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = _context().wrap_bio(self._incoming, self._outgoing)

    def __enter__(self) -> _Inside:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def say(self) -> None:
        self.socket.sendall(self._outgoing.read())

    def hear(self) -> None:
        data = self.socket.recv(65_536)
        assert data
        self._incoming.write(data)

    def step(self) -> bool:
        """Whether the handshake is over."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def ask(self, name: str) -> bytes:
        self.tls.write(_get(f"/name?name={name}"))
        self.say()
        while True:
            try:
                return self.tls.read(65_536)
            except ssl.SSLWantReadError:
                self.hear()


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode()


def _secured(port: int, received: int = 0) -> Client:
    client = Client(port)
    if received:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, received)
    client.socket = _context().wrap_socket(client.socket, server_hostname="a.test")
    return client


def test_each_gets_what_is_his(port: int) -> None:
    with _Inside(port) as shaking, _Inside(port) as broken, _secured(port, RECEIVED) as slow, _secured(port) as quick:
        slow.send(_get("/much"))  # and reads nothing of it yet
        assert quick.ask(_get("/name?name=a")).body == b"a"
        assert not shaking.step()
        shaking.say()
        shaking.hear()  # the server's part is out
        assert quick.ask(_get("/name?name=b")).body == b"b"
        while not broken.step():
            broken.say()
            broken.hear()
        broken.say()
        assert broken.ask("c").endswith(b"c")
        broken.socket.sendall(b"\x17\x03\x03\x00\x20" + b"\0" * 32)  # no record of these keys
        with pytest.raises(ssl.SSLError) as told:  # noqa: PT012  # whether in one piece or more
            while True:
                broken.hear()
                with contextlib.suppress(ssl.SSLWantReadError):
                    broken.tls.read()
        assert "alert" in str(told.value).lower()
        assert quick.ask(_get("/name?name=d")).body == b"d"
        while not shaking.step():
            shaking.say()
            shaking.hear()
        assert shaking.ask("e").endswith(b"e")
        quick.send(_get("/much"))
        assert quick.answer().body == MUCH
        answer = slow.answer()
        assert (answer.status, answer.body) == (200, MUCH)


def test_a_large_body_comes_through_whole(port: int) -> None:
    with _secured(port) as client:
        for _ in range(2):
            head = f"POST /took HTTP/1.1\r\nHost: a.test\r\nContent-Length: {len(MUCH)}\r\n\r\n".encode()
            assert client.ask(head + MUCH).body == str(len(MUCH)).encode()


@pytest.mark.skipif(OPENSSL is None, reason="openssl's client asks for new keys, which Python's cannot")
def test_new_keys_are_taken_and_given(port: int) -> None:
    """`K` has s_client take new keys and ask the server for the same (RFC 8446, 4.6.3)."""
    assert OPENSSL is not None
    command = [OPENSSL, "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3", "-msg", "-servername", "a.test"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        heard = b""

        def until(word: bytes) -> None:
            nonlocal heard
            while word not in heard:
                piece = client.stdout.read1(65_536)  # type: ignore[union-attr]  # asserted above
                assert piece, heard[-2000:]
                heard += piece
            heard = heard.partition(word)[2]

        try:
            until(b"read R BLOCK")
            for name in (b"first", b"second"):
                client.stdin.write(b"K\n")
                client.stdin.flush()
                until(b">>> TLS 1.3, Handshake [length 0005], KeyUpdate")
                client.stdin.write(b"GET /name?name=%s HTTP/1.1\r\nHost: a.test\r\n\r\n" % name)
                client.stdin.flush()
                until(b"<<< TLS 1.3, Handshake [length 0005], KeyUpdate")  # with the answer, as OpenSSL does it
                until(b"\r\n\r\n" + name)
        finally:
            client.kill()
