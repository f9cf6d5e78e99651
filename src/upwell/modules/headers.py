"""`add_header`, `add_trailer` and `expires`: fields beside those of an answer (nginx: ngx_http_headers_module)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from upwell.config.command import Module, Setter, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import once
from upwell.config.template import Template
from upwell.units import parse_seconds

_LEVELS = "http server location if"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FRAMING = frozenset(("content-length", "transfer-encoding", "connection"))


@dataclass(frozen=True, slots=True)
class AddedField:
    """One `add_header` or `add_trailer`; `always` means: whatever the status."""

    name: str
    value: Template
    always: bool


@dataclass(frozen=True, slots=True)
class Expires:
    """One `expires`. `kind` is "off", "epoch", "max", "access", "modified" or "daily"; `seconds` are those of the last
    three: from now, from Last-Modified, of the day in local time.
    """

    kind: str
    seconds: int = 0


_OFF = Expires("off")


@dataclass(frozen=True, slots=True)
class HeadersSettings:
    """The fields of one level replace those of the levels around it, as in nginx."""

    added: tuple[AddedField, ...] = ()
    trailers: tuple[AddedField, ...] = ()
    expires: Expires = _OFF


def _adding(kind: str) -> Setter:
    def add(block: Block, directive: Directive) -> None:
        name = directive.args[0]
        if len(directive.args) == 3 and directive.args[2] != "always":
            raise directive.error(f'invalid parameter "{directive.args[2]}"', 2)
        if _TOKEN.fullmatch(name) is None:
            raise directive.error(f'invalid header name "{name}"', 0)
        if name.lower() in _FRAMING:
            # A second one of these would say where another answer begins.
            raise directive.error(f'"{directive.name} {name}" is not supported by upwell', 0)
        block.append(HeadersSettings, kind, AddedField(name, block.template(directive, 1), len(directive.args) == 3))

    return add


def _expires(block: Block, directive: Directive) -> None:
    once(block, directive, HeadersSettings, "expires")
    kind, index = "access", 0
    if len(directive.args) == 2:
        if directive.args[0] != "modified":
            raise directive.error("invalid value", 0)
        kind, index = "modified", 1
    text = directive.args[index]
    if "$" in text:
        raise directive.error('variables in "expires" are not supported by upwell', index)
    if kind == "access" and text in ("off", "epoch", "max"):
        block.set(HeadersSettings, "expires", Expires(text))
        return
    if kind == "access" and text.startswith("@"):
        kind = "daily"
    sign = -1 if text.startswith("-") else 1
    try:
        seconds = int(parse_seconds(text.lstrip("@") if kind == "daily" else text.removeprefix("+").removeprefix("-")))
    except ValueError:
        raise directive.error("invalid value", index) from None
    if kind == "daily" and seconds > 86_400:
        raise directive.error("daily time value must be less than 24 hours", index)
    block.set(HeadersSettings, "expires", Expires(kind, sign * seconds))


MODULE = Module(
    "headers",
    (
        command("add_header", _LEVELS, (2, 3), _adding("added")),
        command("add_trailer", _LEVELS, (2, 3), _adding("trailers")),
        command("expires", _LEVELS, (1, 2), _expires),
    ),
)
