"""What TLS toward clients and toward peers is told to be, and OpenSSL's contexts of that. Knows files; no socket."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from upwell.proxy.tls_commands import CommandError, configure
from upwell.proxy.tls_depth import CHAIN_TOO_LONG, limit_depth

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
    is "off", "on" or "optional", by the certificates in the files `trusted`. `crl`, `passwords` (one a line, for
    encrypted keys) and `dhparam` are paths, "" for none. So many authorities as `depth` may stand between a client's
    certificate and a trusted one. `commands` are OpenSSL's, by name and value, and come last."""

    certificates: tuple[tuple[str, str], ...]
    protocols: frozenset[str]
    ciphers: str
    prefers_own_ciphers: bool = False
    verify: str = "off"
    trusted: tuple[str, ...] = ()
    tickets: bool = True
    crl: str = ""
    passwords: str = ""
    dhparam: str = ""
    curve: str = ""
    alpn: tuple[str, ...] = ()
    depth: int = 1
    commands: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ClientTls:
    """With `verify` a peer's certificate must be for the name that is asked for, by those in the file `trusted`.
    `crl`, `passwords`, `depth` and `commands` as in ServerTls."""

    verify: bool
    trusted: str
    certificate: str
    key: str
    protocols: frozenset[str]
    ciphers: str
    crl: str = ""
    passwords: str = ""
    depth: int = 1
    commands: tuple[tuple[str, str], ...] = ()


def server_context(spec: ServerTls) -> ssl.SSLContext:
    """Raises TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _set_protocols(context, spec.protocols)
    _set_ciphers(context, spec.ciphers)
    for certificate, key in spec.certificates:
        _load(context, certificate, key, spec.passwords)
    context.options |= ssl.OP_NO_RENEGOTIATION  # nginx refuses it too
    if spec.dhparam:
        _take("DH parameters", spec.dhparam, context.load_dh_params)
    if spec.curve:
        try:
            context.set_ecdh_curve(spec.curve)
        except ValueError:
            raise TlsError(f'there is no curve "{spec.curve}"') from None
    if spec.alpn:
        context.set_alpn_protocols(list(spec.alpn))
    if spec.prefers_own_ciphers:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if not spec.tickets:
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    for path in spec.trusted:
        _trust(context, path)
    _revoke(context, spec.crl)
    context.verify_mode = _VERIFY[spec.verify]
    if spec.verify != "off":
        limit_depth(context, spec.depth)
    _command(context, spec.commands)
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
        _load(context, spec.certificate, spec.key, spec.passwords)
    _revoke(context, spec.crl)
    if spec.verify:
        limit_depth(context, spec.depth)
    _command(context, spec.commands)
    return context


def _command(context: ssl.SSLContext, commands: tuple[tuple[str, str], ...]) -> None:
    for name, value in commands:
        try:
            configure(context, name, value)
        except CommandError as error:
            raise TlsError(str(error)) from None


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


def _load(context: ssl.SSLContext, certificate: str, key: str, passwords: str = "") -> None:
    """A certificate and its key, which one of the lines of the file `passwords` may open."""
    for what, path in (("certificate", certificate), ("certificate key", key)):
        _check_readable(what, path)
    reason: object = ""
    tried: list[bytes | None] = [*_lines(passwords)] or [None]
    for password in tried:
        try:
            context.load_cert_chain(certificate, key, _no_password if password is None else password)
        except ssl.SSLError as error:
            reason = getattr(error, "reason", None) or error  # typeshed says str; a compiled build would insist
        except TlsError:
            raise TlsError(f'cannot load certificate key "{key}": it is encrypted') from None
        else:
            return
    said = str(reason).replace("_", " ").lower()
    raise TlsError(f'cannot load certificate "{certificate}" with key "{key}": {said}')


def _lines(path: str) -> list[bytes]:
    """The passwords in a file, "" for none (nginx: ssl_password_file)."""
    if not path:
        return []
    try:
        with open(path, "rb") as file:
            return [line.rstrip(b"\r\n") for line in file if line.rstrip(b"\r\n")]
    except OSError as error:
        raise TlsError(f'cannot load passwords "{path}": open() failed ({error.errno}: {error.strerror})') from None


def _revoke(context: ssl.SSLContext, path: str) -> None:
    """Refuse the certificates that a list names; there has to be one of every authority (ssl_crl)."""
    if path:
        _take("certificate revocation list", path, context.load_verify_locations)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def _take(what: str, path: str, load: Callable[[str], None]) -> None:
    _check_readable(what, path)
    try:
        load(path)
    except (ssl.SSLError, ValueError):
        raise TlsError(f'cannot load {what} "{path}": there is none in it') from None


def _trust(context: ssl.SSLContext, path: str) -> None:
    _take("certificate", path, context.load_verify_locations)


def _check_readable(what: str, path: str) -> None:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise TlsError(f'cannot load {what} "{path}": open() failed ({error.errno}: {error.strerror})') from None


def words_of_error(error: Exception) -> str:
    """What OpenSSL or the system says of it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify error: ({error.verify_code}:{error.verify_message})"
    if isinstance(error, ssl.SSLError):
        reason: object = getattr(error, "reason", None)  # typeshed says str, which a compiled build would insist on
        return str(reason or error)
    if isinstance(error, OSError) and error.errno:
        return f"{error.errno}: {os.strerror(error.errno)}"
    return str(error)


def is_too_deep(error: Exception) -> bool:
    """Whether the handshake was over and the other's certificate is refused all the same."""
    return isinstance(error, ssl.SSLCertVerificationError) and error.verify_code == CHAIN_TOO_LONG


def peer_trouble(error: Exception) -> str:
    """nginx's words for a handshake with a peer that failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (62, 63, 64):  # X509_V_ERR_HOSTNAME_MISMATCH and its kin
            return f"upstream SSL certificate does not match: {error.verify_message}"
        return f"upstream SSL certificate verify error: ({error.verify_code}:{error.verify_message})"
    if isinstance(error, ssl.SSLEOFError) or not isinstance(error, ssl.SSLError):
        return f"peer closed connection in SSL handshake ({words_of_error(error)})"
    return f"SSL_do_handshake() failed ({words_of_error(error)})"
