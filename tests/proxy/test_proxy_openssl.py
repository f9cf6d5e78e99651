"""OpenSSL by ctypes: what is proved before anything is used, tickets, verdicts; what is done where it is not there."""

from __future__ import annotations

import _ssl
import ctypes
import ctypes.util
import os
import ssl
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from upwell.errors import ConfigErrors
from upwell.modules.load import load
from upwell.proxy import openssl
from upwell.proxy.tls import NONE_SHOWN, ServerTls, TlsError, blame, client_verify, judge, server_context
from upwell.proxy.tls_variables import _decoded

TLS = Path(__file__).parents[1] / "check" / "tls"
DEEP = Path(__file__).parents[1] / "system" / "tls"
LEAF = (str(TLS / "good-test-only.pem"), str(TLS / "leaf-test-only.key"))
DEPTH_1 = (str(DEEP / "deep1-test-only.pem"), str(DEEP / "deep-test-only.key"))
PLAIN = ServerTls((LEAF,), frozenset(("tlsv1.2", "tlsv1.3")), "HIGH:!aNULL:!MD5")
ASKING = replace(PLAIN, verify="on", trusted=(str(TLS / "authority-test-only.pem"),))
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
KEYS = tuple(openssl.ticket_key(os.urandom(size)) for size in (80, 48, 80))


@pytest.fixture(autouse=True)
def _reached() -> None:
    assert openssl.unreachable() == "", "this Python's ssl is not one of those that upwell knows"


def _client(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, shown: tuple[str, str] | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    if shown is not None:
        context.load_cert_chain(*shown)
    return context


def _shake(
    server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a connection that is established and has carried something."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = server.wrap_bio(up, down, server_side=True)
    other = client.wrap_bio(down, up, session=session)
    shaking = {one, other}
    while shaking:
        for end in sorted(shaking, key=lambda end: end is one):
            try:
                end.do_handshake()
                shaking.discard(end)
            except ssl.SSLWantReadError:
                pass
    one.write(b"hello")
    assert other.read(9) == b"hello"
    return one, other


def _sealed(*keys: openssl.TicketKey, identity: bytes = b"one") -> ssl.SSLContext:
    context = server_context(PLAIN)
    openssl.set_ticket_keys(context, keys, identity)
    return context


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("made", "opening", "identity", "resumed"),
    [
        ((0,), (0,), b"one", True),
        ((1,), (1,), b"one", True),
        ((0, 1), (1, 0), b"one", True),
        ((1, 2), (0, 2, 1), b"one", True),
        ((0, 1), (1,), b"one", False),
        ((0,), (2,), b"one", False),
        ((0,), (0,), b"two", False),
    ],
)
def test_a_ticket_is_opened_by_who_has_its_key(
    version: ssl.TLSVersion, made: tuple[int, ...], opening: tuple[int, ...], identity: bytes, resumed: bool
) -> None:
    client = _client(version)
    session = _shake(_sealed(*(KEYS[at] for at in made)), client)[1].session
    again = _sealed(*(KEYS[at] for at in opening), identity=identity)
    server, other = _shake(again, client, session)
    assert (bool(server.session_reused), bool(other.session_reused)) == (resumed, resumed)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_wrong_signature_leaves_nothing_to_who_reads_next(version: ssl.TLSVersion, tmp_path: Path) -> None:
    """Of OpenSSL's errors there is one queue for all connections of a thread."""
    der = bytearray(ssl.PEM_cert_to_DER_cert((TLS / "good-test-only.pem").read_text()))
    der[-1] ^= 1
    forged = tmp_path / "forged.pem"
    forged.write_text(ssl.DER_cert_to_PEM_cert(bytes(der)))
    another, _ = _shake(server_context(PLAIN), _client())
    for reads_next in (None, another):
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = server_context(ASKING).wrap_bio(up, down, server_side=True)
        client = _client(version, (str(forged), LEAF[1])).wrap_bio(down, up)
        over = False
        while not over:
            with suppress(ssl.SSLWantReadError):
                client.do_handshake()
            with suppress(ssl.SSLWantReadError):
                server.do_handshake()  # the last that is done here
                over = True
        with pytest.raises(ssl.SSLWantReadError):
            (reads_next or server).read(1)
        assert judge(server, "on") == 7  # X509_V_ERR_CERT_SIGNATURE_FAILURE


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError])
def test_a_callback_that_fails_means_no_resumption(
    version: ssl.TLSVersion, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise error

    client = _client(version)
    session = _shake(_sealed(KEYS[0]), client)[1].session
    for step in ("_open", "_make"):
        monkeypatch.setattr(openssl._Sealer, step, fail)
        _, other = _shake(_sealed(KEYS[0]), client, session)
        assert not other.session_reused
    assert other.session is None or not other.session.has_ticket
    monkeypatch.undo()
    assert _shake(_sealed(KEYS[0]), client, session)[1].session_reused


def test_a_key_is_of_48_or_80_bytes_and_is_not_printed() -> None:
    data = bytes(range(80))
    long, short = openssl.ticket_key(data), openssl.ticket_key(data[:48])
    assert (long.name, long.hmac, long.aes) == (data[:16], data[16:48], data[48:])
    assert (short.name, short.aes, short.hmac) == (data[:16], data[16:32], data[32:48])
    assert repr(long) == f"TicketKey(name={data[:16]!r})"
    for size in (0, 47, 49, 79, 81):
        with pytest.raises(ValueError, match="must be 48 or 80 bytes"):
            openssl.ticket_key(bytes(size))


@pytest.mark.parametrize("version", VERSIONS)
def test_who_verifies_opens_only_tickets_of_who_verifies_alike(version: ssl.TLSVersion) -> None:
    keys = KEYS[:1]
    client = _client(version, LEAF)
    session = _shake(server_context(replace(ASKING, ticket_keys=keys)), client)[1].session
    for spec, resumed in (
        (ASKING, True),
        (replace(ASKING, verify="optional"), True),
        (replace(ASKING, depth=2), False),
        (replace(ASKING, kind="STREAM"), False),
        (replace(ASKING, trusted=(str(DEEP / "deep-authority-test-only.pem"),)), False),
        (PLAIN, False),
    ):
        server, _ = _shake(server_context(replace(spec, ticket_keys=keys)), client, session)
        assert bool(server.session_reused) == resumed, spec
    session = _shake(server_context(replace(PLAIN, ticket_keys=keys)), client)[1].session
    assert not _shake(server_context(replace(ASKING, ticket_keys=keys)), client, session)[1].session_reused


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("shown", "verify", "trouble", "said"),
    [
        (LEAF, "on", 0, "SUCCESS"),
        (None, "on", NONE_SHOWN, "NONE"),
        (None, "optional", 0, "NONE"),
        ((str(TLS / "expired-test-only.pem"), LEAF[1]), "optional_no_ca", 10, "FAILED:certificate has expired"),
        (DEPTH_1, "on", 20, "FAILED:unable to get local issuer certificate"),
        (DEPTH_1, "optional_no_ca", 0, "FAILED:unable to get local issuer certificate"),
    ],
)
def test_a_verdict_outlives_its_session(
    version: ssl.TLSVersion, shown: tuple[str, str] | None, verify: str, trouble: int, said: str
) -> None:
    context, client = server_context(replace(ASKING, verify=verify)), _client(version, shown)
    session = None
    for _ in range(3):
        server, other = _shake(context, client, session)
        assert bool(server.session_reused) == (session is not None)
        assert (judge(server, verify), client_verify(server)) == (trouble, said)
        session = other.session


@pytest.mark.parametrize("version", VERSIONS)
def test_a_chain_that_is_too_long_is_no_good(version: ssl.TLSVersion) -> None:
    trusted = (str(DEEP / "deep-authority-test-only.pem"),)
    client = _client(version, DEPTH_1)
    server, _ = _shake(server_context(replace(ASKING, trusted=trusted, depth=0)), client)
    # OpenSSL goes on after 22, and does without the authority that is one too many.
    assert blame(judge(server, "on")).startswith("client SSL certificate verify error: (20:")
    server, _ = _shake(server_context(replace(ASKING, trusted=trusted, depth=1)), client)
    assert judge(server, "on") == 0


def test_a_certificate_that_python_cannot_read_has_no_names(tmp_path: Path) -> None:
    """Its signature is no good either, but its variables may be in the log."""
    before, name, after = ssl.PEM_cert_to_DER_cert(_pem(TLS / "good-test-only.pem")).rpartition(b"app.test")
    odd = tmp_path / "odd.pem"
    odd.write_text(ssl.DER_cert_to_PEM_cert(before + bytes([0xFF]) * len(name) + after))
    server, _ = _shake(server_context(ASKING), _client(shown=(str(odd), LEAF[1])))
    with pytest.raises(UnicodeDecodeError):
        server.getpeercert()
    assert judge(server, "on") == 7
    assert _decoded(server) is None


def _pem(path: Path) -> str:
    text = path.read_text()
    return text[text.index("-----BEGIN") :].partition("-----END")[0] + "-----END CERTIFICATE-----\n"


def test_what_has_ended_has_no_good_verdict() -> None:
    server, _ = _shake(server_context(ASKING), _client(shown=LEAF))
    outer: Any = server
    outer._sslobj = None
    assert openssl.verdict(server) == 1


def test_the_names_of_authorities_are_told_to_clients() -> None:
    trusted = (str(DEEP / "deep-authority-test-only.pem"),)
    for shown in ("", *trusted):
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = _client(ssl.TLSVersion.TLSv1_2).wrap_bio(down, up)  # where they are in the clear
        server = server_context(replace(ASKING, trusted=trusted, shown=shown)).wrap_bio(up, down, server_side=True)
        for end in (client, server):
            with pytest.raises(ssl.SSLWantReadError):
                end.do_handshake()
        assert (b"Deep Authority" in down.read()) == bool(shown)


@pytest.mark.parametrize("version", VERSIONS)
def test_sessions_have_an_age(version: ssl.TLSVersion) -> None:
    client = _client(version)
    for seconds in (300, 7):
        session = _shake(server_context(replace(PLAIN, session_timeout=seconds)), client)[1].session
        assert session is not None
        assert session.ticket_lifetime_hint == seconds


# The proof


def test_what_is_not_mapped_is_not_followed() -> None:
    assert openssl._beginning(0) == ()
    assert openssl._beginning(16) == ()
    kept = (ctypes.c_void_p * 8)(*range(1, 9))
    assert openssl._beginning(ctypes.addressof(kept)) == tuple(range(1, 9))


@pytest.mark.parametrize("which", ["_CONTEXT_AT", "_SSL_AT"])
@pytest.mark.parametrize("off", [-8, 8, 16, 4096])
def test_another_layout_is_seen(which: str, off: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssl, which, getattr(openssl, which) + off)
    found = openssl._reach.__wrapped__()
    assert isinstance(found, str)
    assert "not laid out as known" in found


def test_another_python_is_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssl, "_KNOWN", ())
    monkeypatch.setattr(openssl, "_Library", None)
    found = openssl._reach.__wrapped__()
    assert isinstance(found, str)
    assert found.endswith("keeps OpenSSL is not known")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("__file__", ctypes.util.find_library("c"), "the OpenSSL of Python's ssl shows no OpenSSL_version_num"),
        ("__file__", "/none.so", "Python's _ssl cannot be opened"),
    ],
)
def test_an_openssl_within_python_is_a_reason(
    name: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_ssl, name, value)
    found = openssl._reach.__wrapped__()
    assert isinstance(found, str)
    assert found.startswith(reason)


# Where it cannot be reached


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssl, "_reach", lambda: "the OpenSSL of Python's ssl shows no SSL_CTX_set_verify")


@pytest.mark.usefixtures("hidden")
@pytest.mark.parametrize("version", VERSIONS)
def test_without_it_a_bad_certificate_ends_the_handshake(version: ssl.TLSVersion) -> None:
    trusted = (str(DEEP / "deep-authority-test-only.pem"),)
    context = server_context(replace(ASKING, trusted=trusted, depth=0))
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate chain too long"):
        _shake(context, _client(version, DEPTH_1))
    with pytest.raises(ssl.SSLError):
        _shake(context, _client(version, LEAF))
    server, _ = _shake(context, _client(version))
    assert judge(server, "on") == NONE_SHOWN
    server, _ = _shake(server_context(ASKING), _client(version, LEAF))
    assert (judge(server, "on"), client_verify(server)) == (0, "SUCCESS")
    with pytest.raises(ssl.SSLError, match=r"(?i)peer[_ ]did[_ ]not[_ ]return"):
        _shake(server_context(replace(ASKING, kind="STREAM")), _client(version))


@pytest.mark.usefixtures("hidden")
def test_without_it_there_is_one_curve() -> None:
    server, _ = _shake(server_context(replace(PLAIN, curve="secp384r1")), _client())
    assert server.version() == "TLSv1.3"
    for curve, why in (("X25519:secp384r1", "Python's ssl takes one curve"), ("none", 'there is no curve "none"')):
        with pytest.raises(TlsError, match=why):
            server_context(replace(PLAIN, curve=curve))
    with pytest.raises(TlsError, match="shows no SSL_CTX_set_verify"):
        server_context(replace(PLAIN, commands=(("Ciphersuites", "TLS_AES_128_GCM_SHA256"),)))


@pytest.mark.usefixtures("hidden")
def test_without_it_some_words_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "nginx.conf"
    path.write_text("events {}\nhttp {\n ssl_session_ticket_key x;\n ssl_verify_client optional_no_ca;\n}\n")
    with pytest.raises(ConfigErrors) as caught:
        load(str(path), str(tmp_path))
    why = "the OpenSSL of Python's ssl shows no SSL_CTX_set_verify"
    assert [str(error).replace(str(path), "") for error in caught.value.errors] == [
        f'"ssl_session_ticket_key" is not supported by upwell here: {why} in :3:25',
        f'"ssl_verify_client optional_no_ca" is not supported by upwell here: {why} in :4:20',
    ]
