"""OpenSSL's configuration commands: what they do to a context, and which are refused."""

from __future__ import annotations

import ssl

import pytest

from upwell.proxy.tls_commands import CommandError, configure


def _context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


@pytest.mark.parametrize(
    ("value", "bits", "there"),
    [
        ("-SessionTicket", ssl.OP_NO_TICKET, True),
        ("SessionTicket", ssl.OP_NO_TICKET, False),
        ("ServerPreference", ssl.OP_CIPHER_SERVER_PREFERENCE, True),
        ("-ServerPreference", ssl.OP_CIPHER_SERVER_PREFERENCE, False),
        ("prioritizechacha,+NoRenegotiation", 1 << 21 | ssl.OP_NO_RENEGOTIATION, True),
        ("-Compression", ssl.OP_NO_COMPRESSION, True),
        ("-MiddleboxCompat", ssl.OP_ENABLE_MIDDLEBOX_COMPAT, False),
        ("KTLS", 1 << 3, False),
    ],
)
def test_options_are_set_and_taken_away(value: str, bits: int, there: bool) -> None:
    context = _context()
    configure(context, "Options", value)
    assert context.options & bits == (bits if there else 0)


def test_protocols_ciphers_and_curves_are_set() -> None:
    context = _context()
    configure(context, "MinProtocol", "TLSv1.3")
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    configure(context, "minprotocol", "TLSv1.2")
    configure(context, "MaxProtocol", "TLSv1.2")
    assert context.maximum_version == ssl.TLSVersion.TLSv1_2
    configure(context, "CipherString", "ECDHE-RSA-AES256-GCM-SHA384")
    assert "ECDHE-RSA-AES256-GCM-SHA384" in [one["name"] for one in context.get_ciphers()]
    configure(context, "Groups", "prime256v1")
    configure(context, "Curves", "X25519:P-256")
    configure(context, "Ciphersuites", "TLS_CHACHA20_POLY1305_SHA256")
    assert [one["name"] for one in context.get_ciphers() if one["protocol"] == "TLSv1.3"] == [
        "TLS_CHACHA20_POLY1305_SHA256"
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Options", "Compression"),
        ("Options", "ClientRenegotiation"),
        ("Options", "UnsafeLegacyRenegotiation"),
        ("Options", ""),
        ("MinProtocol", "TLSv1"),
        ("MinProtocol", "None"),
        ("CipherString", "none-such"),
        ("Groups", "none-such"),
        ("Groups", "X25519:none-such"),
        ("Ciphersuites", "TLS_NONE_SUCH"),
        ("DHParameters", "/nonexistent"),
        ("VerifyMode", "Peer"),
        ("NoSuch", "x"),
    ],
)
def test_what_cannot_be_done_or_is_not_safe_is_refused(name: str, value: str) -> None:
    with pytest.raises(CommandError):
        configure(_context(), name, value)
