"""Escaping, base64 and digests of ngx.*: plain functions over bytes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from upwell.lua.bridge import LuaFailure

if TYPE_CHECKING:
    from upwell.lua.vm import Vm

# What is escaped: all but RFC 3986's unreserved characters in a component (2), less in a path (0: as nginx does).
_ESCAPE = {0: re.compile(rb"[^!$&-;=@-\[\]_a-z~]"), 2: re.compile(rb"[^A-Za-z0-9\-._~]")}
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
_SQL_SPECIAL = re.compile(rb"[\x00\x08\t\n\r\x1a\"'\\]")
_SQL = {0: rb"\0", 8: rb"\b", 9: rb"\t", 10: rb"\n", 13: rb"\r", 26: rb"\Z", 34: rb"\"", 39: rb"\'", 92: rb"\\"}


def escape_uri(text: bytes, kind: object = None) -> bytes:
    """`text` percent-escaped as a component (kind 2) or as a whole URI path (kind 0)."""
    if kind is None:
        kind = 2
    unsafe = _ESCAPE.get(kind) if isinstance(kind, int) else None
    if unsafe is None:
        raise LuaFailure(b'"type" %d is not supported by upwell' % kind if isinstance(kind, int) else b"bad type")
    return unsafe.sub(lambda match: b"%%%02X" % match[0][0], text)


def unescape_uri(text: bytes) -> bytes:
    """Percent-escapes and `+` undone; a `%` that escapes nothing stays."""
    return _ESCAPED.sub(lambda match: bytes((int(match[1], 16),)), text.replace(b"+", b" "))


def _decode_base64(text: bytes) -> bytes | None:
    if not _BASE64.fullmatch(text):
        return None
    bare = text.rstrip(b"=")
    if len(bare) % 4 == 1:
        return None
    try:
        return base64.b64decode(bare + b"=" * (-len(bare) % 4))
    except binascii.Error:
        return None


def _encode_base64(text: bytes, unpadded: bool) -> bytes:
    encoded = base64.b64encode(text)
    return encoded.rstrip(b"=") if unpadded else encoded


def _quote_sql(text: bytes) -> bytes:
    return b"'" + _SQL_SPECIAL.sub(lambda match: _SQL[match[0][0]], text) + b"'"


def functions(vm: Vm) -> Mapping[str, Callable[..., Any]]:
    return {
        "escape_uri": escape_uri,
        "unescape_uri": unescape_uri,
        "encode_base64": _encode_base64,
        "decode_base64": _decode_base64,
        "md5": lambda text: hashlib.md5(text, usedforsecurity=False).hexdigest().encode(),
        "md5_bin": lambda text: hashlib.md5(text, usedforsecurity=False).digest(),
        "sha1_bin": lambda text: hashlib.sha1(text, usedforsecurity=False).digest(),
        "crc32_short": zlib.crc32,
        "crc32_long": zlib.crc32,
        "hmac_sha1": lambda key, text: hmac.digest(key, text, "sha1"),
        "quote_sql_str": _quote_sql,
    }
