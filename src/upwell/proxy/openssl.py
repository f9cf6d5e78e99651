"""What OpenSSL does and Python's ssl has no word for: by ctypes, on the very OpenSSL that Python's `_ssl` uses.

Knows where CPython keeps OpenSSL's pointers in ssl's objects, and the few functions that are called with them; nobody
else reads such a pointer. Must not know configurations, connections or what follows from a verdict. `unreachable()`
proves all of it once, on objects made for that, and is asked while a configuration is loaded: the functions below are
for who has seen it say "". Stays Python: OpenSSL calls back into it. [Why](../../../docs/decisions/0030-openssl.md).
"""

from __future__ import annotations

import _ssl
import contextlib
import ctypes
import hashlib
import os
import ssl
import struct
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

_KNOWN: Final = ((3, 11), (3, 12), (3, 13), (3, 14))
"""The versions of CPython whose structures have been read: PySSLContext begins with its SSL_CTX, PySSLSocket has a weak
reference before its SSL (Modules/_ssl.c)."""
_POINTER: Final = struct.calcsize("P")
_HEAD: Final = object.__basicsize__
_CONTEXT_AT: Final = _HEAD
_SSL_AT: Final = _HEAD + _POINTER
_BEGINNING: Final = 64
"""Of a structure of OpenSSL, in bytes: the methods of its protocol are among its first pointers."""

_VERIFY_PEER: Final = 1
_TLS1_3: Final = 0x0304
_SET_GROUPS_LIST: Final = 92
_NAME: Final = 16  # bytes of the name of a key, and of an initialization vector of AES
_UTF8_STRING: Final = 4
_OCTET_STRING: Final = 5

OK: Final = 0
"""X509_V_OK"""
_UNSPECIFIED: Final = 1
_WANT_OF_TRUST: Final = frozenset((18, 19, 20, 21, 27))
"""A self-signed certificate, one in the chain, no issuer, no way to the first signature, not trusted."""


class _Unreachable(Exception):
    """The text says why."""


class _Param(ctypes.Structure):
    """OSSL_PARAM"""

    _fields_ = (
        ("key", ctypes.c_char_p),
        ("data_type", ctypes.c_uint),
        ("data", ctypes.c_char_p),
        ("data_size", ctypes.c_size_t),
        ("return_size", ctypes.c_size_t),
    )


_Verified = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
_Ticket = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int
)
_Hello = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


@dataclass(frozen=True, slots=True)
class TicketKey:
    """What tickets are sealed with, as nginx lays it out in 48 or 80 bytes (ssl_session_ticket_key)."""

    name: bytes
    aes: bytes = field(repr=False)
    hmac: bytes = field(repr=False)


def ticket_key(data: bytes) -> TicketKey:
    """Raises ValueError."""
    if len(data) == 48:
        return TicketKey(data[:16], data[16:32], data[32:])
    if len(data) == 80:
        return TicketKey(data[:16], data[48:], data[16:48])
    raise ValueError("must be 48 or 80 bytes")


def derived(key: TicketKey, purpose: bytes) -> TicketKey:
    """Another key that is the same wherever the two are: what one seals the other does not open."""
    return ticket_key(hashlib.shake_256(b"upwell ticket key" + key.name + key.aes + key.hmac + purpose).digest(80))


class _Library:
    """OpenSSL's functions, once it is certain that they are those that `_ssl` calls. None of them waits for anything:
    they run under the interpreter's lock."""

    def __init__(self) -> None:
        number, pointer, text = ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p
        try:
            self._library = ctypes.PyDLL(getattr(_ssl, "__file__", None))
        except OSError as error:
            raise _Unreachable(f"Python's _ssl cannot be opened: {error}") from None
        self._version = self._function("OpenSSL_version_num", ctypes.c_ulong)
        self._server_method = self._function("TLS_server_method", pointer)
        self._options = self._function("SSL_CTX_get_options", ctypes.c_uint64, pointer)
        self._context_of = self._function("SSL_get_SSL_CTX", pointer, pointer)
        self.set_verify = self._function("SSL_CTX_set_verify", None, pointer, number, _Verified)
        self.set_verify_depth = self._function("SSL_CTX_set_verify_depth", None, pointer, number)
        self.load_names = self._function("SSL_load_client_CA_file", pointer, text)
        self.set_names = self._function("SSL_CTX_set_client_CA_list", None, pointer, pointer)
        self._verify_result = self._function("SSL_get_verify_result", ctypes.c_long, pointer)
        self.clear_errors = self._function("ERR_clear_error", None)
        self.error_string = self._function("X509_verify_cert_error_string", text, ctypes.c_long)
        self.set_session_id_context = self._function("SSL_set_session_id_context", number, pointer, text, ctypes.c_uint)
        self.version = self._function("SSL_version", number, pointer)
        self.control = self._function("SSL_CTX_ctrl", ctypes.c_long, pointer, number, ctypes.c_long, text)
        self.set_ciphersuites = self._function("SSL_CTX_set_ciphersuites", number, pointer, text)
        self.set_timeout = self._function("SSL_CTX_set_timeout", ctypes.c_long, pointer, ctypes.c_long)
        self.set_client_hello_cb = self._function("SSL_CTX_set_client_hello_cb", None, pointer, _Hello, pointer)
        self.set_ticket_key_cb = self._function("SSL_CTX_set_tlsext_ticket_key_evp_cb", number, pointer, _Ticket)
        begin = (number, pointer, pointer, pointer, text, pointer)
        self.encrypt = self._function("EVP_EncryptInit_ex", *begin)
        self.decrypt = self._function("EVP_DecryptInit_ex", *begin)
        self.set_mac = self._function("EVP_MAC_CTX_set_params", number, pointer, ctypes.POINTER(_Param))
        self.random = self._function("RAND_bytes", number, pointer, number)
        self.ciphers: dict[int, int] = {
            16: self._function("EVP_aes_128_cbc", pointer)(),
            32: self._function("EVP_aes_256_cbc", pointer)(),
        }
        self.accept = _Verified(self._accept)
        if self._version() != ssl.OPENSSL_VERSION_NUMBER:
            raise _Unreachable("another OpenSSL than that of Python's ssl would answer")
        self._prove()

    def _accept(self, good: int, store: int) -> int:
        """The handshake goes on whatever the certificate is: OpenSSL keeps the verdict, for `verdict()`. A wrong
        signature leaves errors in the thread's queue, where the next call that wants more bytes, of any connection,
        would find them and take them for its own."""
        with contextlib.suppress(BaseException):  # into OpenSSL nothing can be raised
            self.clear_errors()
        return 1

    def verdict(self, tls: ssl.SSLObject | ssl.SSLSocket) -> int:
        inside = _inside(tls)
        pointer = _pointer(inside, _SSL_AT) if type(inside) is self._connection else 0
        return int(self._verify_result(pointer)) if pointer else _UNSPECIFIED

    def _function(self, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        try:
            function: Any = getattr(self._library, name)
        except AttributeError:
            raise _Unreachable(f"the OpenSSL of Python's ssl shows no {name}") from None
        function.restype = result
        function.argtypes = arguments
        called: Callable[..., Any] = function
        return called

    def _prove(self) -> None:
        """That the pointers are where they are thought to be. Nothing is followed before it is known to lead to a
        structure of this OpenSSL: the first words of each have the address of the protocol's methods."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        inside: object = _inside(made.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True))
        self._connection = type(inside)
        method = self._server_method()
        for one, at in ((made, _CONTEXT_AT), (inside, _SSL_AT)):
            if type(one).__basicsize__ < at + _POINTER or method not in _beginning(_pointer(one, at)):
                raise _Unreachable("the objects of Python's ssl are not laid out as known")
        context = _pointer(made, _CONTEXT_AT)
        for options in (made.options, made.options ^ ssl.OP_NO_TICKET):
            made.options = options
            if self._options(context) != made.options:
                raise _Unreachable("the contexts of Python's ssl are not laid out as known")
        if self._context_of(_pointer(inside, _SSL_AT)) != context:
            raise _Unreachable("the connections of Python's ssl are not laid out as known")


def _inside(tls: ssl.SSLObject | ssl.SSLSocket) -> Any:
    """The object of `_ssl` in one of ssl."""
    outer: Any = tls
    return outer._sslobj


def _pointer(one: object, at: int) -> int:
    return ctypes.c_void_p.from_address(id(one) + at).value or 0


def _beginning(address: int) -> tuple[int, ...]:
    """The words there. The kernel copies them, who refuses what is not mapped; nothing here would live through it."""
    reader, writer = os.pipe()
    try:
        os.write(writer, (ctypes.c_char * _BEGINNING).from_address(address))
        data = os.read(reader, _BEGINNING)
    except OSError:
        return ()
    finally:
        os.close(reader)
        os.close(writer)
    return struct.unpack(f"{len(data) // _POINTER}P", data[: len(data) // _POINTER * _POINTER])


@cache
def _reach() -> _Library | str:
    """The library, or why not."""
    if sys.implementation.name != "cpython" or sys.version_info[:2] not in _KNOWN:
        return f"how {sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]} keeps OpenSSL is not known"
    if _POINTER != 8 or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "how this build of Python keeps OpenSSL is not known"
    try:
        return _Library()
    except _Unreachable as error:
        return str(error)


def unreachable() -> str:
    """Why nothing of this file can be used; "" for it can."""
    found = _reach()
    return found if isinstance(found, str) else ""


def _library() -> _Library:
    found = _reach()
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


# What both ends may choose


def set_groups(context: ssl.SSLContext, names: str) -> bool:
    """The groups of key exchange, best first, between colons. Whether there are such."""
    library = _library()
    done: int = library.control(_pointer(context, _CONTEXT_AT), _SET_GROUPS_LIST, 0, os.fsencode(names))
    library.clear_errors()
    return done == 1


def set_ciphersuites(context: ssl.SSLContext, names: str) -> bool:
    """The ciphers of TLS 1.3, best first, between colons. Whether there are such."""
    library = _library()
    done: int = library.set_ciphersuites(_pointer(context, _CONTEXT_AT), os.fsencode(names))
    library.clear_errors()
    return done == 1


# Certificates of the other end


def limit_depth(context: ssl.SSLContext, depth: int) -> None:
    """So many authorities may stand between a certificate and one that is trusted."""
    _library().set_verify_depth(_pointer(context, _CONTEXT_AT), min(depth, 2**31 - 1))


def ask_clients(context: ssl.SSLContext, names: str) -> None:
    """Ask clients for a certificate and take any, or none: `verdict()` says what it is worth. The authorities in the
    file `names`, "" for none, are told to them, who may have several."""
    library = _library()
    pointer = _pointer(context, _CONTEXT_AT)
    library.set_verify(pointer, _VERIFY_PEER, library.accept)
    if names:
        found = library.load_names(os.fsencode(names))
        if found:
            library.set_names(pointer, found)  # whose it is now
        library.clear_errors()  # of the file's end


def verdict(tls: ssl.SSLObject | ssl.SSLSocket) -> int:
    """What OpenSSL thinks of the client's certificate, OK where it has shown none: of a resumed session it is what has
    been found when it began. Where OpenSSL cannot be reached a certificate that is no good has ended the handshake."""
    found = _reach()
    if isinstance(found, str):
        return OK
    return found.verdict(tls)


def words(verdict: int) -> str:
    """OpenSSL's for it."""
    text: bytes | None = _library().error_string(verdict)
    return (text or b"").decode("ascii", "replace")


def wants_trust_only(verdict: int) -> bool:
    """Whether there is nothing against a certificate but that nobody trusted vouches for it
    (nginx: ngx_ssl_verify_error_optional)."""
    return verdict in _WANT_OF_TRUST


# Sessions


def limit_age(context: ssl.SSLContext, seconds: int) -> None:
    """Sessions are resumed no later than so many seconds after they began."""
    _library().set_timeout(_pointer(context, _CONTEXT_AT), seconds)


def set_ticket_keys(context: ssl.SSLContext, keys: tuple[TicketKey, ...], identity: bytes) -> None:
    """Tickets are sealed with the first of `keys` and opened with any (nginx: ngx_ssl_ticket_key_callback). What is in
    them is resumed where `identity` is the same, of at most 32 bytes."""
    library = _library()
    sealer = _Sealer(library, keys, identity)
    pointer = _pointer(context, _CONTEXT_AT)
    if library.set_ticket_key_cb(pointer, sealer.ticket) != 1:
        raise RuntimeError("OpenSSL takes no ticket keys")
    library.set_client_hello_cb(pointer, sealer.hello, None)
    kept: Any = context
    kept.upwell_sealer = sealer  # OpenSSL has addresses in it: it lives as long as the context does


class _Sealer:
    """OpenSSL asks it once for each ClientHello and for each ticket that is made or opened.

    Whatever goes wrong in it means no ticket and no session that is resumed.
    """

    def __init__(self, library: _Library, keys: tuple[TicketKey, ...], identity: bytes) -> None:
        self._library = library
        self._identity = identity
        self._first = _Seal(library, keys[0])
        self._seals = {key.name: _Seal(library, key) for key in reversed(keys)} | {keys[0].name: self._first}
        self.ticket = _Ticket(self._answer)
        self.hello = _Hello(self._bind)

    def _bind(self, tls: int, alert: int, _: int) -> int:
        """A context's identity will not do: from Python 3.13 on each connection gets one of Python's own."""
        try:
            self._library.set_session_id_context(tls, self._identity, len(self._identity))
        except BaseException:  # into OpenSSL nothing can be raised
            return 0
        return 1

    def _answer(self, tls: int, name: int, vector: int, cipher: int, mac: int, makes: int) -> int:
        try:
            return self._make(name, vector, cipher, mac) if makes else self._open(tls, name, vector, cipher, mac)
        except BaseException:  # into OpenSSL nothing can be raised
            return 0

    def _make(self, name: int, vector: int, cipher: int, mac: int) -> int:
        library = self._library
        seal = self._first
        if (
            library.random(vector, _NAME) != 1
            or library.encrypt(cipher, seal.cipher, None, seal.key.aes, vector) != 1
            or library.set_mac(mac, seal.mac) != 1
        ):
            return 0
        ctypes.memmove(name, seal.key.name, _NAME)
        return 1

    def _open(self, tls: int, name: int, vector: int, cipher: int, mac: int) -> int:
        library = self._library
        seal = self._seals.get(ctypes.string_at(name, _NAME))
        if (
            seal is None
            or library.set_mac(mac, seal.mac) != 1
            or library.decrypt(cipher, seal.cipher, None, seal.key.aes, vector) != 1
        ):
            return 0
        if seal is not self._first or library.version(tls) == _TLS1_3:  # whose tickets are for one use
            return 2  # and a new one
        return 1


class _Seal:
    """A key as OpenSSL takes it: `mac` are the parameters of HMAC with SHA-256, which keep what they point to."""

    __slots__ = ("cipher", "key", "mac")

    def __init__(self, library: _Library, key: TicketKey) -> None:
        self.key = key
        self.cipher = library.ciphers[len(key.aes)]
        self.mac: Any = (_Param * 3)(
            _Param(b"key", _OCTET_STRING, key.hmac, len(key.hmac), 0),
            _Param(b"digest", _UTF8_STRING, b"SHA256", 6, 0),
            _Param(None, 0, None, 0, 0),
        )
