"""TLS around the conversation of a probe, in memory, and what is wrong with it in words. Knows `ssl`, no socket.

Sessions are never resumed: only a full handshake shows the peer's certificate, and that it has not expired meanwhile.
"""

from __future__ import annotations

import _ssl
import contextlib
import ssl
import time
from typing import Any, Final

from upwell.check.certificate import Certificate, certificates
from upwell.check.probe import Draining, Probe, Verdict
from upwell.check.rules import quoted, shown
from upwell.check.spec import CheckSpec

_HANDSHAKE: Final = "failed to ssl handshake to"
_DOING: Final = "in the TLS handshake"
_READ: Final = 16_384  # bytes: a record's content

# OpenSSL's X509_V_ERR_*.
_ISSUER_UNKNOWN: Final = frozenset({2, 20, 21, 27})
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_SELF_SIGNED: Final = 18
_SELF_SIGNED_IN_CHAIN: Final = 19
_MISMATCH: Final = frozenset({62, 63, 64})  # HOSTNAME, EMAIL, IP_ADDRESS

# Of the messages of a handshake: RFC 8446, 4.
_CONTENT_HANDSHAKE: Final = 22
_CERTIFICATE: Final = 11
_CERTIFICATE_REQUEST: Final = 13


class TlsFileError(ValueError):
    """A file cannot be used. `field` is the one of CheckSpec that names it."""

    def __init__(self, field: str, words: str) -> None:
        super().__init__(words)
        self.field = field


class _Heard:
    """What the peer said in the step of a handshake that is being made (one at a time: there is one thread)."""

    __slots__ = ("asked", "certificates", "tls13")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.asked = False
        self.certificates = b""
        self.tls13 = False

    def hear(self, conn: object, direction: str, version: int, content: int, kind: int, data: bytes) -> None:
        if content != _CONTENT_HANDSHAKE or direction != "read":
            return
        if kind == _CERTIFICATE:
            self.certificates = data
            self.tls13 = version >= ssl.TLSVersion.TLSv1_3
        elif kind == _CERTIFICATE_REQUEST:
            self.asked = True


_heard = _Heard()


class Secured:
    """`inner` inside TLS, as a probe. `CheckSpec.host` is sent as server name and, with `verify`, must be the
    certificate's; without a host only the chain is verified (ngx_lua's sslhandshake). `alpn` are protocols to offer.
    """

    __slots__ = (
        "_alpn",
        "_asked",
        "_host",
        "_incoming",
        "_inner",
        "_name",
        "_outgoing",
        "_parted",
        "_shaking",
        "_spec",
        "_tls",
        "doing",
        "finished",
        "receiving",
        "reusable",
        "sending",
    )

    def __init__(self, spec: CheckSpec, name: str, inner: Probe, alpn: tuple[str, ...] = ()) -> None:
        """Raises TlsFileError."""
        self.sending = self.receiving = _HANDSHAKE
        self.doing = _DOING
        self.finished = False
        self.reusable = False
        self._spec = spec
        self._host = spec.host or None
        self._name = name
        self._inner = inner
        self._alpn = alpn
        self._incoming = _NO_BIO
        self._outgoing = _NO_BIO
        self._tls: ssl.SSLObject | None = None
        self._shaking = False
        self._asked = False  # for our certificate
        self._parted: Verdict | None = None  # to be given when the peer has not objected
        if spec.ca or spec.certificate:
            tls_context(spec, alpn)

    def open(self) -> bytes | Verdict:
        self.sending = self.receiving = _HANDSHAKE
        self.doing = _DOING
        self.finished = False
        self.reusable = False
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._asked = False
        self._parted = None
        context = tls_context(self._spec, self._alpn)
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=self._host)
        self._shaking = True
        return self._shake_hands(self._tls)

    def again(self) -> bytes:
        self.finished = False
        self.reusable = False
        tls = self._tls
        assert tls is not None
        tls.write(self._inner.again())
        return self._outgoing.read()

    def feed(self, data: bytes) -> bytes | Verdict:
        tls = self._tls
        if tls is None:
            return self._failed("handshake failed", "TLS handshake failed")
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        if self._shaking:
            return self._shake_hands(tls)
        if self._parted is not None:
            return self._part(tls, self._parted)
        return self._read(tls)

    def drain(self, data: bytes) -> bytes:
        tls = self._tls
        if tls is None:
            self.finished = True
            return b""
        self._incoming.write(data)
        self._read_on(tls)
        return self._last_words()

    def _last_words(self) -> bytes:
        """What is still to be sent, now that there is a verdict: the end of the handshake, an alert, the farewell."""
        said = self._outgoing.read()
        if self.finished and not self.reusable:
            # A TLS connection is large; none is held until the next probe.
            self._tls = None
            self._incoming = self._outgoing = _NO_BIO
        return said

    def _say(self, verdict: Verdict) -> Verdict:
        said = self._last_words()
        return verdict._replace(farewell=said) if said or verdict.farewell else verdict

    def _shake_hands(self, tls: ssl.SSLObject) -> bytes | Verdict:
        _heard.forget()
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            self._asked = self._asked or _heard.asked
            return self._outgoing.read()
        except ssl.SSLCertVerificationError as error:
            mismatch = error.verify_code in _MISMATCH
            words = "certificate host mismatch" if mismatch else f"{error.verify_code}: {error.verify_message}"
            return self._failed(words, self._certificate_words(error))
        except (ssl.SSLError, ValueError) as error:
            self._asked = self._asked or _heard.asked
            return self._failed("handshake failed", self._error_words(error, handshake=True))
        self._asked = self._asked or _heard.asked
        self._shaking = False
        self.sending = self._inner.sending
        self.receiving = self._inner.receiving
        self.doing = self._inner.doing
        first = self._inner.open()
        if isinstance(first, bytes):
            if first:
                tls.write(first)
            # What came with the end of the handshake may be the peer's first words already.
            return self._read(tls)
        if self._asked and tls.version() == "TLSv1.3":
            # The peer judges our certificate (or that there is none) after our side of the handshake is over. It
            # says something when it is told that this is all: its own farewell, or why it refuses.
            return self._part(tls, first)
        self._farewell(tls)
        return self._say(first)

    def _part(self, tls: ssl.SSLObject, verdict: Verdict) -> bytes | Verdict:
        """Wait for the peer's last word; then `verdict` holds."""
        if self._parted is None:
            self._farewell(tls)
            self.finished = False
            self._parted = verdict
        try:
            while tls.read(_READ):
                pass
        except ssl.SSLWantReadError:
            return self._outgoing.read()
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            pass
        except ssl.SSLError as error:
            return self._failed("closed", self._error_words(error))
        self.finished = True
        return self._say(verdict)

    def _read(self, tls: ssl.SSLObject) -> bytes | Verdict:
        inner = self._inner
        while True:
            try:
                data = tls.read(_READ)
            except ssl.SSLWantReadError:
                return self._outgoing.read()
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                data = b""
            except ssl.SSLError as error:
                return self._failed("closed", self._error_words(error))
            answer = inner.feed(data)
            self.doing = inner.doing
            if isinstance(answer, Verdict):
                if answer.farewell:
                    tls.write(answer.farewell)
                if inner.finished:
                    self._end(tls)
                else:
                    self._read_on(tls)
                return self._say(answer)
            if answer:
                tls.write(answer)

    def _read_on(self, tls: ssl.SSLObject) -> None:
        """Take what has come behind the verdict."""
        inner = self._inner
        while not inner.finished:
            try:
                data = tls.read(_READ)
            except ssl.SSLWantReadError:
                return
            except ssl.SSLError:
                data = b""
            if not data:
                inner.finished = True
                inner.reusable = False
            elif isinstance(inner, Draining):
                inner.drain(data)
        self._end(tls)

    def _end(self, tls: ssl.SSLObject) -> None:
        """The peer has sent all it will."""
        self.finished = True
        self.reusable = self._inner.reusable
        if not self.reusable:
            self._farewell(tls)

    def _farewell(self, tls: ssl.SSLObject) -> None:
        self.finished = True
        # What is raised says that the peer has not said the same yet, or that it never will.
        with contextlib.suppress(ssl.SSLError, ValueError):
            tls.unwrap()

    def _failed(self, word: str, why: str) -> Verdict:
        self.finished = True
        self.reusable = False
        return self._say(Verdict(False, "tls", why, 0, f"{self.receiving} {self._name}: {word}"))

    def _certificate_words(self, error: ssl.SSLCertVerificationError) -> str:
        chain = certificates(_heard.certificates, _heard.tls13)
        return certificate_words(error.verify_code, error.verify_message, chain, self._host or "", time.time())

    def _error_words(self, error: Exception, handshake: bool = False) -> str:
        reason = str(getattr(error, "reason", None) or error).replace("_", " ").lower()
        if isinstance(error, ssl.SSLEOFError):
            reason = "connection closed"
        alert = reason.partition(" alert ")[2]
        if self._asked and alert:
            if not self._spec.certificate:
                return "peer asked for a certificate"
            return f"peer refused the certificate: {shown(alert)}"
        if alert:
            return f"TLS handshake failed: peer said {quoted(alert)}" if handshake else f"TLS alert {quoted(alert)}"
        if reason.endswith("unrecognized name"):
            return f"TLS handshake failed: peer does not know {quoted(self._host or '')}"
        return f"TLS handshake failed: {shown(reason)}" if handshake else f"TLS failed: {shown(reason)}"


_NO_BIO: Final = ssl.MemoryBIO()
"""Stands for none, and stays empty."""


def certificate_words(code: int, message: str, chain: list[Certificate], host: str, now: float) -> str:
    """Why OpenSSL (its X509_V_ERR_`code`, with its `message`) refuses a peer that showed `chain`."""
    own = chain[0] if chain else None
    if code in _MISMATCH:
        if own is None or not own.names:
            return f"certificate is not for {shown(host)}"
        names = ", ".join(shown(name) for name in own.names[:2])
        more = f" and {len(own.names) - 2} more" if len(own.names) > 2 else ""
        return f"certificate is for {names}{more}, not {shown(host)}"
    if code == _EXPIRED:
        for one in chain:
            if one.ends <= now:
                whose = "certificate" if one is own else f"certificate of authority {quoted(one.subject)}"
                return f"{whose} expired {duration(now - one.ends)} ago"
        return "a certificate of the chain has expired" if own else "certificate has expired"
    if code == _NOT_YET_VALID:
        for one in chain:
            if one.begins > now:
                whose = "certificate" if one is own else f"certificate of authority {quoted(one.subject)}"
                return f"{whose} becomes valid only in {duration(one.begins - now)}"
        return "certificate is not yet valid"
    if code == _SELF_SIGNED:
        return "self-signed certificate"
    if code == _SELF_SIGNED_IN_CHAIN:
        return "self-signed certificate in the chain"
    if code in _ISSUER_UNKNOWN:
        by = f" {quoted(chain[-1].issuer)}" if chain and chain[-1].issuer else ""
        return f"certificate signed by unknown authority{by}"
    return f"certificate not trusted: {shown(message)}"


def duration(seconds: float) -> str:
    """A time span in one unit: "3 days"."""
    size, unit = next((one for one in _UNITS if seconds >= one[0]), _UNITS[-1])
    count = int(seconds // size)
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


_UNITS: Final = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))

_contexts: dict[tuple[bool, bool, str, str, str, tuple[str, ...]], ssl.SSLContext] = {}
"""By what they are made of. Those with files are made in the master, which may read them, before it forks."""


def read_tls_files(spec: CheckSpec, alpn: tuple[str, ...] = ()) -> None:
    """Read the files that `spec` names, again if need be. Raises TlsFileError if that cannot be done. For whoever
    reads a configuration: later, as another user, they may not be readable.
    """
    if spec.ca or spec.certificate or spec.certificate_key:
        _contexts[_key(spec, alpn)] = _make_context(spec, alpn)


def tls_context(spec: CheckSpec, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    """The client's side of TLS for `spec`; made at the first probe if it names no files, because to read the system's
    authorities takes a while. Raises TlsFileError.
    """
    key = _key(spec, alpn)
    known = _contexts.get(key)
    if known is None:
        known = _contexts[key] = _make_context(spec, alpn)
    return known


def _key(spec: CheckSpec, alpn: tuple[str, ...]) -> tuple[bool, bool, str, str, str, tuple[str, ...]]:
    return spec.verify, bool(spec.host), spec.ca, spec.certificate, spec.certificate_key, alpn


def _make_context(spec: CheckSpec, alpn: tuple[str, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = spec.verify and bool(spec.host)
    context.verify_mode = ssl.CERT_REQUIRED if spec.verify else ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if spec.ca:
        _check_readable("ca", spec.ca)
        try:
            context.load_verify_locations(spec.ca)
        except ssl.SSLError:
            raise TlsFileError("ca", f'cannot load certificate "{spec.ca}": there is none in it') from None
    elif spec.verify:
        context.load_default_certs()
    if spec.certificate:
        _load_own(context, spec.certificate, spec.certificate_key or spec.certificate)
    elif spec.certificate_key:
        raise TlsFileError("certificate_key", "certificate_key without certificate")
    try:
        # Not ssl.SSLContext's own setter of this (undocumented) attribute: it wraps each call in three enumerations.
        hear: Any = getattr(_ssl._SSLContext, "_msg_callback")  # noqa: B009  # typeshed does not know it
        hear.__set__(context, _heard.hear)
    except AttributeError:
        pass  # the words are fewer then, nothing else
    return context


def _load_own(context: ssl.SSLContext, certificate: str, key: str) -> None:
    _check_readable("certificate", certificate)
    _check_readable("certificate_key", key)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        reason = str(error.reason or "").replace("_", " ").lower()
        if "mismatch" in reason:
            reason = f'the key "{key}" does not belong to it'
        elif reason:
            reason = f'{reason} (with key "{key}")'
        else:
            reason = f'no certificate in it, or no key in "{key}"'
        raise TlsFileError("certificate", f'cannot load certificate "{certificate}": {reason}') from None


def _no_password() -> str:
    """OpenSSL would ask at the terminal."""
    raise TlsFileError("certificate_key", "certificate_key is encrypted")


def _check_readable(what: str, path: str) -> None:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise TlsFileError(what, f'open() "{path}" failed ({error.errno}: {error.strerror})') from None
