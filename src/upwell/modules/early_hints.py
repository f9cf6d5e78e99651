"""`early_hints`: which requests get the 103 of a peer. Passing it on is proxy/'s."""

from __future__ import annotations

from dataclasses import dataclass

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.template import Template


@dataclass(frozen=True, slots=True)
class EarlyHintsSettings:
    """Hints pass when one of `values` is neither empty nor "0"; () for never."""

    values: tuple[Template, ...] = ()


def _early_hints(block: Block, directive: Directive) -> None:
    for index in range(len(directive.args)):
        block.append(EarlyHintsSettings, "values", block.template(directive, index))


MODULE = Module("early_hints", (command("early_hints", "http server location", (1, None), _early_hints),))
