"""`set` of `stream`: a session's own variable, before anything of it is read (ngx_stream_set_module)."""

from __future__ import annotations

from dataclasses import dataclass, field

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.template import Template
from upwell.modules.rewrite import variable_name


@dataclass(frozen=True, slots=True)
class StreamSetSettings:
    """Names and values, in their order."""

    steps: tuple[tuple[str, Template], ...] = field(default=(), metadata=LOCAL)


def _set(block: Block, directive: Directive) -> None:
    name = variable_name(block, directive)
    block.append(StreamSetSettings, "steps", (name, block.template(directive, 1)))


MODULE = Module("stream_set", (command("set", "stream_server", 2, _set),), options=("stream_set_module",))
