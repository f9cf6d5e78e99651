"""What a peer asks of the proxy by X-Accel-* fields: another location, a rate, no buffering (nginx).

Knows those fields; which of them a location obeys is decided at load time (proxy_ignore_headers).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from upwell.http1.fields import FieldSection
from upwell.log import ERROR, printable
from upwell.proxy.redirect import redirect_as_get, redirect_to_named

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange
    from upwell.proxy.forward import ForwardSpec

REDIRECT = b"x-accel-redirect"
LIMIT_RATE = b"x-accel-limit-rate"
BUFFERING = b"x-accel-buffering"
CHARSET = b"x-accel-charset"
OBEYED: Final[frozenset[bytes]] = frozenset((REDIRECT, LIMIT_RATE, BUFFERING, CHARSET))
"""X-Accel-Expires is for a cache: with none, it is hidden and that is all."""

_SURVIVE = frozenset((b"set-cookie", b"content-disposition", b"cache-control", b"expires", b"accept-ranges"))
_CLIMBS = re.compile(rb"(?:^|/)\.\.(?:/|$)")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_CHARSET = re.compile(rb"; *charset=([^;]*)", re.IGNORECASE)
DOING: Final = "reading response header from upstream"
_NUMBER = re.compile(rb"[0-9]{1,18}")


def obey(exchange: Exchange, section: FieldSection, spec: ForwardSpec) -> bool:
    """Do what the fields of `section` ask for; true when the answer comes from elsewhere."""
    values = section.values
    obeyed = spec.obeyed
    if LIMIT_RATE in obeyed:
        rate = section.first(LIMIT_RATE)
        if rate is not None and _NUMBER.fullmatch(rate) is not None:
            exchange.limit_rate = int(rate)
    if BUFFERING in obeyed and exchange.source is not None:
        word = values.get(BUFFERING, b"").lower()
        if word in (b"yes", b"no"):
            exchange.source.hold(spec.hold[word == b"yes"])
            exchange.flushes = word == b"no"
    if CHARSET in obeyed and exchange.status not in (301, 302):  # nginx gives these none
        charset = values.get(CHARSET)
        if charset and exchange.location.charsets:
            exchange.asked_charset = charset
        elif charset and b"content-type" in values:
            exchange.log(ERROR, unknown_charset(charset))
    target = section.first(REDIRECT)
    if target is None or REDIRECT not in obeyed:
        return False
    _redirect(exchange, section, spec, target)
    return True


def _redirect(exchange: Exchange, section: FieldSection, spec: ForwardSpec, target: bytes) -> None:
    fields = []
    for (name, value), wire in zip(section.fields, section.wires, strict=True):
        if name in _SURVIVE:
            if name == b"set-cookie" and spec.cookies is not None:
                value = spec.cookies(exchange, value)
            fields.append((wire[: len(name)], value))
    exchange.kept = (*exchange.kept, *fields)
    media = section.values.get(b"content-type")
    if media is not None:
        exchange.content_type = media
        exchange.charset = charset_of(media) or exchange.charset
    if target.startswith(b"@"):
        redirect_to_named(exchange, target)
        return
    uri, _, args = target.partition(b"?")
    path = _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), uri)
    if not path.startswith(b"/") or b"\0" in path or _CLIMBS.search(path) is not None:
        exchange.log(ERROR, f'unsafe URI "{printable(target)}" was detected while {DOING}')
        exchange.respond_error(404)
        return
    redirect_as_get(exchange, path, args)


def with_charset(media: bytes, charset: bytes) -> bytes:
    """A Content-Type with `charset`, unless it names one."""
    return media if charset_of(media) is not None else b"%b; charset=%b" % (media, charset)


def unknown_charset(charset: bytes) -> str:
    return f'unknown charset "{printable(charset)}" to override while {DOING}'


def bare_type(media: bytes) -> bytes:
    """A Content-Type without its charset; other parameters count as part of the type, as in nginx."""
    match = _CHARSET.search(media)
    return media if match is None else media[: match.start()]


def charset_of(media: bytes) -> bytes | None:
    """The charset that a Content-Type names."""
    match = _CHARSET.search(media)
    return None if match is None else match[1].strip(b'"')
