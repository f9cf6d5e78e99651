"""`limit_conn_zone`, `limit_conn` and its like: how many requests may be under way. Counting is proxy/limits.py's."""

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
from upwell.proxy.limits import CountLimit, CountLimits
from upwell.zone.counts import Counts

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_LEVELS = "http server location"
_MOST = 65_535


@dataclass(frozen=True, slots=True)
class LimitConnSettings:
    """ngx_http_limit_conn_module: zones with the most requests of a key. Those of one level replace those around it."""

    limits: tuple[tuple[str, int], ...] = ()
    status: int = 503
    log_level: int = ERROR
    dry_run: bool = False


def compile_limit_conn(
    settings: LimitConnSettings,
    zones: Mapping[str, tuple[LimitZone, Counts]],
    render: Callable[[Template], Callable[[Exchange], bytes]],
) -> CountLimits | None:
    """The limits of a location; None where there are none."""
    if not settings.limits:
        return None
    limits = []
    for name, most in settings.limits:
        zone, counts = zones[name]
        limits.append(CountLimit(counts, render(zone.key), zone.key_text, most))
    return CountLimits(limits, settings.status, settings.log_level, settings.dry_run)


def _zone(block: Block, directive: Directive) -> None:
    read_zone(block, directive, with_rate=False)


def _limit(block: Block, directive: Directive) -> None:
    name, text = directive.args
    most = positive(text)
    if not most:
        raise directive.error(f'invalid number of connections "{text}"', 1)
    if most > _MOST:
        raise directive.error("connection limit must be less 65536", 1)
    if any(other == name for other, _ in block.own(LimitConnSettings).get("limits", ())):
        raise directive.error('"limit_conn" directive is duplicate')
    use_zone(block, directive, 0, name, "limit_conn_zone")
    block.append(LimitConnSettings, "limits", (name, most))


MODULE = Module(
    "limit_conn",
    (
        command("limit_conn_zone", "http", 2, _zone),
        command("limit_conn", _LEVELS, 2, _limit),
        command("limit_conn_status", _LEVELS, 1, number_between(LimitConnSettings, "status", 400, 599)),
        command("limit_conn_log_level", _LEVELS, 1, choice(LimitConnSettings, "log_level", LEVELS)),
        command("limit_conn_dry_run", _LEVELS, 1, flag(LimitConnSettings, "dry_run")),
    ),
    options=("http_limit_conn_module",),
)
