"""nginx's $ssl_ variables: what a client's handshake has come to (ngx_http_ssl_module). None: "not found".

What OpenSSL through Python does not tell has no variable here: see `modules/variables.py`.
"""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

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


def _der(tls: ssl.SSLObject) -> bytes | None:
    return tls.getpeercert(binary_form=True)


def _verified(tls: ssl.SSLObject) -> str:
    return "NONE" if _der(tls) is None else "SUCCESS"


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


def _name(which: str) -> Callable[[ssl.SSLObject], str | None]:
    def read(tls: ssl.SSLObject) -> str | None:
        certificate: Any = tls.getpeercert()
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
        certificate: Any = tls.getpeercert()
        return str(certificate[which]) if certificate else None

    return read


def _remaining(tls: ssl.SSLObject) -> str | None:
    """Whole days until the certificate ends."""
    certificate: Any = tls.getpeercert()
    if not certificate:
        return None
    left = ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()
    return str(int(left // _DAY)) if left > 0 else "0"


VARIABLES: dict[str, TlsVariable] = {
    "ssl_alpn_protocol": _of(lambda tls: tls.selected_alpn_protocol()),
    "ssl_cipher": _of(_cipher),
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
    "ssl_client_verify": _of(_verified),
    "ssl_protocol": _of(lambda tls: tls.version()),
    "ssl_server_name": _server_name,
    "ssl_session_reused": _of(lambda tls: "r" if tls.session_reused else "."),
}
