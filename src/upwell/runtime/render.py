"""Templates compiled: `text $var` becomes a function of the exchange, chosen by what the template is made of."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar, cast

from upwell.config.template import Template, Variable
from upwell.proxy import variables

if TYPE_CHECKING:
    from upwell.http1.head import RequestHead
    from upwell.proxy.exchange import Exchange

Render = Callable[["Exchange"], bytes]
Escape = Callable[[bytes], bytes]
T = TypeVar("T")

_MOST_REMEMBERED: Final = 2048
_PLAIN: Final = frozenset(
    ("body_bytes_sent", "bytes_sent", "msec", "remote_addr", "status", "time_iso8601", "time_local")
)
"""Variables that are always there and never need escaping."""
_OF_HEAD: Final = frozenset(("remote_user", "request"))
"""Variables that nothing but the request's head decides; so do those of the http_ family."""

_UNSAFE_DEFAULT: Final = re.compile(rb'[\x00-\x1f"\\\x7f-\xff]')
_UNSAFE_JSON: Final = re.compile(rb'[\x00-\x1f"\\]')
_JSON: Final = {b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t", b"\b": b"\\b", b"\f": b"\\f", b'"': b'\\"', b"\\": b"\\\\"}


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
    """The function of a `log_format`: values are escaped, one that is not found is "-" (empty with JSON).

    What depends on the request's head alone is remembered with the head, as long as nobody changed the request.
    """
    pieces: list[bytes | list[Render]] = []  # by turns: what is computed for each line, and what the head decides
    computed: list[tuple[int, Render]] = []
    blank: list[bytes] = []  # the line in its parts, the literal ones filled in
    every: list[tuple[int, Render]] = []
    for part in (*template.parts, "\n"):
        if isinstance(part, str):
            value = cast("Render", _part(part))
            blank.append(part.encode("utf-8", "surrogateescape"))
        else:
            value = cast("Render", _part(part)) if part.name in _PLAIN else logged_value(_part(part), escape)
            every.append((len(blank), value))
            blank.append(b"")
            if part.name in _PLAIN or not (part.name in _OF_HEAD or part.name.startswith("http_")):
                computed.append((len(pieces), value))
                pieces.append(b"")
                continue
        if not pieces or isinstance(pieces[-1], bytes):
            pieces.append([])
        run = pieces[-1]
        assert isinstance(run, list)
        run.append(value)
    known: dict[RequestHead, list[bytes]] = {}

    def of_head(exchange: Exchange) -> list[bytes]:
        return [
            piece if isinstance(piece, bytes) else b"".join([value(exchange) for value in piece]) for piece in pieces
        ]

    def line(exchange: Exchange) -> bytes:
        head = exchange.head
        if head.kept and exchange.variables is None and exchange.values is head.section.values:
            remembered = known.get(head)
            if remembered is None:
                if len(known) >= _MOST_REMEMBERED:
                    known.clear()
                remembered = known[head] = of_head(exchange)
            out = remembered.copy()
            for index, value in computed:
                out[index] = value(exchange)
            return b"".join(out)
        out = blank.copy()
        for index, value in every:
            out[index] = value(exchange)
        return b"".join(out)

    return line


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

    if known is None:

        def made_or_computed(exchange: Exchange) -> bytes | None:
            made = exchange.variables
            if made is not None and name in made:
                return made[name]
            compute = exchange.client.endpoint.computed.get(name)
            return None if compute is None else compute(exchange)

        return made_or_computed

    def of_configuration(exchange: Exchange) -> bytes | None:
        made = exchange.variables
        if made is not None and name in made:
            return made[name]
        compute = exchange.client.endpoint.computed.get(name)
        return known(exchange) if compute is None else compute(exchange)

    return of_configuration


def logged_value(value: Callable[[T], bytes | None], escape: str) -> Callable[[T], bytes]:
    """`value` as a log line has it: escaped, and with a sign for what is not found."""
    if escape == "none":
        return lambda subject: value(subject) or b""
    unsafe, missing, mend = (
        (_UNSAFE_JSON, b"", _escape_json) if escape == "json" else (_UNSAFE_DEFAULT, b"-", _escape_default)
    )

    def logged(subject: T) -> bytes:
        text = value(subject)
        if text is None:
            return missing
        return text if unsafe.search(text) is None else unsafe.sub(mend, text)

    return logged


def _escape_default(match: re.Match[bytes]) -> bytes:
    return b"\\x%02X" % match[0][0]


def _escape_json(match: re.Match[bytes]) -> bytes:
    return _JSON.get(match[0]) or b"\\u%04X" % match[0][0]
