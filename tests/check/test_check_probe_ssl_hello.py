"""The ssl_hello probe: its ClientHello is understood by a real TLS server of each version, and judged by the answer."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tests.check.talking import talk, told, why
from upwell.check.probes.ssl_hello import SslHelloProbe
from upwell.check.spec import TENGINE, CheckSpec

TLS = Path(__file__).parent / "tls"
HELLO = b"\x16\x03\x03\x00\x4a\x02\x00\x00\x46\x03\x03" + bytes(0x44)


def probe(host: str = "") -> SslHelloProbe:
    return SslHelloProbe(CheckSpec("u", "ssl_hello", host=host, dialect=TENGINE), "t:443")


def server(low: ssl.TLSVersion, high: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "test-only.pem", TLS / "test-only.key")
    context.minimum_version = low
    context.maximum_version = high
    return context


def answered(context: ssl.SSLContext, hello: bytes) -> tuple[bytes, ssl.SSLObject, ssl.MemoryBIO]:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(hello)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read(), tls, incoming


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("host", ["", "a.test", "127.0.0.1", "::1"])
def test_a_real_server_answers_and_is_told_the_end(version: ssl.TLSVersion, host: str) -> None:
    one = probe(host)
    first = one.open()
    named: list[str | None] = []
    context = server(version, version)
    context.sni_callback = lambda tls, name, context: named.append(name)
    answer, tls, incoming = answered(context, first)
    assert named == ["a.test" if host == "a.test" else None]
    verdict = told(one, answer)
    assert verdict.passed
    assert not one.finished
    # close_notify: the server sees a client that has changed its mind, no broken one.
    incoming.write(verdict.farewell)
    with pytest.raises(ssl.SSLError) as error:
        tls.do_handshake()
    assert isinstance(error.value, ssl.SSLZeroReturnError | ssl.SSLEOFError) or "CLOSE" in str(error.value).upper()


def test_an_alert_has_its_name() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # without a certificate
    outgoing, incoming = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    one = probe()
    first = one.open()
    incoming.write(first)
    with pytest.raises(ssl.SSLError):
        tls.do_handshake()
    assert why(one, outgoing.read()) == "tls: TLS alert handshake_failure"
    assert one.finished


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "closed: connection closed before ServerHello"),
        (HELLO[:10], "closed: connection closed before ServerHello"),
        (b"\x15\x03\x03\x00\x02\x02", "closed: connection closed before ServerHello"),
        (b"\x15\x03\x03\x00\x02\x02\xc8", "tls: TLS alert 200"),
        (b"\x15\x03\x03\x00\x03\x02\x28\x00", "protocol: TLS alert of 3 bytes, want 2"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", 'protocol: not TLS: the answer begins with "H"'),
        (b"\x16\x02\x00", "protocol: TLS record of version 2, want 3"),
        (b"\x16\x03\x03\x00\x04\x02\x00\x00\x00", "protocol: TLS handshake record of 4 bytes, too short or too long"),
        (b"\x16\x03\x03\xff\xff\x02\x00", "protocol: TLS handshake record of 65535 bytes, too short or too long"),
        (b"\x16\x03\x03\x00\x4a\x01\x00\x00", "protocol: TLS handshake message of type 1, want ServerHello (2)"),
        (HELLO[:6] + b"\xff" + HELLO[7:], "protocol: ServerHello of 16711750 bytes, too short or too long"),
        (HELLO[:9] + b"\x02" + HELLO[10:], "protocol: ServerHello of version 2.3, want 3.x"),
    ],
)
def test_each_way_to_fail(answer: bytes, words: str) -> None:
    one = probe()
    assert why(one, answer) == words
    assert one.finished


def test_the_record_is_a_whole_one() -> None:
    sent, verdict = talk(probe("a.test"), HELLO)
    assert verdict.passed
    assert sent[:3] == b"\x16\x03\x01"
    assert int.from_bytes(sent[3:5], "big") == len(sent) - 5
    assert int.from_bytes(sent[6:9], "big") == len(sent) - 9
