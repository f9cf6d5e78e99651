"""What a TLS client asks for, read from its first bytes: as OpenSSL reads it, whole or in pieces, never by a guess."""

from __future__ import annotations

import ssl
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upwell.proxy.client_hello import Hello, Offers
from upwell.proxy.server_hello import group_of

TLS = Path(__file__).parents[1] / "check" / "tls"


@cache
def _said(name: str | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """The first bytes of OpenSSL's own client."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


@cache
def _server() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "good-test-only.pem", TLS / "leaf-test-only.key")
    return context


def _heard(data: bytes) -> str | None:
    """The name that OpenSSL's server reads in `data`."""
    names: list[str | None] = []
    context = _server()
    context.sni_callback = lambda _tls, name, _context: names.append(name)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(data)
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    with pytest.raises(ssl.SSLError):
        server.do_handshake()
    return names[0] if names else None


def _read(data: bytes) -> Hello:
    hello = Hello()
    hello.feed(data)
    return hello


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["a.test", "x" * 60 + ".example", None])
def test_the_name_is_read(name: str | None, version: ssl.TLSVersion) -> None:
    hello = _read(_said(name, version))
    assert hello.complete
    assert hello.name == (name or "").encode()


@given(st.integers(1, 600))
def test_it_may_come_in_pieces(size: int) -> None:
    data = _said("pieces.test")
    hello = Hello()
    for at in range(0, len(data), size):
        assert not hello.complete
        hello.feed(data[at : at + size])
    assert hello.complete
    assert hello.name == b"pieces.test"
    assert hello.data == data


@given(st.integers(1, 600))
def test_it_may_be_in_several_records(size: int) -> None:
    whole = _said("records.test")
    message = whole[5:]
    data = b"".join(
        b"\x16\x03\x01" + len(message[at : at + size]).to_bytes(2, "big") + message[at : at + size]
        for at in range(0, len(message), size)
    )
    assert _read(data).name == b"records.test"


# A name that is not ASCII raises in Python's own callback, where nobody but that warning sees it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@given(st.data())
def test_a_change_in_one_place_never_gives_another_name_than_openssl_reads(data: st.DataObject) -> None:
    said = bytearray(_said("changed.test"))
    said[data.draw(st.integers(0, len(said) - 1))] = data.draw(st.integers(0, 255))
    hello = _read(bytes(said))
    heard = _heard(bytes(said))
    if heard is not None:
        assert hello.complete
        assert hello.name in (heard.encode(), b"")


@given(st.binary(max_size=200))
def test_strangers_bytes_raise_nothing(data: bytes) -> None:
    hello = _read(data)
    assert hello.name == b"" or hello.complete


@given(st.binary(max_size=300))
def test_nor_do_they_as_extensions(data: bytes) -> None:
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\2\x13\x01" + b"\1\0" + data
    message = b"\1" + len(body).to_bytes(3, "big") + body
    assert _read(b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message).complete


def test_who_never_comes_to_an_end_is_left_to_openssl() -> None:
    hello = Hello()
    piece = b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + bytes(0x4000 - 4)
    for _ in range(5):
        hello.feed(piece)
    assert hello.complete
    assert hello.name == b""


def test_bytes_that_come_one_by_one_in_tiny_records_are_read_once() -> None:
    # Were all records read again for each piece, this would take minutes (and so would a client take the worker's).
    hello = Hello()
    head = b"".join(b"\x16\x03\x01\x00\x01" + bytes((byte,)) for byte in b"\x01\x00\xff\xf0")
    data = (head + b"\x16\x03\x01\x00\x01\x00" * 11_000)[: 1 << 16]
    for at in range(len(data)):
        hello.feed(data[at : at + 1])
    before = hello.complete
    hello.feed(b"\x16")
    assert (before, hello.complete) == (False, True)
    assert (hello.name, len(hello.data)) == (b"", len(data) + 1)


def test_what_else_is_offered_is_told_by_number() -> None:
    offers = Offers(_said("a.test", ssl.TLSVersion.TLSv1_2))
    assert 0xC02B in offers.ciphers
    assert 0x1301 not in offers.ciphers
    assert offers.groups[:2] == [0x1D, 0x17]
    assert 0x1301 in Offers(_said("a.test")).ciphers


@given(st.integers(0, 600), st.integers(0, 600), st.integers(0, 255))
def test_nonsense_offers_nothing_and_raises_nothing(end: int, at: int, byte: int) -> None:
    said = bytearray(_said("a.test"))
    said[at % len(said)] = byte
    offers = Offers(bytes(said[:end]))
    assert len(offers.ciphers) < 1000
    assert len(offers.groups) < 1000


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(("curve", "number"), [("prime256v1", 0x17), ("X25519", 0x1D)])
def test_the_group_is_read_from_what_the_server_says(version: ssl.TLSVersion, curve: str, number: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "good-test-only.pem", TLS / "leaf-test-only.key")
    context.set_ecdh_curve(curve)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(_said("a.test", version))
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_side=True).do_handshake()
    flight = outgoing.read()
    assert group_of(flight) == number
    for end in range(len(flight)):
        assert group_of(flight[:end]) in (0, number)
