"""`proxy_cookie_domain`, `proxy_cookie_path`, `proxy_cookie_flags`, and the function that changes Set-Cookie so."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from upwell import pcre
from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.template import Template
from upwell.modules.replacement import Change, Render, by_front, read_regex, whole_by_regex

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_LEVELS = "http server location"
_SAME_SITE = {b"samesite=strict": b"Strict", b"samesite=lax": b"Lax", b"samesite=none": b"None"}
_SWITCHES = frozenset((b"secure", b"nosecure", b"httponly", b"nohttponly", b"nosamesite"))
_FLAGS = _SWITCHES.union(_SAME_SITE)

Attribute = tuple[bytes, "bytes | None"]
RenderTemplate = Callable[[Template], Render]


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One pair: what `source` or `regex` fits becomes `replacement`."""

    source: Template | None
    regex: re.Pattern[bytes] | None
    replacement: Template


@dataclass(frozen=True, slots=True)
class Flags:
    """One `proxy_cookie_flags`: the cookie by its name or by `regex`, and the flags."""

    name: Template | None
    regex: re.Pattern[bytes] | None
    flags: tuple[Template, ...]


@dataclass(frozen=True, slots=True)
class ProxyCookieSettings:
    """Each of the three is inherited where a level does not give it; `off` is ()."""

    domains: tuple[Rewrite, ...] = ()
    paths: tuple[Rewrite, ...] = ()
    flags: tuple[Flags, ...] = ()


def compile_cookies(settings: ProxyCookieSettings, render: RenderTemplate) -> Callable[[Exchange, bytes], bytes] | None:
    """What becomes of a Set-Cookie value; None where nothing ever changes."""
    if not (settings.domains or settings.paths or settings.flags):
        return None
    changes = {
        b"domain": [_domain(one, render) for one in settings.domains],
        b"path": [_path(one, render) for one in settings.paths],
    }
    flags = [_flags(one, render) for one in settings.flags]

    def change(exchange: Exchange, value: bytes) -> bytes:
        attributes = parse_cookie(value)
        if attributes[0][1] is None:
            return value  # no name=value: not a cookie
        changed = False
        for index, (key, text) in enumerate(attributes[1:], 1):
            if text is not None:
                for one in changes.get(key.lower(), ()):
                    new = one(exchange, text)
                    if new is not None:
                        attributes[index] = (key, new)
                        changed = True
                        break
        for edit in flags:
            edited = edit(exchange, attributes)
            if edited is not None:
                attributes, changed = edited, True
                break
        if not changed:
            return value
        return b"; ".join([key if text is None else b"%b=%b" % (key, text) for key, text in attributes])

    return change


def parse_cookie(value: bytes) -> list[Attribute]:
    """A Set-Cookie value as (name, value) pairs, None for an attribute without "="; spaces around them are gone."""
    attributes: list[Attribute] = []
    for part in value.split(b";"):
        key, equals, text = part.partition(b"=")
        attributes.append((key.strip(b" "), text.strip(b" ") if equals else None))
    return attributes


def _domain(one: Rewrite, render: RenderTemplate) -> Change:
    replacement = render(one.replacement)
    if one.regex is not None:
        return whole_by_regex(one.regex, replacement)
    assert one.source is not None
    source = render(one.source)

    def change(exchange: Exchange, text: bytes) -> bytes | None:
        dot = text[:1] == b"."
        if text[dot:].lower() != source(exchange).lower():
            return None
        return text[:dot] + replacement(exchange)

    return change


def _path(one: Rewrite, render: RenderTemplate) -> Change:
    replacement = render(one.replacement)
    if one.regex is not None:
        return whole_by_regex(one.regex, replacement)
    assert one.source is not None
    return by_front(render(one.source), replacement)


def _flags(one: Flags, render: RenderTemplate) -> Callable[[Exchange, list[Attribute]], list[Attribute] | None]:
    regex = one.regex
    name = None if one.name is None else render(one.name)
    words = [render(flag) for flag in one.flags]

    def edit(exchange: Exchange, attributes: list[Attribute]) -> list[Attribute] | None:
        key = attributes[0][0]
        if regex is not None:
            if pcre.search(regex, key) is None:
                return None
        elif name is None or name(exchange).lower() != key.lower():
            return None
        known = {word(exchange).lower() for word in words}  # an empty or unknown one is none, as nginx sees it
        return set_flags(attributes, known & _FLAGS)

    return edit


def set_flags(attributes: list[Attribute], flags: set[bytes]) -> list[Attribute]:
    """The attributes of a cookie with `flags` ("secure", "nohttponly", "samesite=lax", ...) put on or taken off."""
    out: list[Attribute] = [attributes[0]]
    wanted = next((shown for flag, shown in _SAME_SITE.items() if flag in flags), None)
    left = {flag for flag in (b"secure", b"httponly") if flag in flags}
    for key, text in attributes[1:]:
        name = key.lower()
        if name in (b"secure", b"httponly"):
            if name in flags:
                left.discard(name)
            elif b"no" + name in flags:
                continue
        elif name == b"samesite":
            if wanted is not None:
                if text is None or text.lower() != wanted.lower():
                    key, text = b"SameSite", wanted
                wanted = None
            elif b"nosamesite" in flags:
                continue
        out.append((key, text))
    if b"secure" in left:
        out.append((b"Secure", None))
    if b"httponly" in left:
        out.append((b"HttpOnly", None))
    if wanted is not None:
        out.append((b"SameSite", wanted))
    return out


# Directives


def _begin(block: Block, directive: Directive, name: str) -> bool:
    """Whether there is an entry to add; `off` is dealt with here."""
    own = block.own(ProxyCookieSettings)
    given = own.get(name)
    if given == () or (given is not None and directive.args == ("off",)):
        raise directive.error(f'"{directive.name}" directive is duplicate')
    if len(directive.args) > 1:
        return True
    if directive.args[0] != "off":
        raise directive.error(f'invalid parameter "{directive.args[0]}"', 0)
    own[name] = ()
    return False


def _cookie_domain(block: Block, directive: Directive) -> None:
    if not _begin(block, directive, "domains"):
        return
    first, second = directive.args
    if first.startswith("~"):
        rewrite = Rewrite(None, read_regex(block, directive, first[1:], True), block.template(directive, 1))
    else:
        source = block.template(directive, 0, first.removeprefix("."))
        rewrite = Rewrite(source, None, block.template(directive, 1, second.removeprefix(".")))
    block.append(ProxyCookieSettings, "domains", rewrite)


def _cookie_path(block: Block, directive: Directive) -> None:
    if not _begin(block, directive, "paths"):
        return
    first = directive.args[0]
    replacement = block.template(directive, 1)
    if first.startswith("~"):
        caseless = first.startswith("~*")
        rewrite = Rewrite(None, read_regex(block, directive, first[2 if caseless else 1 :], caseless), replacement)
    else:
        rewrite = Rewrite(block.template(directive, 0), None, replacement)
    block.append(ProxyCookieSettings, "paths", rewrite)


def _cookie_flags(block: Block, directive: Directive) -> None:
    if not _begin(block, directive, "flags"):
        return
    first = directive.args[0]
    flags = tuple(block.template(directive, index) for index in range(1, len(directive.args)))
    if first.startswith("~"):
        entry = Flags(None, read_regex(block, directive, first[1:], True), flags)
    else:
        entry = Flags(block.template(directive, 0), None, flags)
    block.append(ProxyCookieSettings, "flags", entry)


MODULE = Module(
    "proxy_cookie",
    (
        command("proxy_cookie_domain", _LEVELS, (1, 2), _cookie_domain),
        command("proxy_cookie_path", _LEVELS, (1, 2), _cookie_path),
        command("proxy_cookie_flags", _LEVELS, (1, 4), _cookie_flags),
    ),
)
