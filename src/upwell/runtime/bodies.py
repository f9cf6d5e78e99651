"""The body filters of one location, in nginx's order: which of them there are is settled here, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from upwell.config.model import Block
from upwell.modules.addition import AdditionSettings, compile_addition
from upwell.modules.charset import compile_charset
from upwell.modules.gzip import GzipSettings, compile_gzip
from upwell.modules.proxy import ProxySettings
from upwell.modules.sub import SubSettings, compile_sub
from upwell.proxy.body_filters import opening
from upwell.proxy.location import Filter
from upwell.runtime.render import render

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange


def compile_body_filters(block: Block) -> tuple[Filter, ...]:
    """What a location's header filters end with; () for a location whose content goes out as it is."""
    unpack, pack = compile_gzip(block[GzipSettings])
    replace = compile_sub(block[SubSettings], render)
    recode = compile_charset(block, render)
    surround = compile_addition(block[AdditionSettings])
    openers = [opener for opener in (unpack, replace, recode, surround, pack) if opener is not None]
    if not openers:
        return ()
    filters: list[Filter] = [opening(openers)]
    if not block[ProxySettings].buffering:
        filters.insert(0, _flush_at_once)
    return tuple(filters)


def _flush_at_once(exchange: Exchange) -> None:
    """For proxy_buffering off, unless the peer's X-Accel-Buffering has said otherwise."""
    if exchange.flushes is None and exchange.source is not None:
        exchange.flushes = True
