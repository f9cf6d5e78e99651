"""https checks through the checker, over real sockets and real TLS: what is trusted, and what is wrong in words."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.check.scripted import Scripted, answering
from tests.check.test_check_checker import Bench, Benches, bench
from tests.check.test_check_talk_http import check, count
from upwell.check.secure import TlsFileError, read_tls_files
from upwell.check.spec import PLUS, RESTY, CheckSpec

__all__ = ["bench"]  # a fixture, used by name

Peers = Callable[..., Scripted]
TLS = Path(__file__).parent / "tls"
AUTHORITY = str(TLS / "authority-test-only.pem")
OWN = {"certificate": str(TLS / "good-test-only.pem"), "certificate_key": str(TLS / "leaf-test-only.key")}
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"

versions = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


def serving(certificate: str = "good", version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if certificate == "self-signed":
        context.load_cert_chain(TLS / "test-only.pem", TLS / "test-only.key")
    else:
        context.load_cert_chain(TLS / f"{certificate}-test-only.pem", TLS / "leaf-test-only.key")
    context.minimum_version = context.maximum_version = version
    return context


def trusted(**changes: object) -> dict[str, object]:
    return {"type": "https", "host": "app.test", "ca": AUTHORITY, **changes}


def why(b: Bench) -> str:
    """Why the first failure was one."""
    b.until(lambda: count(b)[1] > 0)
    found = [re.search(r"in upstream \"u\": (.*) \((?:https|tls)\)$", line) for line in b.lines()]
    return next(one[1] for one in found if one)


@versions
def test_a_trusted_peer_passes_over_new_and_kept_connections(
    scripted: Peers, bench: Benches, version: ssl.TLSVersion
) -> None:
    for keep in (0.0, 60.0):
        one = scripted(answering(GOOD), serving(version=version))
        b = bench(one.spec)
        check(b, **trusted(keepalive_time=keep))
        b.until(lambda: count(b)[0] == 4)  # noqa: B023  # over before the next round
        assert count(b)[1] == 0
        assert (one.connections == 1) is (keep > 0)
        assert one.resets == 0


@versions
@pytest.mark.parametrize(
    ("certificate", "changes", "words"),
    [
        ("self-signed", {}, "self-signed certificate"),
        ("self-signed", {"ca": ""}, "self-signed certificate"),
        ("good", {"ca": str(TLS / "test-only.pem")}, 'certificate signed by unknown authority "Test Authority"'),
        ("good", {"host": "b.example"}, "certificate is for app.test, www.app.test and 2 more, not b.example"),
        ("named", {"host": "b.example"}, "certificate is for only.test, not b.example"),
        ("expired", {}, r"certificate expired \d{4,} days ago"),
        ("early", {}, r"certificate becomes valid only in \d{5,} days"),
    ],
)
def test_what_is_wrong_with_a_certificate_is_told(
    scripted: Peers,
    bench: Benches,
    certificate: str,
    changes: dict[str, object],
    words: str,
    version: ssl.TLSVersion,
) -> None:
    one = scripted(answering(GOOD), serving(certificate, version))
    b = bench(one.spec)
    check(b, **trusted(**changes))
    assert re.fullmatch(words, why(b))
    assert count(b)[0] == 0


@pytest.mark.parametrize("certificate", ["self-signed", "expired", "early", "named"])
def test_without_verification_any_certificate_will_do(scripted: Peers, bench: Benches, certificate: str) -> None:
    one = scripted(answering(GOOD), serving(certificate))
    b = bench(one.spec)
    check(b, **trusted(verify=False))
    b.until(lambda: count(b)[0] == 2)
    assert count(b)[1] == 0


@pytest.mark.parametrize("host", ["app.test", "x.app.test", "127.0.0.1", ""])
def test_the_names_that_a_certificate_is_for(scripted: Peers, bench: Benches, host: str) -> None:
    context = serving()
    asked: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    one = scripted(answering(GOOD), context)
    b = bench(one.spec)
    check(b, **trusted(host=host))
    b.until(lambda: count(b)[0] == 1)
    assert asked[0] == (host if "app" in host else None)


def test_the_answer_inside_counts(scripted: Peers, bench: Benches) -> None:
    one = scripted(answering(BUSY), serving())
    b = bench(one.spec)
    check(b, **trusted())
    assert why(b) == "status 503, want 200-399"


def test_lua_resty_keeps_its_sentences(scripted: Peers, bench: Benches) -> None:
    one = scripted(answering(BUSY), serving())
    name = one.spec.name
    for changes, words in (
        ({"statuses": (200,)}, f"bad status code from {name}: 503"),
        ({"host": "b.example"}, f"failed to ssl handshake to {name}: certificate host mismatch"),
        ({"ca": ""}, f"failed to ssl handshake to {name}: 20: unable to get local issuer certificate"),
    ):
        b = bench(one.spec)
        check(b, **trusted(dialect=RESTY, **changes))
        b.until(lambda: count(b)[1] > 0)  # noqa: B023  # over before the next round
        assert b.logged(f"error: healthcheck: {words}")


@versions
def test_a_peer_that_wants_a_certificate(scripted: Peers, bench: Benches, version: ssl.TLSVersion) -> None:
    """With TLS 1.3 it says so only after the handshake."""
    context = serving(version=version)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(AUTHORITY)
    one = scripted(answering(GOOD), context)
    for type_ in ("https", "tls"):
        b = bench(one.spec)
        check(b, **trusted(type=type_, request=b"", **OWN))
        b.until(lambda: count(b)[0] == 2)  # noqa: B023  # over before the next round
        assert count(b)[1] == 0
        b = bench(one.spec)
        check(b, **trusted(type=type_, request=b""))
        assert why(b) == "peer asked for a certificate"
    stranger = {"certificate": str(TLS / "test-only.pem"), "certificate_key": str(TLS / "test-only.key")}
    b = bench(one.spec)
    check(b, **trusted(**stranger))
    assert why(b) == "peer refused the certificate: unknown ca"


def test_a_peer_that_would_like_a_certificate_passes_without(scripted: Peers, bench: Benches) -> None:
    context = serving()
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(AUTHORITY)
    one = scripted(answering(GOOD), context)
    for type_ in ("https", "tls"):
        b = bench(one.spec)
        check(b, **trusted(type=type_, request=b""))
        b.until(lambda: count(b)[0] == 2)  # noqa: B023  # over before the next round
        assert count(b)[1] == 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "TLS handshake failed: wrong version number"),
        (b"", "TLS handshake failed: connection closed"),
        (b"\x15\x03\x03\x00\x02\x02\x28", 'TLS handshake failed: peer said "handshake failure"'),
        (b"\x15\x03\x03\x00\x02\x02\x70", 'TLS handshake failed: peer does not know "app.test"'),
    ],
)
def test_a_handshake_that_fails(scripted: Peers, bench: Benches, answer: bytes, words: str) -> None:
    one = scripted(answering(answer, kept=False))
    b = bench(one.spec)
    check(b, **trusted())
    assert why(b) == words


def test_versions_that_do_not_meet(scripted: Peers, bench: Benches) -> None:
    context = serving(version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("ECDHE-RSA-AES128-SHA256")  # not with its key
    one = scripted(answering(GOOD), context)
    b = bench(one.spec)
    check(b, **trusted())
    assert why(b) == 'TLS handshake failed: peer said "handshake failure"'


def test_a_silent_peer_times_out_in_the_handshake(scripted: Peers, bench: Benches) -> None:
    def script(sock: socket.socket) -> None:
        while sock.recv(65536):
            pass

    one = scripted(script)
    b = bench(one.spec)
    check(b, **trusted(timeout=0.1))
    assert why(b) == "timeout after 0.1 s in the TLS handshake"


def test_a_certificate_that_is_renewed_is_seen_at_the_next_probe(scripted: Peers, bench: Benches) -> None:
    context = serving("expired")
    one = scripted(answering(GOOD), context)
    b = bench(one.spec)
    check(b, **trusted())
    assert "expired" in why(b)
    context.load_cert_chain(TLS / "good-test-only.pem", TLS / "leaf-test-only.key")
    b.until(lambda: count(b)[0] == 3)
    one.tls = serving("expired")
    fails = count(b)[1]
    b.until(lambda: count(b)[1] > fails)


def test_the_peer_is_told_when_all_is_said(scripted: Peers, bench: Benches) -> None:
    """The end of a TLS connection is said, so that peers do not log a connection that was cut."""
    ends: list[bytes] = []

    def script(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(GOOD)
        ends.append(sock.recv(65536))  # raises SSLEOFError at an end that was not said

    one = scripted(script, serving())
    b = bench(one.spec)
    check(b, **trusted())
    b.until(lambda: len(ends) >= 2)
    assert set(ends) == {b""}


def test_content_in_many_records_is_read_to_its_end(scripted: Peers, bench: Benches) -> None:
    size = 300_000
    one = scripted(answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size), serving())
    b = bench(one.spec)
    check(b, **trusted(keepalive_time=60.0, interval=0.2))
    b.until(lambda: count(b)[0] == 3)
    assert (count(b)[1], one.connections, one.resets) == (0, 1, 0)


@versions
@pytest.mark.parametrize("said", [True, False])
def test_a_kept_connection_that_ends_under_the_question_is_no_failure(
    scripted: Peers, bench: Benches, version: ssl.TLSVersion, said: bool
) -> None:
    def script(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        sock.recv(65536)
        sock.sendall(GOOD)
        sock.recv(65536)
        if said:
            sock.unwrap()

    one = scripted(script, serving(version=version))
    b = bench(one.spec)
    check(b, **trusted(keepalive_time=60.0))
    b.until(lambda: count(b)[0] == 5)
    assert count(b)[1] == 0
    assert one.connections >= 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ca": "/nowhere/ca.pem"}, 'open() "/nowhere/ca.pem" failed (2: No such file or directory)'),
        ({"ca": str(TLS / "test-only.key")}, f'cannot load certificate "{TLS}/test-only.key": there is none in it'),
        ({"certificate": "/nowhere/x.pem"}, 'open() "/nowhere/x.pem" failed (2: No such file or directory)'),
        ({"certificate": AUTHORITY, "certificate_key": "/nowhere/k"}, 'open() "/nowhere/k" failed (2: '),
        (
            {**OWN, "certificate_key": str(TLS / "test-only.key")},
            f'cannot load certificate "{OWN["certificate"]}": the key "{TLS}/test-only.key" does not belong to it',
        ),
        ({**OWN, "certificate_key": str(TLS / "encrypted-test-only.key")}, "certificate_key is encrypted"),
        (
            {"certificate": str(TLS / "leaf-test-only.key")},
            f'cannot load certificate "{TLS}/leaf-test-only.key": no certificate in it, or no key in ',
        ),
        ({"certificate_key": str(TLS / "leaf-test-only.key")}, "certificate_key without certificate"),
    ],
)
def test_files_that_cannot_be_used_are_refused_at_once(
    scripted: Peers, bench: Benches, changes: dict[str, object], words: str
) -> None:
    one = scripted(answering(GOOD), serving())
    b = bench(one.spec)
    with pytest.raises(ValueError, match="^" + re.escape(words)):
        check(b, **trusted(**changes))


def test_files_that_were_read_with_the_configuration_are_not_needed_again(
    scripted: Peers, bench: Benches, tmp_path: Path
) -> None:
    """The checker may be a user that must not read them; and a reload reads them anew."""
    ca = tmp_path / "ca.pem"
    ca.write_bytes((TLS / "authority-test-only.pem").read_bytes())
    one = scripted(answering(GOOD), serving())
    spec = CheckSpec("u", "https", host="app.test", ca=str(ca), dialect=PLUS)
    read_tls_files(spec)
    ca.write_bytes((TLS / "test-only.pem").read_bytes())
    b = bench(one.spec)
    check(b, **trusted(ca=str(ca)))
    b.until(lambda: count(b)[0] == 1)
    read_tls_files(spec)
    ca.unlink()
    b = bench(one.spec)
    check(b, **trusted(ca=str(ca)))
    assert "unknown authority" in why(b)
    with pytest.raises(TlsFileError) as caught:
        read_tls_files(spec)
    assert caught.value.field == "ca"
