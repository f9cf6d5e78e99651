"""Templates compiled for sessions of `stream`, as render.py does it for exchanges."""

from __future__ import annotations

from collections.abc import Callable

from upwell.config.template import Template, Variable
from upwell.proxy.session import Session
from upwell.proxy.session_variables import SessionVariable, find
from upwell.runtime.render import logged_value

SessionRender = Callable[[Session], bytes]


def render_session(template: Template) -> SessionRender:
    """A function that gives the template's text for a session; a variable that is not found is empty."""
    literal = template.literal
    if literal is not None:
        constant = literal.encode("utf-8", "surrogateescape")
        return lambda _: constant
    parts = [_part(part) for part in template.parts]
    if len(parts) == 1:
        single = parts[0]
        return lambda session: single(session) or b""
    return lambda session: b"".join([part(session) or b"" for part in parts])


def session_line(template: Template, escape: str) -> SessionRender:
    """The function of a `log_format`: values are escaped, one that is not found is "-" (empty with JSON)."""
    parts = [
        _constant(part) if isinstance(part, str) else logged_value(_variable(part.name), escape)
        for part in (*template.parts, "\n")
    ]
    return lambda session: b"".join([part(session) for part in parts])


def _part(part: str | Variable) -> SessionVariable:
    return _constant(part) if isinstance(part, str) else _variable(part.name)


def _variable(name: str) -> SessionVariable:
    known = find(name)
    if known is not None:
        return known

    def made_or_computed(session: Session) -> bytes | None:
        made = session.variables
        if made is not None and name in made:
            return made[name]
        compute = session.front.computed.get(name)
        return None if compute is None else compute(session)

    return made_or_computed


def _constant(text: str) -> SessionRender:
    constant = text.encode("utf-8", "surrogateescape")
    return lambda _: constant
