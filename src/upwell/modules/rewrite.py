"""`set`, and the list of steps of the rewrite phase that `set`, `set_by_lua*` and `return` share, in their order."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.template import Template
from upwell.errors import Position
from upwell.modules.variables import CHANGEABLE, CHANGEABLE_PREFIXES, SUPPORTED, declare, is_unsupported

_NAME = re.compile(r"\$([A-Za-z0-9_]+)")


@dataclass(frozen=True, slots=True)
class SetVariable:
    """`set $name value`."""

    name: str
    value: Template
    position: Position


@dataclass(frozen=True, slots=True)
class RewriteSettings:
    """The rewrite phase of one level (server: before a location is chosen; location: after). Nothing is inherited.

    Each step is a SetVariable, a `return_.Return` or a `lua.SetByLua`; they run in this order, a Return ends them.
    """

    steps: tuple[object, ...] = field(default=(), metadata=LOCAL)


def variable_name(block: Block, directive: Directive, index: int = 0) -> str:
    """The variable that a directive sets, from its argument `$name`; it is known from now on."""
    text = directive.args[index]
    match = _NAME.fullmatch(text)
    if match is None:
        raise directive.error(f'invalid variable name "{text}"', index)
    name = match[1]
    if name in CHANGEABLE:
        return name
    if name == "args" or (is_unsupported(name) and not name.startswith(CHANGEABLE_PREFIXES)):
        raise directive.error(f'"{directive.name} ${name}" is not supported by upwell', index)
    if name in SUPPORTED:
        raise directive.error(f'the duplicate "{name}" variable', index)
    declare(block, name)
    return name


def _set(block: Block, directive: Directive) -> None:
    name = variable_name(block, directive)
    step = SetVariable(name, block.template(directive, 1), directive.position)
    block.append(RewriteSettings, "steps", step)


MODULE = Module(
    "rewrite",
    (command("set", "server location", 2, _set),),
    options=("http_rewrite_module",),
)
