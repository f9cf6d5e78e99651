"""`limit_req_zone`, `limit_req` and its like: how fast requests may come. What happens to one is proxy/limits.py's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import choice, flag, number_between
from upwell.config.template import Template
from upwell.log import ERROR
from upwell.modules.limit_zones import LEVELS, LimitZone, positive, read_zone, use_zone
from upwell.proxy.limits import NO_DELAY, RateLimit, RateLimits
from upwell.zone.rates import Rates

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_LEVELS = "http server location"


@dataclass(frozen=True, slots=True)
class RequestLimit:
    """One `limit_req`; `burst` and `delay` are thousandths of a request."""

    zone: str
    burst: int = 0
    delay: int = 0


@dataclass(frozen=True, slots=True)
class LimitReqSettings:
    """ngx_http_limit_req_module. The limits of one level replace those of the levels around it."""

    limits: tuple[RequestLimit, ...] = ()
    status: int = 503
    log_level: int = ERROR
    dry_run: bool = False


def compile_limit_req(
    settings: LimitReqSettings,
    zones: Mapping[str, tuple[LimitZone, Rates]],
    render: Callable[[Template], Callable[[Exchange], bytes]],
) -> RateLimits | None:
    """The limits of a location; None where there are none."""
    if not settings.limits:
        return None
    limits = []
    for one in settings.limits:
        zone, rates = zones[one.zone]
        limits.append(RateLimit(rates, render(zone.key), zone.key_text, one.burst, one.delay))
    return RateLimits(limits, settings.status, settings.log_level, settings.dry_run)


def _zone(block: Block, directive: Directive) -> None:
    read_zone(block, directive, with_rate=True)


def _limit(block: Block, directive: Directive) -> None:
    zone: str | None = None
    place, burst, delay = 0, 0, 0
    for index, text in enumerate(directive.args):
        name, equals, value = text.partition("=")
        if name == "zone" and equals:
            zone, place = value, index
        elif name in ("burst", "delay") and equals:
            number = positive(value)
            if not number:
                raise directive.error(f'invalid {name} value "{text}"', index)
            if name == "burst":
                burst = number * 1000
            else:
                delay = number * 1000
        elif text == "nodelay":
            delay = NO_DELAY
        else:
            raise directive.error(f'invalid parameter "{text}"', index)
    if zone is None:
        raise directive.error('"limit_req" must have "zone" parameter')
    if any(other.zone == zone for other in block.own(LimitReqSettings).get("limits", ())):
        raise directive.error('"limit_req" directive is duplicate')
    use_zone(block, directive, place, zone, "limit_req_zone")
    block.append(LimitReqSettings, "limits", RequestLimit(zone, burst, delay))


MODULE = Module(
    "limit_req",
    (
        command("limit_req_zone", "http", 3, _zone),
        command("limit_req", _LEVELS, (1, 3), _limit),
        command("limit_req_status", _LEVELS, 1, number_between(LimitReqSettings, "status", 400, 599)),
        command("limit_req_log_level", _LEVELS, 1, choice(LimitReqSettings, "log_level", LEVELS)),
        command("limit_req_dry_run", _LEVELS, 1, flag(LimitReqSettings, "dry_run")),
    ),
    options=("http_limit_req_module",),
)
