"""`sticky`: which sessions there are and how they are known. Which peer one gets is proxy/sticky.py's business.

As in nginx, with one difference: a balancing method that stands behind `sticky` puts an end to it there, with nothing
but a warning; here the same warning comes, and both are in force.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.slots import once
from upwell.config.template import Template, Variable
from upwell.errors import ConfigError, Position
from upwell.modules.lua import LuaSettings
from upwell.modules.upstream import UpstreamSettings
from upwell.units import parse_seconds, parse_size, parse_time

FOR_EVER = -1
"""`expires=max`."""
_SAME_SITE = ("strict", "lax", "none")
_SMALLEST_ZONE = 8 * 4096  # nginx: eight pages
_TIMEOUT = 600.0


@dataclass(frozen=True, slots=True)
class StickyCookie:
    """What `sticky cookie` sets. `expires` is in seconds, None: for as long as the browser runs."""

    name: str
    expires: int | None = None
    domain: Template | None = None
    path: str = ""
    httponly: bool = False
    secure: bool = False
    samesite: Template | None = None


@dataclass(frozen=True, slots=True)
class StickyZone:
    """What `sticky learn` keeps its sessions in. `size` is in bytes, `timeout` in seconds; `header`: a session is known
    as soon as the answer's head has come, else when the answer is over."""

    name: str
    size: int
    position: Position
    timeout: float = _TIMEOUT
    header: bool = False


@dataclass(frozen=True, slots=True)
class Sticky:
    """One `sticky`. The first variable of `lookup` that is not empty is a peer's route, or with `zone` a session's
    name; that of `create` names a session that begins."""

    lookup: tuple[str, ...]
    cookie: StickyCookie | None = None
    create: tuple[str, ...] = ()
    zone: StickyZone | None = None


@dataclass(frozen=True, slots=True)
class StickySettings:
    """On an `upstream` block."""

    sticky: Sticky | None = field(default=None, metadata=LOCAL)


def zones(http: Block) -> Iterator[StickyZone]:
    """Those of all upstreams."""
    for block in http.of("upstream"):
        sticky = block[StickySettings].sticky
        if sticky is not None and sticky.zone is not None:
            yield sticky.zone


def told(http: Block) -> dict[str, dict[str, object]]:
    """How sessions are bound, by the names of upstreams, for pages."""
    found: dict[str, dict[str, object]] = {}
    for block in http.of("upstream"):
        sticky = block[StickySettings].sticky
        if sticky is None:
            continue
        lookup = [f"${name}" for name in sticky.lookup]
        zone = sticky.zone
        if sticky.cookie is not None:
            said: dict[str, object] = {"method": "cookie", "cookie": sticky.cookie.name}
        elif zone is None:
            said = {"method": "route", "lookup": lookup}
        else:
            create = [f"${name}" for name in sticky.create]
            said = {"method": "learn", "lookup": lookup, "create": create, "zone": zone.name, "timeout": zone.timeout}
        found[block[UpstreamSettings].name] = said
    return found


def _sticky(block: Block, directive: Directive) -> None:
    once(block, directive, StickySettings, "sticky")
    kind = directive.args[0]
    if kind == "cookie":
        made = _cookie(block, directive)
    elif kind == "route":
        made = Sticky(tuple(_name(block, directive, index) for index in range(1, len(directive.args))))
    elif kind == "learn":
        made = _learn(block, directive)
    else:
        raise directive.error(f'unknown parameter "{kind}"', 0)
    block.set(StickySettings, "sticky", made)


def _name(block: Block, directive: Directive, index: int, text: str | None = None) -> str:
    """The variable that argument `index` (or `text`, a part of it) is: `$` and a name, which nginx does not look at."""
    if text is None:
        text = directive.args[index]
    if not text.startswith("$") or text == "$":
        raise directive.error(f'invalid variable name "{text}"', index)
    name = text[1:]
    if name.isdigit():  # a capture has no place among variables (nginx: ngx_http_get_variable_index)
        raise directive.error(f'unknown "{name}" variable', index)
    block.loading.uses.append((name, directive.place(index)))
    return name


def _wrong(directive: Directive, message: str, index: int) -> ConfigError:
    return directive.error(f'"sticky" directive {message}', index)


def _cookie(block: Block, directive: Directive) -> Sticky:
    name = directive.args[1]
    if not name:
        raise _wrong(directive, "empty cookie name", 1)
    given: dict[str, object] = {}
    for index in range(2, len(directive.args)):
        text = directive.args[index]
        parameter, equals, value = text.partition("=")
        flags = parameter in ("httponly", "secure")
        if flags == bool(equals) or (not flags and parameter not in ("domain", "path", "expires", "samesite")):
            raise directive.error(f'unknown parameter "{text}"', index)
        if parameter in given:
            raise _wrong(directive, f'parameter "{parameter}" is duplicate', index)
        if flags:
            given[parameter] = True
        elif parameter == "expires":
            given[parameter] = _expires(directive, index, value)
        elif parameter == "samesite":
            given[parameter] = _samesite(block, directive, index, value)
        elif not value:
            raise _wrong(directive, f'no value for "{parameter}"', index)
        elif parameter == "path":
            given[parameter] = value
        else:
            given[parameter] = block.template(directive, index, value)
    cookie = StickyCookie(name, **given)  # type: ignore[arg-type]  # each came from what reads its parameter
    return Sticky((f"cookie_{name}",), cookie)


def _expires(directive: Directive, index: int, value: str) -> int:
    if value == "max":
        return FOR_EVER
    try:
        return int(parse_seconds(value))
    except ValueError:
        raise _wrong(directive, 'invalid "expires" parameter value', index) from None


def _samesite(block: Block, directive: Directive, index: int, value: str) -> Template:
    template = block.template(directive, index, value)
    literal = template.literal
    if literal is not None and literal.lower() not in _SAME_SITE:
        raise _wrong(directive, 'invalid "samesite" parameter value', index)
    return template


def _learn(block: Block, directive: Directive) -> Sticky:
    names: dict[str, list[str]] = {"lookup": [], "create": []}
    zone: tuple[str, int, int] | None = None
    timeout: float | None = None
    header = False
    for index in range(1, len(directive.args)):
        text = directive.args[index]
        parameter, equals, value = text.partition("=")
        if parameter == "zone" and equals:
            if zone is not None:
                raise _wrong(directive, "duplicate zone", index)
            zone = (*_zone(directive, index, value), index)
        elif parameter == "timeout" and equals:
            if timeout is not None:
                raise _wrong(directive, "duplicate timeout", index)
            timeout = _timeout(directive, index, value)
        elif parameter in names and equals:
            if not value.startswith("$"):
                raise _wrong(directive, f'missing variable in the "{parameter}" parameter', index)
            names[parameter].append(_name(block, directive, index, value))
        elif text == "header":
            header = True
        elif text == "sync":
            raise directive.error('the parameter "sync" of "sticky" is not supported by upwell', index)
        else:
            raise directive.error(f'unknown parameter "{text}"', index)
    for parameter, found in names.items():
        if not found:
            raise _wrong(directive, f'"{parameter}" parameter is not specified', 0)
    if zone is None:
        raise _wrong(directive, '"zone" parameter is not specified', 0)
    name, size, index = zone
    _claim(block, directive, name, size, index)
    kept = StickyZone(name, size, directive.place(index), _TIMEOUT if timeout is None else timeout, header)
    return Sticky(tuple(names["lookup"]), create=tuple(names["create"]), zone=kept)


def _zone(directive: Directive, index: int, value: str) -> tuple[str, int]:
    name, colon, size = value.partition(":")
    if not colon:
        raise _wrong(directive, "zone size is not specified", index)
    if not name:
        raise _wrong(directive, "zone name is not specified", index)
    try:
        bytes_ = parse_size(size)
    except ValueError:
        raise _wrong(directive, "invalid zone size", index) from None
    if bytes_ < _SMALLEST_ZONE:
        raise _wrong(directive, "zone is too small", index)
    return name, bytes_


def _timeout(directive: Directive, index: int, value: str) -> float:
    try:
        timeout = parse_time(value)
    except ValueError:
        timeout = 0.0
    if not timeout:
        raise _wrong(directive, "invalid timeout", index)
    return timeout


def _claim(block: Block, directive: Directive, name: str, size: int, index: int) -> None:
    """Refuse a zone that another upstream has for its sessions."""
    for other in block.around("http").of("upstream"):
        sticky = other[StickySettings].sticky
        if sticky is None or sticky.zone is None or sticky.zone.name != name:
            continue
        if sticky.zone.size != size:
            raise directive.error(
                f'the size {size} of shared memory zone "{name}" conflicts with already declared size '
                f"{sticky.zone.size}",
                index,
            )
        used = other[UpstreamSettings].name
        raise directive.error(f'sticky zone "{name}" is already used in upstream "{used}"', index)


def _close_http(http: Block) -> None:
    """A zone has one use."""
    others = {block[UpstreamSettings].zone for block in http.of("upstream")}
    others.update(one.name for one in http[LuaSettings].shared_dicts)
    for zone in zones(http):
        if zone.name in others:
            message = f'the shared memory zone "{zone.name}" is already declared for a different use'
            http.loading.errors.append(ConfigError(message, zone.position))


def lookup_template(name: str) -> Template:
    """The variable `name` as a template of its own."""
    return Template((Variable(name),))


MODULE = Module(
    "sticky",
    (command("sticky", "upstream", (2, None), _sticky),),
    {"http": _close_http},
    options=("http_upstream_sticky_module",),
)
