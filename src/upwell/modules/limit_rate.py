"""`limit_rate` and `limit_rate_after`: how fast an answer goes to the client. Pacing itself is proxy/pace.py's."""

from __future__ import annotations

from dataclasses import dataclass

from upwell.config.command import Module, Setter, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import once, read_size
from upwell.config.template import Template

_LEVELS = "http server location"


@dataclass(frozen=True, slots=True)
class LimitRateSettings:
    """Bytes a second, and the bytes that are free; None where no level says anything."""

    rate: Template | None = None
    after: Template | None = None


def size_or_template(settings: type[object], name: str) -> Setter:
    """A size that may be made of variables (nginx: ngx_http_set_complex_value_size_slot)."""

    def put(block: Block, directive: Directive) -> None:
        once(block, directive, settings, name)
        template = block.template(directive, 0)
        if template.literal is not None:
            read_size(directive)
        block.set(settings, name, template)

    return put


MODULE = Module(
    "limit_rate",
    (
        command("limit_rate", _LEVELS, 1, size_or_template(LimitRateSettings, "rate")),
        command("limit_rate_after", _LEVELS, 1, size_or_template(LimitRateSettings, "after")),
    ),
)
