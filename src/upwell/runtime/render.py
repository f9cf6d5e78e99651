"""Templates compiled: `text $var` becomes a function of the exchange, chosen by what the template is made of."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from upwell.config.template import Template, Variable
from upwell.proxy import variables

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

Render = Callable[["Exchange"], bytes]
Escape = Callable[[bytes], bytes]

_UNSAFE_DEFAULT = re.compile(rb'[\x00-\x1f"\\\x7f-\xff]')
_UNSAFE_JSON = re.compile(rb'[\x00-\x1f"\\]')
_JSON = {b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t", b"\b": b"\\b", b"\f": b"\\f", b'"': b'\\"', b"\\": b"\\\\"}


def render(template: Template) -> Render:
    """A function that gives the template's text for an exchange; a variable that is not found is empty."""
    literal = template.literal
    if literal is not None:
        constant = literal.encode("utf-8", "surrogateescape")
        return lambda _: constant
    parts = [_part(part) for part in template.parts]
    if len(parts) == 1:
        single = parts[0]
        return lambda exchange: single(exchange) or b""
    return lambda exchange: b"".join([part(exchange) or b"" for part in parts])


def constant_or_render(template: Template) -> bytes | Render:
    """The text itself when it has no variables, else its function."""
    literal = template.literal
    return render(template) if literal is None else literal.encode("utf-8", "surrogateescape")


def log_line(template: Template, escape: str) -> Render:
    """The function of a `log_format`: values are escaped, one that is not found is "-" (empty with JSON)."""
    parts: list[Render] = []
    for part in template.parts:
        if isinstance(part, str):
            text = part.encode("utf-8", "surrogateescape")
            parts.append(lambda _, text=text: text)  # type: ignore[misc]  # mypy gives a lambda's default no type
        else:
            parts.append(_logged(_part(part), escape))
    parts.append(lambda _: b"\n")
    return lambda exchange: b"".join([part(exchange) for part in parts])


def _part(part: str | Variable) -> variables.Variable:
    if isinstance(part, str):
        text = part.encode("utf-8", "surrogateescape")
        return lambda _: text
    return _variable(part.name)


def _variable(name: str) -> variables.Variable:
    """The function of $`name`: built in, else one that the configuration sets on the exchange."""
    known = variables.find(name)
    if known is not None and not name.startswith(tuple(variables.PREFIXES)):
        return known

    def of_configuration(exchange: Exchange) -> bytes | None:
        made = exchange.variables
        if made is not None and name in made:
            return made[name]
        return None if known is None else known(exchange)

    return of_configuration


def _logged(value: variables.Variable, escape: str) -> Render:
    if escape == "none":
        return lambda exchange: value(exchange) or b""
    unsafe, missing, mend = (
        (_UNSAFE_JSON, b"", _escape_json) if escape == "json" else (_UNSAFE_DEFAULT, b"-", _escape_default)
    )
    search = unsafe.search

    def logged(exchange: Exchange) -> bytes:
        text = value(exchange)
        if not text:
            return missing
        return text if search(text) is None else unsafe.sub(mend, text)

    return logged


def _escape_default(match: re.Match[bytes]) -> bytes:
    return b"\\x%02X" % match[0][0]


def _escape_json(match: re.Match[bytes]) -> bytes:
    return _JSON.get(match[0]) or b"\\u%04X" % match[0][0]
