"""`sub_filter` and its family: what is replaced in answers. How is proxy/substitution.py's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import flag, media_types
from upwell.config.template import Template
from upwell.proxy.body_filters import Opener
from upwell.proxy.substitution import Substituting, substituting

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_LEVELS = "http server location"


@dataclass(frozen=True, slots=True)
class SubSettings:
    """`pairs` are the strings with what replaces them; a level's replace those around it. `types` None: all."""

    pairs: tuple[tuple[Template, Template], ...] = ()
    once: bool = True
    types: frozenset[bytes] | None = frozenset((b"text/html",))
    last_modified: bool = False


def compile_sub(settings: SubSettings, render: Callable[[Template], Callable[[Exchange], bytes]]) -> Opener | None:
    """None for a level without sub_filter."""
    if not settings.pairs:
        return None
    pairs = tuple((render(pattern), render(value)) for pattern, value in settings.pairs)
    return substituting(Substituting(pairs, settings.once, settings.types, settings.last_modified))


def _sub_filter(block: Block, directive: Directive) -> None:
    if not directive.args[0]:
        raise directive.error("empty search pattern", 0)
    block.append(SubSettings, "pairs", (block.template(directive, 0), block.template(directive, 1)))


MODULE = Module(
    "sub",
    (
        command("sub_filter", _LEVELS, 2, _sub_filter),
        command("sub_filter_once", _LEVELS, 1, flag(SubSettings, "once")),
        command("sub_filter_types", _LEVELS, (1, None), media_types(SubSettings, "types")),
        command("sub_filter_last_modified", _LEVELS, 1, flag(SubSettings, "last_modified")),
    ),
    options=("http_sub_module",),
)
