"""The zones of `limit_req_zone` and `limit_conn_zone`: what they have in common, and that a zone has one use."""

from __future__ import annotations

from dataclasses import dataclass, field

from upwell.config.command import Module
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.slots import parse_number
from upwell.config.template import Template
from upwell.errors import ConfigError, Position
from upwell.log import ERROR, INFO, NOTICE, WARN
from upwell.modules.lua import LuaSettings
from upwell.modules.sticky import zones as sticky_zones
from upwell.modules.upstream import UpstreamSettings
from upwell.units import parse_size

LEVELS = {"info": INFO, "notice": NOTICE, "warn": WARN, "error": ERROR}
_SMALLEST = 8 * 4096  # nginx: eight pages


@dataclass(frozen=True, slots=True)
class LimitZone:
    """`use` is the directive that makes it; `rate` is thousandths of a request a second (0: it counts)."""

    use: str
    name: str
    size: int
    key: Template
    key_text: str
    rate: int
    position: Position


@dataclass(frozen=True, slots=True)
class LimitZonesSettings:
    """On http; `used` are the names that limits have, with the directive that makes their zones."""

    zones: tuple[LimitZone, ...] = field(default=(), metadata=LOCAL)
    used: tuple[tuple[str, str, Position], ...] = field(default=(), metadata=LOCAL)


def read_zone(block: Block, directive: Directive, with_rate: bool) -> None:
    """A whole `limit_..._zone`."""
    key = block.template(directive, 0)
    name, size, rate = "", 0, 1000
    for index in range(1, len(directive.args)):
        text = directive.args[index]
        if text.startswith("zone="):
            name, size = _name_and_size(directive, index)
        elif text.startswith("rate=") and with_rate:
            rate = _rate(directive, index)
        else:
            raise directive.error(f'invalid parameter "{text}"', index)
    if not name:
        raise directive.error(f'"{directive.name}" must have "zone" parameter')
    known = next((zone for zone in block[LimitZonesSettings].zones if zone.name == name), None)
    if known is not None:
        if known.use != directive.name:
            raise directive.error(f'the shared memory zone "{name}" is already declared for a different use', 1)
        if known.size != size:
            what = f'the size {size} of shared memory zone "{name}" conflicts with already declared size {known.size}'
            raise directive.error(what, 1)
        raise directive.error(f'{directive.name} "{name}" is already bound to key "{known.key_text}"', 1)
    zone = LimitZone(directive.name, name, size, key, directive.args[0], rate if with_rate else 0, directive.place(1))
    block.append(LimitZonesSettings, "zones", zone)


def _name_and_size(directive: Directive, index: int) -> tuple[str, int]:
    text = directive.args[index]
    name, colon, size = text.removeprefix("zone=").partition(":")
    try:
        if not colon:
            raise ValueError(text)
        octets = parse_size(size)
    except ValueError:
        raise directive.error(f'invalid zone size "{text}"', index) from None
    if octets < _SMALLEST:
        raise directive.error(f'zone "{text}" is too small', index)
    return name, octets


def _rate(directive: Directive, index: int) -> int:
    text = directive.args[index]
    number, scale = text.removeprefix("rate="), 1
    if number.endswith("r/s"):
        number = number[:-3]
    elif number.endswith("r/m"):
        number, scale = number[:-3], 60
    rate = positive(number)
    if not rate:
        raise directive.error(f'invalid rate "{text}"', index)
    return rate * 1000 // scale


def positive(text: str) -> int:
    """A number above 0; 0 for what is none."""
    try:
        return parse_number(text)
    except ValueError:
        return 0


def use_zone(block: Block, directive: Directive, index: int, name: str, maker: str) -> None:
    """A limit uses the zone `name`, which the directive `maker` is to make somewhere."""
    http = block.around("http")
    http.append(LimitZonesSettings, "used", (name, maker, directive.place(index)))


def _close_http(http: Block) -> None:
    settings = http[LimitZonesSettings]
    if not settings.zones and not settings.used:
        return
    errors = http.loading.errors
    others = {block[UpstreamSettings].zone for block in http.of("upstream")}
    others.update(one.name for one in http[LuaSettings].shared_dicts)
    others.update(zone.name for zone in sticky_zones(http))
    different = 'the shared memory zone "{}" is already declared for a different use'
    errors.extend(
        ConfigError(different.format(zone.name), zone.position) for zone in settings.zones if zone.name in others
    )
    made = {zone.name: zone.use for zone in settings.zones}
    refused = {name for position, name in http.loading.refused if position == http.position}
    for name, maker, position in settings.used:
        if name in others or made.get(name, maker) != maker:
            errors.append(ConfigError(different.format(name), position))
        elif name not in made and maker not in refused:
            errors.append(ConfigError(f'zero size shared memory zone "{name}"', position))


MODULE = Module("limit_zones", (), {"http": _close_http})
