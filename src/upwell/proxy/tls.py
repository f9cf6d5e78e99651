"""What TLS toward clients and toward peers is told to be, and OpenSSL's contexts of that. Knows files; no socket."""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from upwell.proxy import openssl
from upwell.proxy.openssl import TicketKey
from upwell.proxy.tls_commands import CommandError, configure, set_curves
from upwell.proxy.tls_depth import CHAIN_TOO_LONG, limit_depth

_VERSIONS: Final = {
    "tlsv1": ssl.TLSVersion.TLSv1,
    "tlsv1.1": ssl.TLSVersion.TLSv1_1,
    "tlsv1.2": ssl.TLSVersion.TLSv1_2,
    "tlsv1.3": ssl.TLSVersion.TLSv1_3,
}
NONE_SHOWN: Final = -1
_CERTIFICATE: Final = re.compile(rb"-----BEGIN [A-Z0-9 ]*CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END")


class TlsError(ValueError):
    """It cannot be; the text is a sentence."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """`certificates` are pairs of paths, certificate and key. `protocols` are nginx's words in lower case. `verify`
    is "off", "on", "optional" or "optional_no_ca", by the certificates in the files `trusted`; those in `shown` are
    named to clients. `crl`, `passwords` (one a line, for encrypted keys) and `dhparam` are paths, "" for none. So many
    authorities as `depth` may stand between a client's certificate and a trusted one. `commands` are OpenSSL's, by name
    and value, and come last. `kind` is nginx's word for who it is for, HTTP or STREAM; whether a client's certificate
    will do is for that one to see, by judge(). Tickets are sealed with `ticket_keys`, with OpenSSL's own for none;
    sessions are resumed within so many seconds as `session_timeout`, if OpenSSL can be told so."""

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
    shown: str = ""
    kind: str = "HTTP"
    ticket_keys: tuple[TicketKey, ...] = ()
    session_timeout: int = 300


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
            set_curves(context, spec.curve)
        except CommandError as error:
            raise TlsError(str(error)) from None
    if spec.alpn:
        context.set_alpn_protocols(list(spec.alpn))
    if spec.prefers_own_ciphers:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if not openssl.unreachable():
        openssl.limit_age(context, spec.session_timeout)
    if spec.ticket_keys:
        _seal(context, spec)
    if not spec.tickets:
        _give_no_tickets(context)
    for path in spec.trusted:
        _trust(context, path)
    _revoke(context, spec.crl)
    if spec.verify != "off":
        _ask_clients(context, spec)
    _command(context, spec.commands)
    return context


def _give_no_tickets(context: ssl.SSLContext) -> None:
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0


def _ask_clients(context: ssl.SSLContext, spec: ServerTls) -> None:
    """As nginx does: the handshake goes on whatever a client shows. Where OpenSSL cannot be told so, a certificate that
    is no good ends it, and in stream, whose sockets OpenSSL writes to itself, so does none where one has to be."""
    if not openssl.unreachable():
        openssl.limit_depth(context, spec.depth)
        openssl.ask_clients(context, spec.shown)
        return
    context.verify_mode = ssl.CERT_OPTIONAL
    limit_depth(context, spec.depth)
    if spec.kind != "HTTP":
        _give_no_tickets(context)  # they are out when the depth is seen
        if spec.verify == "on":
            context.verify_mode = ssl.CERT_REQUIRED


def judge(tls: ssl.SSLObject | ssl.SSLSocket, verify: str) -> int:
    """What is wrong with a client's certificate, to who verifies so (ServerTls): 0, OpenSSL's number, or NONE_SHOWN."""
    verdict = openssl.verdict(tls)
    if verdict and not (verify == "optional_no_ca" and openssl.wants_trust_only(verdict)):
        return verdict
    return NONE_SHOWN if verify == "on" and tls.getpeercert(binary_form=True) is None else 0


def blame(trouble: int) -> str:
    """nginx's words for what judge() has found."""
    if trouble == NONE_SHOWN:
        return "client sent no required SSL certificate"
    return f"client SSL certificate verify error: ({trouble}:{openssl.words(trouble)})"


def client_verify(tls: ssl.SSLObject | ssl.SSLSocket) -> str:
    """nginx's $ssl_client_verify."""
    if tls.getpeercert(binary_form=True) is None:
        return "NONE"
    verdict = openssl.verdict(tls)
    return f"FAILED:{openssl.words(verdict)}" if verdict else "SUCCESS"


def _seal(context: ssl.SSLContext, spec: ServerTls) -> None:
    """Who asks for no certificates opens nginx's tickets, and nginx opens those. A ticket tells that a certificate was
    good: it is opened only by who would judge by the same files."""
    shown = [_certificate(path) for path, _ in spec.certificates]
    if spec.verify == "off":
        said = hashlib.sha1(spec.kind.encode(), usedforsecurity=False)
        for der in shown:
            said.update(hashlib.sha1(der, usedforsecurity=False).digest())
        openssl.set_ticket_keys(context, spec.ticket_keys, said.digest())
        return
    trusted = [_content("certificate", path) for path in (*spec.trusted, *([spec.crl] if spec.crl else []))]
    parts = [spec.kind.encode(), b"%d" % spec.depth, *shown, *trusted]
    judged = hashlib.sha256(b"".join(b"%d:%s" % (len(one), one) for one in parts)).digest()
    openssl.set_ticket_keys(context, tuple(openssl.derived(key, judged) for key in spec.ticket_keys), judged)


def _certificate(path: str) -> bytes:
    """The first in a file, in DER, or all that is in it where that cannot be read."""
    content = _content("certificate", path)
    found = _CERTIFICATE.search(content)
    try:
        return content if found is None else b64decode(found[1])
    except ValueError:
        return content


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
        if openssl.unreachable():
            limit_depth(context, spec.depth)
        else:
            openssl.limit_depth(context, spec.depth)
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
    _content(what, path, 1)


def _content(what: str, path: str, most: int = -1) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(most)
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
