"""The probe of type "ssl_hello": a ClientHello is answered by a ServerHello. No keys, no certificate, no socket.

The rule is nginx_upstream_check_module's: the first record must be a handshake, and the first message in it a
ServerHello; an alert fails. Its own bytes ask for SSL 3.0, which servers refuse by now; these offer TLS 1.0 to 1.3.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from upwell.check.probe import Verdict
from upwell.check.said import said
from upwell.check.spec import CheckSpec

_ALERT, _HANDSHAKE = 0x15, 0x16  # record types (RFC 8446, 5.1)
_SERVER_HELLO = 2
_ENOUGH = 11  # the record's header (5), the message's (4), and the version (2)
_SHORTEST = 38  # a ServerHello: version, random, an empty session id, cipher suite, compression method
_LONGEST = 1 << 14  # a record's content in the clear

_CLOSE_NOTIFY: Final = bytes((_ALERT, 3, 3, 0, 2, 1, 0))

_ALERTS: Final = {
    0: "close_notify",
    10: "unexpected_message",
    20: "bad_record_mac",
    22: "record_overflow",
    40: "handshake_failure",
    42: "bad_certificate",
    43: "unsupported_certificate",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",
    90: "user_canceled",
    109: "missing_extension",
    110: "unsupported_extension",
    112: "unrecognized_name",
    116: "certificate_required",
    120: "no_application_protocol",
}

# What is offered is wide on purpose: the question is whether there is a TLS server, not whether it is a good one.
_SUITES: Final = (
    *(0x1301, 0x1302, 0x1303),  # TLS 1.3
    *(0xC02B, 0xC02C, 0xC02F, 0xC030, 0xCCA9, 0xCCA8, 0x009E, 0x009F),  # ECDHE and DHE with AEAD
    *(0xC023, 0xC024, 0xC027, 0xC028, 0xC009, 0xC00A, 0xC013, 0xC014, 0x0033, 0x0039),  # ... with CBC
    *(0x009C, 0x009D, 0x003C, 0x003D, 0x002F, 0x0035, 0x000A),  # RSA key exchange
    0x00FF,  # secure renegotiation is understood (RFC 5746)
)
_GROUPS: Final = (0x001D, 0x0017, 0x0018, 0x0019, 0x0100)  # x25519, P-256, P-384, P-521, ffdhe2048
_SIGNATURES: Final = (
    *(0x0403, 0x0503, 0x0603, 0x0807, 0x0808),  # ECDSA, EdDSA
    *(0x0804, 0x0805, 0x0806, 0x0809, 0x080A, 0x080B, 0x0401, 0x0501, 0x0601),  # RSA
    *(0x0203, 0x0201),  # with SHA-1
)
_VERSIONS: Final = (0x0304, 0x0303, 0x0302, 0x0301)


class SslHelloProbe:
    """`CheckSpec.host` is sent as server name."""

    __slots__ = ("_data", "_hello", "doing", "finished", "receiving", "reusable", "sending")

    def __init__(self, spec: CheckSpec, name: str) -> None:
        self.sending = "failed to send ClientHello to"
        self.receiving = "failed to receive ServerHello from"
        self.doing = "awaiting ServerHello"
        self.finished = False
        self.reusable = False
        self._data = b""
        self._hello = client_hello(spec.host)

    def open(self) -> bytes:
        self._data = b""
        self.finished = False
        return self._hello

    def again(self) -> bytes:
        """Never asked for: a handshake is begun once on a connection."""
        return b""

    def feed(self, data: bytes) -> bytes | Verdict:
        if not data:
            self.finished = True
            return Verdict(False, "closed", "connection closed before ServerHello")
        data = self._data = (self._data + data)[:_ENOUGH]
        verdict = _judged(data)
        if verdict is None:
            return b""
        # A passed peer goes on with its certificate; what ends its handshake at once is an alert.
        self.finished = not verdict.passed
        return verdict


def _judged(data: bytes) -> Verdict | None:
    """What the first bytes of the answer say, told as soon as they do; None: not yet."""
    kind = data[0]
    if kind not in (_ALERT, _HANDSHAKE):
        return Verdict(False, "protocol", f'not TLS: the answer begins with "{said(data[:1])}"')
    if len(data) > 1 and data[1] != 3:
        return Verdict(False, "protocol", f"TLS record of version {data[1]}, want 3")
    if len(data) < 5:
        return None
    length = int.from_bytes(data[3:5], "big")
    if kind == _ALERT:
        if length != 2:
            return Verdict(False, "protocol", f"TLS alert of {length} bytes, want 2")
        if len(data) < 7:
            return None
        number = data[6]
        return Verdict(False, "tls", f"TLS alert {_ALERTS.get(number, str(number))}")
    if not 4 + _SHORTEST <= length <= _LONGEST:
        return Verdict(False, "protocol", f"TLS handshake record of {length} bytes, too short or too long")
    if len(data) > 5 and data[5] != _SERVER_HELLO:
        return Verdict(False, "protocol", f"TLS handshake message of type {data[5]}, want ServerHello (2)")
    if len(data) < _ENOUGH:
        return None
    length = int.from_bytes(data[6:9], "big")
    if not _SHORTEST <= length <= _LONGEST:
        return Verdict(False, "protocol", f"ServerHello of {length} bytes, too short or too long")
    if data[9] != 3:
        return Verdict(False, "protocol", f"ServerHello of version {data[9]}.{data[10]}, want 3.x")
    return Verdict(True, farewell=_CLOSE_NOTIFY)


@lru_cache(maxsize=64)
def client_hello(host: str) -> bytes:
    """A ClientHello (RFC 8446, 4.1.2; also RFC 5246, 7.4.1.2) in one record; `host`, if any, as server name.

    The random is none: no handshake is ever completed, so no key comes from it. No key share is given; a server of
    TLS 1.3 asks for one in a HelloRetryRequest, which is a ServerHello.
    """
    extensions = b"".join(
        (
            _server_name(host),
            _extension(0x000A, _list(2, _numbers(_GROUPS))),
            _extension(0x000B, b"\1\0"),  # points uncompressed
            _extension(0x000D, _list(2, _numbers(_SIGNATURES))),
            _extension(0x0017, b""),  # extended master secret
            _extension(0x002B, _list(1, _numbers(_VERSIONS))),
            _extension(0x002D, b"\1\1"),  # resumption with a key exchange
            _extension(0x0033, _list(2, b"")),
        )
    )
    body = b"".join(
        (
            b"\3\3",
            bytes(range(32)),
            _list(1, bytes(range(32))),  # a session id, as browsers send: middleboxes expect one (D.4)
            _list(2, _numbers(_SUITES)),
            b"\1\0",  # no compression
            _list(2, extensions),
        )
    )
    return bytes((_HANDSHAKE, 3, 1)) + _list(2, b"\1" + _list(3, body))


def _server_name(host: str) -> bytes:
    """RFC 6066, 3: never an address."""
    if not host:
        return b""
    try:
        ip_address(host)
    except ValueError:
        return _extension(0, _list(2, b"\0" + _list(2, host.encode("utf-8", "replace")[:255])))
    return b""


def _extension(number: int, content: bytes) -> bytes:
    return number.to_bytes(2, "big") + _list(2, content)


def _list(size: int, content: bytes) -> bytes:
    """`content` after its length in `size` bytes."""
    return len(content).to_bytes(size, "big") + content


def _numbers(numbers: tuple[int, ...]) -> bytes:
    return b"".join(number.to_bytes(2, "big") for number in numbers)
