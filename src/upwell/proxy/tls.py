"""What TLS toward clients and toward peers is told to be, and OpenSSL's contexts of that. Knows files; no socket."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final

_VERSIONS: Final = {
    "tlsv1": ssl.TLSVersion.TLSv1,
    "tlsv1.1": ssl.TLSVersion.TLSv1_1,
    "tlsv1.2": ssl.TLSVersion.TLSv1_2,
    "tlsv1.3": ssl.TLSVersion.TLSv1_3,
}
_VERIFY: Final = {"off": ssl.CERT_NONE, "on": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL}


class TlsError(ValueError):
    """It cannot be; the text is a sentence."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """`certificates` are pairs of paths, certificate and key. `protocols` are nginx's words in lower case. `verify`
    is "off", "on" or "optional", by the certificates in the files `trusted`."""

    certificates: tuple[tuple[str, str], ...]
    protocols: frozenset[str]
    ciphers: str
    prefers_own_ciphers: bool = False
    verify: str = "off"
    trusted: tuple[str, ...] = ()
    tickets: bool = True


@dataclass(frozen=True, slots=True)
class ClientTls:
    """With `verify` a peer's certificate must be for the name that is asked for, by those in the file `trusted`."""

    verify: bool
    trusted: str
    certificate: str
    key: str
    protocols: frozenset[str]
    ciphers: str


def server_context(spec: ServerTls) -> ssl.SSLContext:
    """Raises TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _set_protocols(context, spec.protocols)
    _set_ciphers(context, spec.ciphers)
    for certificate, key in spec.certificates:
        _load(context, certificate, key)
    if spec.prefers_own_ciphers:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if not spec.tickets:
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    for path in spec.trusted:
        _trust(context, path)
    context.verify_mode = _VERIFY[spec.verify]
    return context


def client_context(spec: ClientTls) -> ssl.SSLContext:
    """Raises TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = spec.verify
    context.verify_mode = ssl.CERT_REQUIRED if spec.verify else ssl.CERT_NONE
    _set_protocols(context, spec.protocols)
    _set_ciphers(context, spec.ciphers)
    if spec.trusted:
        _trust(context, spec.trusted)
    if spec.certificate:
        _load(context, spec.certificate, spec.key)
    return context


def _set_protocols(context: ssl.SSLContext, names: frozenset[str]) -> None:
    """OpenSSL knows a first and a last version; what lies between is allowed with them."""
    every = list(_VERSIONS)
    known = [name for name in every if name in names]
    if not known:
        raise TlsError("none of the protocols is supported by upwell")
    if every.index(known[-1]) - every.index(known[0]) + 1 != len(known):
        raise TlsError("protocols with one left out between them are not supported by upwell")
    if known[0] in ("tlsv1", "tlsv1.1"):
        raise TlsError(f"the protocol TLSv{known[0][4:]} is not supported by upwell")
    context.minimum_version = _VERSIONS[known[0]]
    context.maximum_version = _VERSIONS[known[-1]]


def _set_ciphers(context: ssl.SSLContext, ciphers: str) -> None:
    try:
        context.set_ciphers(ciphers)
    except ssl.SSLError:
        raise TlsError(f'no cipher can be selected by "{ciphers}"') from None


def _no_password() -> str:
    """OpenSSL would ask at the terminal."""
    raise TlsError("the key is encrypted")


def _load(context: ssl.SSLContext, certificate: str, key: str) -> None:
    for what, path in (("certificate", certificate), ("certificate key", key)):
        _check_readable(what, path)
    try:
        context.load_cert_chain(certificate, key, _no_password)
    except ssl.SSLError as error:
        told: object = getattr(error, "reason", None)  # typeshed says str; a compiled build would insist
        reason = str(told or error).replace("_", " ").lower()
        raise TlsError(f'cannot load certificate "{certificate}" with key "{key}": {reason}') from None
    except TlsError:
        raise TlsError(f'cannot load certificate key "{key}": it is encrypted') from None


def _trust(context: ssl.SSLContext, path: str) -> None:
    _check_readable("certificate", path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise TlsError(f'cannot load certificate "{path}": there is none in it') from None


def _check_readable(what: str, path: str) -> None:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise TlsError(f'cannot load {what} "{path}": open() failed ({error.errno}: {error.strerror})') from None
