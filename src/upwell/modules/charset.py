"""`charset` with its family, and `charset_map`: what answers say of their charset.

Recoding itself is proxy/charset.py's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from upwell.config.command import Module, Setter, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import flag, media_types, once
from upwell.config.template import Template
from upwell.errors import ConfigError
from upwell.proxy.body_filters import Opener, Stage
from upwell.proxy.charset import ByTable, Charsets, IntoUtf8, Naming, OutOfUtf8, naming

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_LEVELS = "http server location"
_TYPES = "text/html text/xml text/plain text/vnd.wap.wml application/javascript application/rss+xml"
_UTF8 = "utf-8"
_BYTE = re.compile(r"[0-9A-Fa-f]{1,2}")
_NO_CHARACTER = "?"
_OFF = Template(("off",))


@dataclass(frozen=True, slots=True)
class CharsetMap:
    """One `charset_map` of single bytes into others, or into characters (`target` is utf-8)."""

    source: str
    target: str
    entries: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class CharsetSettings:
    """`names` are all that the configuration mentions, in its order: known at the http level, with the `maps`."""

    charset: Template = _OFF
    source: Template = _OFF
    override: bool = False
    types: frozenset[bytes] | None = frozenset(_TYPES.encode().split())
    names: tuple[str, ...] = ()
    maps: tuple[CharsetMap, ...] = ()


def compile_charset(block: Block, render: Callable[[Template], Callable[[Exchange], bytes]]) -> Opener | None:
    """None where nothing is named or recoded."""
    settings = block[CharsetSettings]
    if not has_charset(settings):
        return None
    return naming(
        Naming(
            None if settings.charset == _OFF else render(_as_first_written(settings, settings.charset)),
            None if settings.source == _OFF else render(settings.source),
            settings.override,
            settings.types,
            _known(settings),
        )
    )


def has_charset(settings: CharsetSettings) -> bool:
    """Whether anything is named or recoded."""
    return settings.charset != _OFF or settings.source != _OFF


def _as_first_written(settings: CharsetSettings, charset: Template) -> Template:
    """A name that is fixed goes out as the configuration first mentions it."""
    if charset.literal is None:
        return charset
    return Template((next(name for name in settings.names if name.lower() == str(charset.literal).lower()),))


def _known(settings: CharsetSettings) -> Charsets:
    recoders: dict[tuple[bytes, bytes], Callable[[], Stage]] = {}
    for one in settings.maps:
        source, target = one.source.lower().encode(), one.target.lower().encode()
        if one.target.lower() == _UTF8:
            characters = [chr(byte) if byte < 128 else _NO_CHARACTER for byte in range(256)]
            codes = {byte: byte for byte in range(128)}
            for byte, text in one.entries:
                characters[byte] = text
                codes[ord(text)] = byte
            recoders[source, target] = partial(IntoUtf8, "".join(characters))
            recoders[target, source] = partial(OutOfUtf8, codes)
        else:
            there = bytearray(byte if byte < 128 else ord(_NO_CHARACTER) for byte in range(256))
            back = bytearray(there)
            for byte, text in one.entries:
                there[byte] = ord(text)
                back[ord(text)] = byte
            recoders[source, target] = partial(ByTable, bytes(there))
            recoders[target, source] = partial(ByTable, bytes(back))
    return Charsets(frozenset(name.lower().encode() for name in settings.names), recoders)


def _mention(block: Block, name: str) -> None:
    block.around("http").append(CharsetSettings, "names", name)


def _name_slot(name: str) -> Setter:
    def put(block: Block, directive: Directive) -> None:
        once(block, directive, CharsetSettings, name)
        template = block.template(directive, 0)
        if template.literal is not None:
            if template != _OFF:
                _mention(block, template.literal)
        elif len(template.parts) != 1:
            raise directive.error(f'"{directive.args[0]}" is not supported by upwell: a name, or one variable', 0)
        block.set(CharsetSettings, name, template)

    return put


def _charset_map(block: Block, directive: Directive) -> None:
    source, target = directive.args
    _mention(block, source)
    _mention(block, target)
    pair = {source.lower(), target.lower()}
    if len(pair) == 1:
        raise directive.error(f'"charset_map" between the same charsets "{source}" and "{target}"')
    if source.lower() == _UTF8:
        raise directive.error(f'"charset_map {source}" is not supported by upwell: name utf-8 last', 0)
    for known in block[CharsetSettings].maps:
        if {known.source.lower(), known.target.lower()} == pair:
            raise directive.error(f'duplicate "charset_map" between "{source}" and "{target}"')
    entries = [_entry(one, target.lower() == _UTF8) for one in directive.children or ()]
    block.append(CharsetSettings, "maps", CharsetMap(source, target, tuple(entries)))


def _entry(entry: Directive, utf8: bool) -> tuple[int, str]:
    if entry.children is not None:
        raise entry.error('unexpected "{"')
    if len(entry.args) != 1:
        raise entry.error("invalid parameters number")
    text = entry.args[0]
    if _BYTE.fullmatch(entry.name) is None:
        raise entry.error(f'invalid value "{entry.name}"')
    try:
        if not utf8:
            if _BYTE.fullmatch(text) is None:
                raise ValueError(text)
            return int(entry.name, 16), chr(int(text, 16))
        character = bytes.fromhex(text).decode()
        if len(character) != 1 or ord(character) > 0xFFFF:
            raise ValueError(text)
    except ValueError:
        raise entry.error(f'invalid value "{text}"', 0) from None
    return int(entry.name, 16), character


def _check_maps(http: Block) -> None:
    """Where both charsets of a level are known, there must be a table between them."""
    pairs = {frozenset((one.source.lower(), one.target.lower())) for one in http[CharsetSettings].maps}
    for block in http.walk():
        settings = block[CharsetSettings]
        source, target = settings.source.literal, settings.charset.literal
        if source is None or target is None or "off" in (source, target) or source.lower() == target.lower():
            continue
        if frozenset((source.lower(), target.lower())) not in pairs:
            raise ConfigError(f'no "charset_map" between the charsets "{source}" and "{target}"', block.position)


MODULE = Module(
    "charset",
    (
        command("charset", f"{_LEVELS} if", 1, _name_slot("charset")),
        command("source_charset", f"{_LEVELS} if", 1, _name_slot("source")),
        command("override_charset", f"{_LEVELS} if", 1, flag(CharsetSettings, "override")),
        command("charset_types", _LEVELS, (1, None), media_types(CharsetSettings, "types")),
        command("charset_map", "http", 2, _charset_map, block=True),
    ),
    {"http": _check_maps},
    options=("http_charset_module",),
)
