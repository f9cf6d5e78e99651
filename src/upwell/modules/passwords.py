"""Whether a password is the one that a line of a user file stands for: nginx's schemes, and nothing else.

`{PLAIN}`, `{SHA}`, `{SSHA}` and `$apr1$` are worked out here, all others by the system's crypt_r(), as in nginx. Knows
no request. Imported by who needs it, as it opens a library: docs/decisions/0028-passwords.md.
"""

from __future__ import annotations

import binascii
import ctypes
import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

_LIBRARIES: Final = ("libcrypt.so.2", "libcrypt.so.1", None)  # None: libc itself, where musl has it
_STATE_BYTES: Final = 1 << 18  # struct crypt_data is 131232 bytes in the old glibc, 32768 in libxcrypt, 260 in musl
_SHA1_BYTES: Final = 20
_APR1: Final = b"$apr1$"
_APR1_ROUNDS: Final = 1000
_ALPHABET: Final = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_MOST_KNOWN: Final = 1024


class NoCrypt(Exception):
    """crypt_r() has no answer: there is none on this machine, or it does not know the scheme."""


def is_slow(stored: bytes) -> bool:
    """Whether `matches` is better called where nobody waits for it."""
    return not stored.startswith((b"{PLAIN}", b"{SHA}", b"{SSHA}"))


def matches(password: bytes, stored: bytes) -> bool:
    """Whether `password` is the one of the line's second part. The time that it takes tells nothing of how alike they
    are. Raises NoCrypt.
    """
    password = password.partition(b"\0")[0]  # a text in C, as everybody else reads it who is given this file
    for sign, scheme in _SCHEMES:
        if stored.startswith(sign):
            return hmac.compare_digest(scheme(password, stored), stored)
    return hmac.compare_digest(_crypt(password, stored), stored)


def _plain(password: bytes, stored: bytes) -> bytes:
    return b"{PLAIN}" + password


def _sha(password: bytes, stored: bytes) -> bytes:
    return b"{SHA}" + b64encode(hashlib.sha1(password, usedforsecurity=False).digest())


def _ssha(password: bytes, stored: bytes) -> bytes:
    coded = stored[6:].partition(b"=")[0]
    try:
        salt = b64decode(coded + b"=" * (-len(coded) % 4), validate=True)[_SHA1_BYTES:]
    except binascii.Error:
        salt = b""
    return b"{SSHA}" + b64encode(hashlib.sha1(password + salt, usedforsecurity=False).digest() + salt)


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _apr1(password: bytes, stored: bytes) -> bytes:
    """Apache's variant of MD5-crypt: a thousand rounds over password and salt."""
    salt = stored[len(_APR1) :].partition(b"$")[0][:8]
    length = len(password)
    inner = _md5(password + salt + password)
    mixed = password + _APR1 + salt + (inner * (length // 16 + 1))[:length]
    bits = length
    while bits:
        mixed += b"\0" if bits & 1 else password[:1]
        bits >>= 1
    digest = _md5(mixed)
    for number in range(_APR1_ROUNDS):
        odd = number & 1
        text = password if odd else digest
        if number % 3:
            text += salt
        if number % 7:
            text += password
        digest = _md5(text + (digest if odd else password))
    out = bytearray()
    for first, second, third in ((0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5)):
        _append(out, digest[first] << 16 | digest[second] << 8 | digest[third], 4)
    _append(out, digest[11], 2)
    return _APR1 + salt + b"$" + bytes(out)


def _append(out: bytearray, value: int, count: int) -> None:
    for _ in range(count):
        out.append(_ALPHABET[value & 63])
        value >>= 6


_SCHEMES: Final[tuple[tuple[bytes, Callable[[bytes, bytes], bytes]], ...]] = (
    (_APR1, _apr1),
    (b"{PLAIN}", _plain),
    (b"{SSHA}", _ssha),
    (b"{SHA}", _sha),
)


def _crypt(password: bytes, stored: bytes) -> bytes:
    """crypt(3). ctypes lets other threads run meanwhile."""
    if _crypt_r is None:
        raise NoCrypt("crypt_r() is not there")
    state = ctypes.create_string_buffer(_STATE_BYTES)
    found: bytes | None = _crypt_r(password, stored, state)
    if found is None:
        raise NoCrypt("crypt_r() failed")
    return found


def _find_crypt() -> Callable[[bytes, bytes, object], bytes | None] | None:
    for name in _LIBRARIES:
        try:
            function = ctypes.CDLL(name).crypt_r
        except (OSError, AttributeError):
            continue
        function.restype = ctypes.c_char_p
        function.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
        return function
    return None


_crypt_r = _find_crypt()


def has_crypt() -> bool:
    """Whether this machine can do more than the schemes of this file."""
    return _crypt_r is not None


class Known:
    """Passwords that were right, so that the next request need not wait for the hash: kept as what a key of this
    process makes of them together with the line they matched. A line that changes is another one.
    """

    __slots__ = ("_key", "_seen")

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Known {len(self._seen)}>"

    def _mark(self, password: bytes, stored: bytes) -> bytes:
        return hashlib.blake2b(b"%d:%b%b" % (len(stored), stored, password), key=self._key, digest_size=32).digest()

    def __contains__(self, pair: tuple[bytes, bytes]) -> bool:
        mark = self._mark(*pair)
        if mark not in self._seen:
            return False
        self._seen.move_to_end(mark)
        return True

    def add(self, password: bytes, stored: bytes) -> None:
        self._seen[self._mark(password, stored)] = None
        if len(self._seen) > _MOST_KNOWN:
            self._seen.popitem(last=False)
