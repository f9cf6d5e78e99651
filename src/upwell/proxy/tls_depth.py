"""How many authorities may stand between a certificate and one that is trusted (nginx: ssl_verify_depth).

For where OpenSSL cannot be told so (`openssl.unreachable()`): the chain that it has verified is counted when the
handshake is over, and a longer one ends the handshake after all. Stays Python: these classes are ssl's, extended.
"""

from __future__ import annotations

import hashlib
import ssl
from typing import Any

CHAIN_TOO_LONG = 22
"""X509_V_ERR_CERT_CHAIN_TOO_LONG"""

_MOST_KNOWN = 20_480
"""As many as OpenSSL keeps sessions of one context for."""


class _Limit:
    """The limit of one context, and whom it has refused: the session of a refused one could be resumed, and what
    verified it then is known no more.
    """

    __slots__ = ("_depth", "_refused")

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._refused: dict[bytes, None] = {}

    def check(self, tls: ssl.SSLObject | ssl.SSLSocket) -> None:
        """Raises SSLCertVerificationError."""
        der = tls.getpeercert(binary_form=True)
        if der is None:
            return
        who = hashlib.sha256(der).digest()
        inside: Any = tls  # public in Python 3.13
        chain = inside._sslobj.get_verified_chain()
        if chain is None:
            if not tls.session_reused or who in self._refused:
                raise _too_long()
        elif len(chain) > self._depth + 2:  # its ends are the certificate and who is trusted
            if len(self._refused) >= _MOST_KNOWN:
                del self._refused[next(iter(self._refused))]
            self._refused[who] = None
            raise _too_long()


def _too_long() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate chain too long")
    error.verify_code = CHAIN_TOO_LONG
    error.verify_message = "certificate chain too long"
    return error


def limit_depth(context: ssl.SSLContext, depth: int) -> None:
    """Have the handshakes of `context` fail where more than `depth` authorities stand below a trusted one."""
    limit = _Limit(depth)

    class Counted(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            limit.check(self)

    class CountedSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            limit.check(self)

    context.sslobject_class = Counted
    context.sslsocket_class = CountedSocket
