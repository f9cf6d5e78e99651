"""nginx's $ssl_ variables: what a client's handshake has come to (ngx_http_ssl_module). None: "not found".

What OpenSSL through Python does not tell has no variable here: see `modules/variables.py`.
"""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from upwell.proxy.client_hello import Offers
from upwell.proxy.tls import client_verify

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

TlsVariable = Callable[["Exchange"], "bytes | None"]

_DAY: Final = 86_400
_SHORT: Final = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "emailAddress": "emailAddress",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "street",
    "userId": "UID",
}
"""RFC 4514, 3, and OpenSSL's names for what has none there."""
_GROUPS: Final = {
    0x0015: "secp224r1",
    0x0016: "secp256k1",
    0x0017: "prime256v1",
    0x0018: "secp384r1",
    0x0019: "secp521r1",
    0x001A: "brainpoolP256r1",
    0x001B: "brainpoolP384r1",
    0x001C: "brainpoolP512r1",
    0x001D: "X25519",
    0x001E: "X448",
    0x0100: "ffdhe2048",
    0x0101: "ffdhe3072",
    0x0102: "ffdhe4096",
    0x0103: "ffdhe6144",
    0x0104: "ffdhe8192",
}
"""OpenSSL's names of groups by number (RFC 8446, 4.2.7)."""
_ESCAPED: Final = frozenset('"+,;<>\\')


def _of(read: Callable[[ssl.SSLObject], str | None]) -> TlsVariable:
    def value(exchange: Exchange) -> bytes | None:
        transport = exchange.client.tls
        if transport is None or transport.tls is None:
            return None
        found = read(transport.tls)
        return found.encode("utf-8", "surrogateescape") if found else None

    return value


def _server_name(exchange: Exchange) -> bytes | None:
    transport = exchange.client.tls
    return None if transport is None else transport.name or None


def _cipher(tls: ssl.SSLObject) -> str | None:
    cipher = tls.cipher()
    return None if cipher is None else cipher[0]


def _offers(exchange: Exchange) -> Offers | None:
    transport = exchange.client.tls
    if transport is None or transport.tls is None or not transport.hello:
        return None
    return Offers(transport.hello)


@cache
def _cipher_names() -> dict[int, str]:
    """OpenSSL's names of all that it knows, by number (RFC 8446, B.4)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    return {one["id"] & 0xFFFF: one["name"] for one in context.get_ciphers()} | {
        0x00FF: "TLS_EMPTY_RENEGOTIATION_INFO_SCSV"
    }


def _ciphers(exchange: Exchange) -> bytes | None:
    offers = _offers(exchange)
    if offers is None:
        return None
    names = _cipher_names()
    return ":".join(names.get(one, f"0x{one:04x}") for one in offers.ciphers).encode() or None


def _curves(exchange: Exchange) -> bytes | None:
    offers = _offers(exchange)
    if offers is None:
        return None
    return ":".join(_GROUPS.get(one, f"0x{one:04x}") for one in offers.groups).encode() or None


def _curve(exchange: Exchange) -> bytes | None:
    """Of a session that TLS 1.2 resumes nobody tells it."""
    transport = exchange.client.tls
    if transport is None or not transport.group:
        return None
    return _GROUPS.get(transport.group, f"0x{transport.group:04x}").encode()


def _early_data(_: Exchange) -> bytes | None:
    """Nothing is taken before a handshake is over (ssl_early_data is off)."""
    return None


def _der(tls: ssl.SSLObject) -> bytes | None:
    return tls.getpeercert(binary_form=True)


def _session_id(tls: ssl.SSLObject) -> str | None:
    session = tls.session
    return None if session is None else session.id.hex()


def _pem(tls: ssl.SSLObject) -> str | None:
    """Without the line end behind it, as nginx gives it."""
    der = _der(tls)
    return None if der is None else ssl.DER_cert_to_PEM_cert(der).rstrip("\n") + "\n"


def _indented(tls: ssl.SSLObject) -> str | None:
    """Each line but the first begins with a tab, for a field of a request (nginx: $ssl_client_cert)."""
    pem = _pem(tls)
    return None if pem is None else pem.rstrip("\n").replace("\n", "\n\t")


def _escaped(tls: ssl.SSLObject) -> str | None:
    pem = _pem(tls)
    return None if pem is None else quote(pem, safe="-._~")


def _fingerprint(tls: ssl.SSLObject) -> str | None:
    der = _der(tls)
    return None if der is None else hashlib.sha1(der, usedforsecurity=False).hexdigest()


def _decoded(tls: ssl.SSLObject) -> dict[str, Any] | None:
    """The certificate as Python reads it. Where it is refused, or by optional_no_ca, nobody has vouched for it: there
    may be anything in it."""
    try:
        certificate: dict[str, Any] | None = tls.getpeercert()
    except (ssl.SSLError, ValueError, OverflowError):
        return None
    return certificate


def _name(which: str) -> Callable[[ssl.SSLObject], str | None]:
    def read(tls: ssl.SSLObject) -> str | None:
        certificate = _decoded(tls)
        return _distinguished(certificate[which]) if certificate else None

    return read


def _distinguished(name: tuple[tuple[tuple[str, str], ...], ...]) -> str:
    """RFC 4514: the last first."""
    return ",".join(
        "+".join(f"{_SHORT.get(kind, kind)}={_escape(value)}" for kind, value in together)
        for together in reversed(name)
    )


def _escape(value: str) -> str:
    """RFC 4514, 2.4; what is not ASCII goes out by its bytes in hexadecimal, as OpenSSL does for nginx."""
    out = []
    last = len(value) - 1
    for at, char in enumerate(value):
        if char in _ESCAPED or (char == "#" and not at) or (char == " " and at in (0, last)):
            out.append("\\" + char)
        elif " " <= char < "\x7f":
            out.append(char)
        else:
            out.append("".join(f"\\{byte:02X}" for byte in char.encode()))
    return "".join(out)


def _field(which: str) -> Callable[[ssl.SSLObject], str | None]:
    def read(tls: ssl.SSLObject) -> str | None:
        certificate = _decoded(tls)
        return str(certificate[which]) if certificate else None

    return read


def _remaining(tls: ssl.SSLObject) -> str | None:
    """Whole days until the certificate ends."""
    certificate = _decoded(tls)
    if not certificate:
        return None
    left = ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()
    return str(int(left // _DAY)) if left > 0 else "0"


VARIABLES: dict[str, TlsVariable] = {
    "ssl_alpn_protocol": _of(lambda tls: tls.selected_alpn_protocol()),
    "ssl_cipher": _of(_cipher),
    "ssl_ciphers": _ciphers,
    "ssl_client_cert": _of(_indented),
    "ssl_client_escaped_cert": _of(_escaped),
    "ssl_client_fingerprint": _of(_fingerprint),
    "ssl_client_i_dn": _of(_name("issuer")),
    "ssl_client_raw_cert": _of(_pem),
    "ssl_client_s_dn": _of(_name("subject")),
    "ssl_client_serial": _of(_field("serialNumber")),
    "ssl_client_v_end": _of(_field("notAfter")),
    "ssl_client_v_remain": _of(_remaining),
    "ssl_client_v_start": _of(_field("notBefore")),
    "ssl_client_verify": _of(client_verify),
    "ssl_curve": _curve,
    "ssl_curves": _curves,
    "ssl_early_data": _early_data,
    "ssl_protocol": _of(lambda tls: tls.version()),
    "ssl_server_name": _server_name,
    "ssl_session_id": _of(_session_id),
    "ssl_session_reused": _of(lambda tls: "r" if tls.session_reused else "."),
}
