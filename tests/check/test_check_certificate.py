"""What is read from certificates that OpenSSL refuses, and the words that are made of it."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upwell.check.certificate import Certificate, certificates
from upwell.check.secure import certificate_words, duration

TLS = Path(__file__).parent / "tls"


def der(name: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert((TLS / f"{name}-test-only.pem").read_text())


def length(data: bytes) -> bytes:
    return len(data).to_bytes(3, "big")


def message(*chain: bytes, tls13: bool) -> bytes:
    listed = b"".join(length(one) + one + (b"\0\0" if tls13 else b"") for one in chain)
    body = (b"\0" if tls13 else b"") + length(listed) + listed
    return b"\x0b" + length(body) + body


def test_a_certificate_is_read() -> None:
    good = Certificate(der("good"))
    assert good.names == ("app.test", "www.app.test", "*.app.test", "127.0.0.1")
    assert (good.subject, good.issuer) == ("app.test", "Test Authority")
    assert good.begins == datetime(2020, 1, 1, tzinfo=UTC).timestamp()
    assert good.ends == datetime(2126, 1, 1, tzinfo=UTC).timestamp()
    assert Certificate(der("named")).names == ("only.test",)


@pytest.mark.parametrize("tls13", [False, True])
def test_a_chain_is_read(tls13: bool) -> None:
    chain = certificates(message(der("good"), der("authority"), tls13=tls13), tls13)
    assert [one.subject for one in chain] == ["app.test", "Test Authority"]
    assert certificates(b"", tls13) == []
    assert certificates(message(b"0\x01", tls13=tls13), tls13) == []


@given(st.integers(0, 700), st.binary(max_size=40), st.booleans())
def test_no_nonsense_raises(cut: int, more: bytes, tls13: bool) -> None:
    data = message(der("good"), der("authority"), tls13=tls13)
    certificates(data[:cut] + more, tls13)
    certificates(data[:cut] + more + data[cut + len(more) :], tls13)


DAY = 86_400.0


@pytest.mark.parametrize(
    ("code", "after", "chain", "words"),
    [
        (10, 3.5 * DAY, ["expired"], "certificate expired 3 days ago"),
        (10, 1.1 * DAY, ["expired"], "certificate expired 1 day ago"),
        (10, 3 * DAY, ["good", "expired"], 'certificate of authority "app.test" expired 3 days ago'),
        (10, 3 * DAY, ["good"], "a certificate of the chain has expired"),
        (10, 3 * DAY, [], "certificate has expired"),
        (9, 0.0, ["early"], "certificate becomes valid only in 38351 days"),
        (9, 0.0, [], "certificate is not yet valid"),
        (62, 0.0, ["named"], "certificate is for only.test, not b.example"),
        (64, 0.0, [], "certificate is not for b.example"),
        (18, 0.0, [], "self-signed certificate"),
        (19, 0.0, [], "self-signed certificate in the chain"),
        (20, 0.0, ["good"], 'certificate signed by unknown authority "Test Authority"'),
        (21, 0.0, [], "certificate signed by unknown authority"),
        (23, 0.0, ["good"], "certificate not trusted: certificate revoked"),
    ],
)
def test_words(code: int, after: float, chain: list[str], words: str) -> None:
    now = datetime(2020, 1, 1, tzinfo=UTC).timestamp() + after
    read = [Certificate(der(name)) for name in chain]
    assert certificate_words(code, "certificate revoked", read, "b.example", now) == words


def test_words_fit_whatever_the_peer_wrote() -> None:
    one = Certificate(der("good"))
    one.names = ("x" * 5000, "\x00" * 500, *("y",) * 50)
    one.subject = one.issuer = "é" * 5000
    for code in (9, 10, 18, 19, 20, 62, 99):
        for now in (0.0, 1e10):
            assert len(certificate_words(code, "z" * 999, [one], "h" * 250, now).encode()) <= 246


def test_spans_of_time() -> None:
    spans = (0.4, 1.0, 59.9, 60.0, 7200.0, 86_400.0 * 400)
    assert [duration(span) for span in spans] == [
        "0 seconds",
        "1 second",
        "59 seconds",
        "1 minute",
        "2 hours",
        "400 days",
    ]
