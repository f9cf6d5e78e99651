"""`split_clients`: a variable by the hash of a value, in shares of percent (nginx: ngx_http_split_clients_module)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.template import Template
from upwell.errors import ConfigError
from upwell.modules.rewrite import variable_name

_PERCENT = re.compile(r"(\d{1,3})(?:\.(\d{1,2}))?%")
_ALL = 10_000  # hundredths of a percent
_MOST = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Split:
    """One `split_clients`. `parts` are (end, text): the first one whose `end` is above the hash, 0 being above all."""

    name: str
    source: Template
    parts: tuple[tuple[int, Template], ...]


@dataclass(frozen=True, slots=True)
class SplitSettings:
    """On the http block."""

    splits: tuple[Split, ...] = field(default=(), metadata=LOCAL)


def _split_clients(block: Block, directive: Directive) -> None:
    source = block.template(directive, 0)
    name = variable_name(block, directive, 1)
    parts: list[tuple[int, Template]] = []
    total = 0
    errors = block.loading.errors
    for entry in directive.children or ():
        try:
            share = _share(entry)
            total += share
            if total > _ALL:
                raise entry.error("percent total is greater than 100%")
            text = block.template(entry, 0)
            if text.literal is None:
                raise entry.error('variables in a value of "split_clients" are not supported by upwell', 0)
            parts.append((total * _MOST // _ALL if share else 0, text))
        except ConfigError as error:
            errors.append(error)
    block.append(SplitSettings, "splits", Split(name, source, tuple(parts)))


def _share(entry: Directive) -> int:
    """What a line takes, in hundredths of a percent; 0 for the rest."""
    if entry.children is not None:
        raise entry.error('unexpected "{"')
    if len(entry.args) != 1:
        raise entry.error('invalid number of arguments in "split_clients" directive')
    if entry.name == "*":
        return 0
    match = _PERCENT.fullmatch(entry.name)
    share = 0 if match is None else int(match[1]) * 100 + int((match[2] or "").ljust(2, "0"))
    if not share:
        raise entry.error(f'invalid percent value "{entry.name}"')
    return share


MODULE = Module(
    "split_clients",
    (command("split_clients", "http stream", 2, _split_clients, block=True),),
    options=(
        "http_split_clients_module",
        "stream_split_clients_module",
    ),
)
