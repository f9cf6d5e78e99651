"""The https probe against a TLS server in memory: no socket, no port."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upwell.check.probe import Verdict
from upwell.check.probes.https import HttpsProbe
from upwell.check.spec import PLUS, CheckSpec

TLS = Path(__file__).parent / "tls"
TRUSTED = str(TLS / "test-only.pem")
REQUEST = b"GET / HTTP/1.0\r\n\r\n"


class Server:
    """The other end: answers `content` as soon as a request has come."""

    def __init__(self, content: bytes) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS / "test-only.pem", TLS / "test-only.key")
        self.names: list[str | None] = []
        context.sni_callback = lambda _socket, name, _context: self.names.append(name)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.content = content
        self.asked = b""
        self.done = False

    def exchange(self, data: bytes) -> bytes:
        self.incoming.write(data)
        try:
            if not self.done:
                self.tls.do_handshake()
                self.done = True
            self.asked += self.tls.read(4096)
            self.tls.write(self.content)
        except ssl.SSLError:
            pass
        return self.outgoing.read()


def converse(probe: HttpsProbe, server: Server) -> Verdict:
    answer = probe.open()
    for _ in range(10):
        if isinstance(answer, Verdict):
            return answer
        answer = probe.feed(server.exchange(answer))
    raise AssertionError("no verdict")


def sentence(answer: bytes | Verdict) -> str:
    assert isinstance(answer, Verdict)
    assert not answer.passed
    assert answer.why
    return answer.sentence


def spec(host: str = "", verify: bool = False, ca: str = "") -> CheckSpec:
    return CheckSpec("u", "https", REQUEST, statuses=(200,), host=host, verify=verify, ca=ca)


def test_the_request_goes_through_tls_and_the_line_decides() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\n\r\n")
    probe = HttpsProbe(spec(host="app.test"), "app:1")
    assert converse(probe, server)[:5] == Verdict(True, status=200)[:5]
    assert server.asked == REQUEST
    assert server.names == ["app.test"]
    bad = HttpsProbe(spec(), "app:1")
    refusing = Server(b"HTTP/1.1 500 Oops\r\n\r\n")
    assert converse(bad, refusing).sentence == "bad status code from app:1: 500"
    assert refusing.names == [None]


def test_a_probe_is_used_again() -> None:
    probe = HttpsProbe(spec(), "app:1")
    for _ in range(2):
        assert converse(probe, Server(b"HTTP/1.1 200 OK\r\n\r\n")).passed


def test_an_unknown_authority_is_refused_when_verifying() -> None:
    probe = HttpsProbe(spec(host="app.test", verify=True), "app:1")
    verdict = converse(probe, Server(b"HTTP/1.1 200 OK\r\n\r\n"))
    assert sentence(verdict) == "failed to ssl handshake to app:1: 18: self-signed certificate"
    assert probe.finished


def test_a_trusted_certificate_passes_and_its_name_counts_only_with_a_host() -> None:
    for host in ("app.test", ""):
        probe = HttpsProbe(spec(host=host, verify=True, ca=TRUSTED), "app:1")
        assert converse(probe, Server(b"HTTP/1.1 200 OK\r\n\r\n")).passed
    other = HttpsProbe(spec(host="other.test", verify=True, ca=TRUSTED), "app:1")
    verdict = converse(other, Server(b"HTTP/1.1 200 OK\r\n\r\n"))
    assert sentence(verdict) == "failed to ssl handshake to app:1: certificate host mismatch"


@pytest.mark.parametrize("answer", [b"HTTP/1.0 400 Bad Request\r\n\r\n", b""])
def test_a_peer_without_tls_fails_the_handshake(answer: bytes) -> None:
    probe = HttpsProbe(spec(), "app:1")
    assert isinstance(probe.open(), bytes)
    assert probe.receiving == "failed to ssl handshake to"
    assert sentence(probe.feed(answer)) == "failed to ssl handshake to app:1: handshake failed"


def test_an_end_after_the_handshake_is_closed() -> None:
    server = Server(b"")
    probe = HttpsProbe(spec(), "app:1")
    answer = probe.open()
    assert isinstance(answer, bytes)
    answer = probe.feed(server.exchange(answer))
    assert isinstance(answer, bytes)
    assert probe.receiving == "failed to receive status line from"
    assert sentence(probe.feed(b"")) == "failed to receive status line from app:1: closed"


@pytest.mark.parametrize("host", ["app.test", "other.test"])
@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 400))
def test_any_split_of_the_peer_s_bytes_gives_the_same_verdict(host: str, size: int) -> None:
    """Over TLS 1.3 with content behind the verdict, on a new and then on the kept connection."""
    content = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall is OK"
    check = CheckSpec("u", "https", REQUEST.replace(b"1.0", b"1.1"), dialect=PLUS, host=host, ca=TRUSTED)
    probe = HttpsProbe(check, "app:1")
    server = Server(content)
    for number in range(3):
        answer = probe.open() if number == 0 else probe.again()
        verdict = None
        sent = b""
        while isinstance(answer, bytes) and (answer or sent):
            if answer:
                sent += server.exchange(answer)
            piece, sent = sent[:size], sent[size:]
            answer = probe.feed(piece)
            if isinstance(answer, Verdict):
                verdict = answer
        for at in range(0, len(sent), size):
            assert not probe.finished or host != "app.test"
            probe.drain(sent[at : at + size])
        assert verdict is not None
        if host != "app.test":
            assert verdict.why == "certificate is for app.test, not other.test"
            assert verdict.farewell  # the alert
            return
        assert verdict == Verdict(True, status=200)
        assert (probe.finished, probe.reusable) == (True, True)
