"""Setters for the usual kinds of values: flags, sizes, times, numbers, texts (nginx: ngx_conf_set_*_slot)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from upwell.config.command import Setter
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.units import parse_offset, parse_seconds, parse_size, parse_time

_Value = TypeVar("_Value", int, float)
_NUMBER = re.compile(r"[0-9]{1,18}")
_MOST_DIGITS = 10  # in the name of a temporary file, of which the folders' names are made


def once(block: Block, directive: Directive, settings: type[Any], name: str) -> None:
    """Raise nginx's "is duplicate" if this level has the value already."""
    if name in block.own(settings):
        raise directive.error(f'"{directive.name}" directive is duplicate')


def note_idle(block: Block, directive: Directive) -> None:
    """Have it said that the directive changes nothing (`upwell -t`, `upwell explain`)."""
    block.loading.idle.append((" ".join((directive.name, *directive.args)), directive.position))


def read_flag(directive: Directive) -> bool:
    value = directive.args[0].lower()
    if value not in ("on", "off"):
        raise directive.error(
            f'invalid value "{directive.args[0]}" in "{directive.name}" directive, it must be "on" or "off"', 0
        )
    return value == "on"


def _read(directive: Directive, index: int, parse: Callable[[str], _Value]) -> _Value:
    try:
        return parse(directive.args[index])
    except ValueError:
        raise directive.error(f'"{directive.name}" directive invalid value', index) from None


def read_size(directive: Directive, index: int = 0) -> int:
    """Bytes of a size argument."""
    return _read(directive, index, parse_size)


def read_offset(directive: Directive, index: int = 0) -> int:
    """Bytes of an argument that nginx counts as an offset."""
    return _read(directive, index, parse_offset)


def read_time(directive: Directive, index: int = 0) -> float:
    """Seconds of a time argument."""
    return _read(directive, index, parse_time)


def read_seconds(directive: Directive, index: int = 0) -> float:
    """Seconds of an argument that nginx counts in seconds."""
    return _read(directive, index, parse_seconds)


def read_number(directive: Directive, index: int = 0) -> int:
    if _NUMBER.fullmatch(directive.args[index]) is None:
        raise directive.error(f'"{directive.name}" directive invalid number', index)
    return int(directive.args[index])


def read_levels(directive: Directive) -> tuple[int, ...]:
    """The lengths of a path's folders that follow the path (nginx: ngx_conf_set_path_slot)."""
    levels: list[int] = []
    for index, text in enumerate(directive.args[1:], 1):
        try:
            level = parse_number(text)
        except ValueError:
            level = 0
        if not level or sum(levels) + level > _MOST_DIGITS:
            raise directive.error(f'"{directive.name}" directive invalid value', index)
        levels.append(level)
    return tuple(levels)


def parse_number(text: str) -> int:
    """A decimal number without sign. Raises ValueError."""
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(text)
    return int(text)


def _slot(settings: type[Any], name: str, read: Callable[[Directive], Any]) -> Setter:
    def put(block: Block, directive: Directive) -> None:
        once(block, directive, settings, name)
        block.set(settings, name, read(directive))

    return put


def flag(settings: type[Any], name: str) -> Setter:
    return _slot(settings, name, read_flag)


def size(settings: type[Any], name: str) -> Setter:
    return _slot(settings, name, read_size)


def offset(settings: type[Any], name: str) -> Setter:
    return _slot(settings, name, read_offset)


def time(settings: type[Any], name: str) -> Setter:
    return _slot(settings, name, read_time)


def number(settings: type[Any], name: str) -> Setter:
    return _slot(settings, name, read_number)


def number_between(settings: type[Any], name: str, least: int, most: int) -> Setter:
    """A number within bounds (nginx: ngx_conf_check_num_bounds)."""

    def read(directive: Directive) -> int:
        value = read_number(directive)
        if not least <= value <= most:
            raise directive.error(f"value must be between {least} and {most}", 0)
        return value

    return _slot(settings, name, read)


def text(settings: type[Any], name: str) -> Setter:
    return _slot(settings, name, lambda directive: directive.args[0])


def buffers(settings: type[Any], name: str) -> Setter:
    """Two arguments, a number and a size; both at least 1."""

    def read(directive: Directive) -> tuple[int, int]:
        try:
            count, each = parse_number(directive.args[0]), parse_size(directive.args[1])
        except ValueError:
            count = each = 0
        if not count or not each:
            raise directive.error(f'"{directive.name}" directive invalid value')
        return count, each

    return _slot(settings, name, read)


def words_of(settings: type[Any], name: str, known: Collection[str]) -> Setter:
    """Some of the words `known` as a frozenset; a level may name them in several directives (nginx:
    ngx_conf_set_bitmask_slot).
    """

    def put(block: Block, directive: Directive) -> None:
        own = block.own(settings)
        named: frozenset[str] = own.get(name, frozenset())
        for index, arg in enumerate(directive.args):
            word = arg.lower()
            if word not in known:
                raise directive.error(f'invalid value "{arg}"', index)
            if word in named:
                block.loading.warnings.append(directive.error(f'duplicate value "{arg}"', index))
            named |= {word}
        own[name] = named

    return put


def media_types(settings: type[Any], name: str, first: str = "text/html") -> Setter:
    """Media types in lower case as a frozenset of bytes, with `first` always among them; None for "*" (nginx:
    ngx_http_types_slot).
    """

    def put(block: Block, directive: Directive) -> None:
        own = block.own(settings)
        named: frozenset[bytes] | None = own.get(name, frozenset((first.encode(),)))
        for index, arg in enumerate(directive.args):
            if named is None:
                break
            media = arg.lower().encode()
            if media == b"*":
                named = None
            elif media in named:
                block.loading.warnings.append(directive.error(f'duplicate MIME type "{arg.lower()}"', index))
            else:
                named |= {media}
        own[name] = named

    return put


def choice(settings: type[Any], name: str, values: Mapping[str, Any]) -> Setter:
    """One of `values` (nginx: ngx_conf_set_enum_slot)."""

    def read(directive: Directive) -> Any:
        if directive.args[0].lower() not in values:
            raise directive.error(f'invalid value "{directive.args[0]}"', 0)
        return values[directive.args[0].lower()]

    return _slot(settings, name, read)
