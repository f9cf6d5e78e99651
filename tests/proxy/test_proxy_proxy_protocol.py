"""The PROXY protocol and lists of addresses against bytes of all kinds: an answer or a MessageError, nothing else."""

from __future__ import annotations

import ipaddress
from random import Random

import pytest

from upwell.errors import MessageError
from upwell.proxy.proxy_protocol import Introduced, field_of, parse
from upwell.proxy.real_ip import parse_address

FOUR = bytes((192, 0, 2, 1, 198, 51, 100, 2, 0, 80, 1, 187))
SAID = b"\1\0\2h2" + b"\x20\0\x0c\7\0\0\0\1\x22\0\4name"
HEADERS = (
    b"PROXY TCP4 192.0.2.1 198.51.100.2 80 443\r\nGET /",
    b"PROXY TCP6 2001:db8::1 ::1 65535 0\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x20" + FOUR + SAID + b"GET /",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24" + bytes(36),
)
FINDERS = [
    field_of(name) for name in ("alpn", "0x01", "ssl_verify", "ssl_cn", "ssl_0x22", "0x", "0xzz", "", "ssl_", "other")
]


def test_whatever_comes_is_read_or_refused() -> None:
    random = Random(7)
    read = 0
    for turn in range(3000):
        data = bytearray(HEADERS[turn % len(HEADERS)])
        for _ in range(random.randrange(4)):
            at = random.randrange(len(data))
            data[at : at + random.randrange(2)] = random.choice((b"", b"\0", b"\xff", b" ", b"9", b"\r\n", bytes(9)))
        try:
            size, told = parse(bytes(data))
        except MessageError:
            continue
        read += 1
        assert 0 < size <= len(data)
        if told is not None:
            assert 0 <= told[1] <= 65535
            assert 0 <= told[3] <= 65535
            ipaddress.ip_address(told[0])
            ipaddress.ip_address(told[2])
        for find in FINDERS:
            found = find(told)
            assert found is None or isinstance(found, bytes)
    assert 500 < read < 3000


def test_an_address_has_the_text_that_nginx_gives_it() -> None:
    six = bytes(10) + b"\xff\xff" + bytes((192, 0, 2, 1)), bytes(15) + b"\1"
    data = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24" + b"".join(six) + b"\0\1\0\2"
    assert parse(data) == (len(data), ("::ffff:192.0.2.1", 1, "::1", 2, b""))


def test_values_are_found_by_name_and_by_number() -> None:
    size, told = parse(HEADERS[3])
    assert size == len(HEADERS[3]) - len(b"GET /")
    assert [find(told) for find in FINDERS] == [b"h2", b"h2", b"1", b"name", b"name", None, None, None, None, None]
    nobody: Introduced | None = None
    assert {find(nobody) for find in FINDERS} == {None}


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (b"192.0.2.1", ("192.0.2.1", 0)),
        (b"192.0.2.1:80", ("192.0.2.1", 80)),
        (b"2001:DB8:0::1", ("2001:db8::1", 0)),
        (b"[2001:db8::1]", ("2001:db8::1", 0)),
        (b"[2001:db8::1]:80", ("2001:db8::1", 80)),
        (b"::ffff:192.0.2.1", ("::ffff:192.0.2.1", 0)),
        (b"192.0.2.1:0", None),
        (b"192.0.2.1:65536", None),
        (b"192.0.2.1:+8", None),
        (b"[192.0.2.1", None),
        (b"[192.0.2.1]", None),
        (b"2001:db8::1:99999", None),
        (b"192.0.2", None),
        (b"fe80::1%lo", None),
        (b"unix:", None),
        (b"", None),
        (b"\0", None),
        (b"1.2.3.4\0", None),
        (b"\xff\xff", None),
    ],
)
def test_an_address_is_read_or_it_is_none(text: bytes, address: tuple[str, int] | None) -> None:
    assert parse_address(text) == address
