"""`try_files`: files that are looked for, and what answers where none is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import OWN
from upwell.config.model import Block
from upwell.config.slots import once, parse_number
from upwell.config.template import Template
from upwell.modules.files import one_name
from upwell.proxy.files import Files
from upwell.proxy.location import Content
from upwell.proxy.try_files import Tried, TryFiles

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_GREATEST = 999


@dataclass(frozen=True, slots=True)
class TryFilesSettings:
    """`tried` are names, each with whether it is a folder's; `last` what answers instead unless `code` does. Inner
    levels do not inherit them.
    """

    tried: tuple[tuple[Template, bool], ...] = field(default=(), metadata=OWN)
    last: Template = field(default=Template(()), metadata=OWN)
    code: int | None = field(default=None, metadata=OWN)


def compile_try_files(
    settings: TryFilesSettings,
    files: Files,
    content: Content,
    render: Callable[[Template], Callable[[Exchange], bytes]],
) -> Content:
    """`content`, with what comes before it."""
    if not settings.tried:
        return content
    tried = [Tried(one_name(name, render), folder) for name, folder in settings.tried]
    return TryFiles(files, tried, one_name(settings.last, render), settings.code, content).serve


def _try_files(block: Block, directive: Directive) -> None:
    once(block, directive, TryFilesSettings, "tried")
    *names, last = directive.args
    tried = [
        (block.template(directive, index, name.removesuffix("/")), name.endswith("/"))
        for index, name in enumerate(names)
    ]
    block.set(TryFilesSettings, "tried", tuple(tried))
    block.set(TryFilesSettings, "last", block.template(directive, len(names)))
    if last.startswith("="):
        try:
            code = parse_number(last[1:])
        except ValueError:
            code = _GREATEST + 1
        if code > _GREATEST:
            raise directive.error(f'invalid code "{last}"', len(names))
        block.set(TryFilesSettings, "code", code or None)  # nginx takes "=0" for a URI


MODULE = Module("try_files", (command("try_files", "server location", (2, None), _try_files),))
