"""Browsers that nginx does not keep connections for (keepalive_disable), by their User-Agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange


def is_msie6(exchange: Exchange) -> bool:
    """Whether the client is an MSIE of version 4 to 6 without its second service pack, and posts."""
    agent = exchange.values.get(b"user-agent")
    if agent is None or exchange.method != b"POST" or b"Opera" in agent:
        return False
    version = agent.partition(b"MSIE ")[2]
    return version[:2] in (b"4.", b"5.") or (version[:2] == b"6." and b"SV1" not in version)


def is_safari(exchange: Exchange) -> bool:
    """Whether the client is Safari on Mac OS X, and none of those that only say they were like it."""
    agent = exchange.values.get(b"user-agent")
    if agent is None or b"Safari/" not in agent or b"Mac OS X" not in agent:
        return False
    return not any(name in agent for name in (b"MSIE ", b"Opera", b"Gecko/", b"Chrome/"))
