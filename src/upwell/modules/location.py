"""`location` in all its forms, and `internal`. Which location a request gets is decided elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.regex import compile_regex
from upwell.config.slots import once
from upwell.errors import ConfigError
from upwell.modules.variables import declare_groups

PLACES = ("location", "if", "limit_except")
"""The kinds of blocks that answer requests, below the server's own level."""
_MODIFIERS = ("=", "^~", "~*", "~")


@dataclass(frozen=True, slots=True)
class LocationSettings:
    """What a location is: nothing of it is inherited.

    `modifier` is "" (prefix), "=", "^~", "~", "~*" or "@"; `pattern` the prefix, the expression, or the name with its
    "@"; `regex` the compiled expression of "~" and "~*". `handler` is the directive that makes the content
    ("proxy_pass", "content_by_lua"; "" for none): when several are given, the last one, as in nginx.
    """

    modifier: str = field(default="", metadata=LOCAL)
    pattern: str = field(default="", metadata=LOCAL)
    regex: re.Pattern[bytes] | None = field(default=None, metadata=LOCAL)
    internal: bool = field(default=False, metadata=LOCAL)
    handler: str = field(default="", metadata=LOCAL)

    @property
    def is_regex(self) -> bool:
        return self.regex is not None

    @property
    def is_named(self) -> bool:
        return self.modifier == "@"


def _location(block: Block, directive: Directive) -> None:
    modifier, pattern = _split(directive)
    place = len(directive.args) - 1
    block.set(LocationSettings, "modifier", modifier)
    block.set(LocationSettings, "pattern", pattern)
    if modifier in ("~", "~*"):
        try:
            regex = compile_regex(pattern, caseless=modifier == "~*")
        except ValueError as error:
            raise directive.error(str(error), place) from None
        block.set(LocationSettings, "regex", regex)
        declare_groups(block, regex)
    outer = block.parent
    if outer is None or outer.kind != "location":
        return
    around = outer[LocationSettings]
    if around.modifier == "=":
        message = f'location "{pattern}" cannot be inside the exact location "{around.pattern}"'
    elif around.is_named:
        message = f'location "{pattern}" cannot be inside the named location "{around.pattern}"'
    elif modifier == "@":
        message = f'named location "{pattern}" can be on the server level only'
    elif modifier not in ("~", "~*") and not pattern.startswith(around.pattern):
        message = f'location "{pattern}" is outside location "{around.pattern}"'
    else:
        return
    raise directive.error(message, place)


def _split(directive: Directive) -> tuple[str, str]:
    """The modifier may stand apart (`~ x`) or at the front of the only argument (`~x`)."""
    if len(directive.args) == 2:
        modifier, pattern = directive.args
        if modifier not in _MODIFIERS:
            raise directive.error(f'invalid location modifier "{modifier}"', 0)
        return modifier, pattern
    text = directive.args[0]
    for modifier in _MODIFIERS:
        if text.startswith(modifier):
            return modifier, text[len(modifier) :]
    return ("@" if text.startswith("@") else ""), text


def _internal(block: Block, directive: Directive) -> None:
    once(block, directive, LocationSettings, "internal")
    block.set(LocationSettings, "internal", True)


def _close_level(block: Block) -> None:
    seen: set[tuple[bool, str]] = set()
    for location in block.of("location"):
        settings = location[LocationSettings]
        if settings.is_regex or settings.is_named:
            continue
        key = (settings.modifier == "=", settings.pattern)
        if key in seen:
            block.loading.errors.append(ConfigError(f'duplicate location "{settings.pattern}"', location.position))
        seen.add(key)


MODULE = Module(
    "location",
    (
        command("location", "server location", (1, 2), _location, opens="location"),
        command("internal", "location", 0, _internal),
    ),
    {"server": _close_level, "location": _close_level},
)
