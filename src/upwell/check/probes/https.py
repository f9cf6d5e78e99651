"""The probe of type "https": the http probe inside TLS, in memory. Knows `ssl`, no socket."""

from __future__ import annotations

import ssl
from functools import cache

from upwell.check.probe import Verdict
from upwell.check.probes.http import HttpProbe
from upwell.check.spec import CheckSpec

_HANDSHAKE = "failed to ssl handshake to"
_HOSTNAME_MISMATCH = {62, 63, 64}  # OpenSSL's X509_V_ERR_{HOSTNAME,EMAIL,IP_ADDRESS}_MISMATCH


class HttpsProbe:
    """`CheckSpec.host` is sent as server name and, with `verify`, must be the certificate's; without a host only the
    chain is verified (ngx_lua's sslhandshake). Trusted are the system's authorities."""

    __slots__ = (
        "_host",
        "_http",
        "_incoming",
        "_name",
        "_outgoing",
        "_tls",
        "_verify",
        "doing",
        "receiving",
        "reusable",
        "sending",
    )

    def __init__(self, spec: CheckSpec, name: str) -> None:
        self.sending = self.receiving = _HANDSHAKE
        self.doing = "in the TLS handshake"
        self.reusable = False
        self._http = HttpProbe(spec, name)
        self._host = spec.host
        self._verify = spec.verify
        self._name = name
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None

    @property
    def finished(self) -> bool:
        return self._http.finished

    @finished.setter
    def finished(self, value: bool) -> None:
        self._http.finished = value

    def open(self) -> bytes | Verdict:
        self.sending = self.receiving = _HANDSHAKE
        self.doing = "in the TLS handshake"
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._http.finished = False
        context = tls_context(self._verify, bool(self._host))
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=self._host or None)
        return self._shake_hands(self._tls)

    def again(self) -> bytes:
        """Never asked for: each probe has a connection of its own."""
        return b""

    def feed(self, data: bytes) -> bytes | Verdict:
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        tls = self._tls
        if tls is None:
            return self._failed("handshake failed", "TLS handshake failed")
        if self.receiving is _HANDSHAKE:
            return self._shake_hands(tls)
        return self._read(tls)

    def _shake_hands(self, tls: ssl.SSLObject) -> bytes | Verdict:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            return self._outgoing.read()
        except ssl.SSLCertVerificationError as error:
            if error.verify_code in _HOSTNAME_MISMATCH:
                return self._failed("certificate host mismatch", f"certificate is not for {self._host}")
            words = f"{error.verify_code}: {error.verify_message}"
            return self._failed(words, f"certificate not trusted: {error.verify_message}")
        except (ssl.SSLError, ValueError) as error:
            return self._failed("handshake failed", f"TLS handshake failed: {_reason(error)}")
        self.sending = self._http.sending
        self.receiving = self._http.receiving
        self.doing = self._http.doing
        tls.write(self._http.open())
        return self._outgoing.read()

    def _read(self, tls: ssl.SSLObject) -> bytes | Verdict:
        while True:
            try:
                data = tls.read(16384)
            except ssl.SSLWantReadError:
                return self._outgoing.read()
            except ssl.SSLError:
                data = b""
            answer = self._http.feed(data)
            if isinstance(answer, Verdict):
                return answer

    def _failed(self, word: str, why: str) -> Verdict:
        self._http.finished = True
        return Verdict(False, "tls", why, 0, f"{_HANDSHAKE} {self._name}: {word}")


def _reason(error: Exception) -> str:
    """OpenSSL's words without its place in Python's source: "wrong version number"."""
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else str(error)


@cache
def tls_context(verify: bool, named: bool) -> ssl.SSLContext:
    """The client's side of TLS; made at the first probe, because reading the system's authorities takes a while."""
    context = ssl.create_default_context()
    context.check_hostname = verify and named
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    return context
