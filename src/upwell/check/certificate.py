"""What a certificate says of itself, read from its DER form: until when it is good, for whom, by whom (RFC 5280, 4.1).

Only for words about a certificate that OpenSSL has refused, since Python does not hand those out: nothing here decides
whom to trust, and whatever cannot be read is left out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

_SEQUENCE: Final = 0x30
_EXTENSIONS: Final = 0xA3
_UTC_TIME: Final = 0x17
_DNS_NAME: Final = 0x82
_IP_ADDRESS: Final = 0x87
_COMMON_NAME: Final = bytes.fromhex("0603550403")  # 2.5.4.3
_ALTERNATIVE_NAMES: Final = bytes.fromhex("0603551d11")  # 2.5.29.17
_SERIAL, _ISSUER, _VALIDITY, _SUBJECT = 0, 2, 3, 4  # places in the certificate's body, its version left out


class Certificate:
    """`begins` and `ends` are seconds since 1970; `names` those that it is for; `issuer` and `subject` common names."""

    __slots__ = ("begins", "ends", "issuer", "names", "subject")

    def __init__(self, der: bytes) -> None:
        """Raises ValueError for what is no certificate."""
        try:
            [(tag, whole)] = _items(der)
            tag, body = next(_items(whole))
            parts = [part for part in _items(body) if part[0] != 0xA0]  # the version
            begins, ends = (_seconds(*time) for time in _items(parts[_VALIDITY][1]))
            self.begins, self.ends = begins, ends
            self.issuer = _common_name(parts[_ISSUER][1])
            self.subject = _common_name(parts[_SUBJECT][1])
            extensions = next((content for kind, content in parts if kind == _EXTENSIONS), b"")
            self.names = tuple(_names(extensions)) or ((self.subject,) if self.subject else ())
        except (IndexError, StopIteration, OverflowError) as error:
            raise ValueError("no certificate") from error
        if tag != _SEQUENCE:
            raise ValueError("no certificate")

    def __repr__(self) -> str:
        return f"<Certificate {self.subject}>"


def certificates(message: bytes, tls13: bool) -> list[Certificate]:
    """The certificates in a TLS handshake message of type certificate, the peer's own first (RFC 5246, 7.4.2; RFC
    8446, 4.4.2). Those that cannot be read are left out.
    """
    found = []
    at = 4  # type and length
    if tls13:
        at += 1 + message[at] if len(message) > at else 0
    at += 3  # length of the list
    while at + 3 <= len(message):
        size = int.from_bytes(message[at : at + 3], "big")
        try:
            found.append(Certificate(message[at + 3 : at + 3 + size]))
        except ValueError:
            if not found:
                return []
        at += 3 + size
        if tls13:
            at += 2 + int.from_bytes(message[at : at + 2], "big")
    return found


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, content) of each DER element. Raises ValueError, IndexError."""
    at = 0
    while at < len(data):
        tag, size = data[at], data[at + 1]
        at += 2
        if size >= 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[at : at + count], "big")
            at += count
        if at + size > len(data):
            raise ValueError("cut off")
        yield tag, data[at : at + size]
        at += size


def _seconds(tag: int, text: bytes) -> float:
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    moment = datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC)
    if tag == _UTC_TIME and moment.year >= 2050:  # two digits stand for 1950 to 2049; Python's pivot is another
        moment = moment.replace(year=moment.year - 100)
    return moment.timestamp()


def _common_name(name: bytes) -> str:
    for _, parts in _items(name):
        for _, pair in _items(parts):
            if pair.startswith(_COMMON_NAME):
                return list(_items(pair))[1][1].decode("utf-8", "replace")
    return ""


def _names(extensions: bytes) -> Iterator[str]:
    for _, listed in _items(extensions):
        for _, extension in _items(listed):
            if not extension.startswith(_ALTERNATIVE_NAMES):
                continue
            for _, names in _items(list(_items(extension))[-1][1]):
                for tag, name in _items(names):
                    if tag == _DNS_NAME:
                        yield name.decode("ascii", "replace")
                    elif tag == _IP_ADDRESS:
                        yield str(ipaddress.ip_address(name))
