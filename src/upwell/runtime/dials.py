"""Which ForwardSpec a request gets where that depends on more than its location: the upstream, the near address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from upwell.log import ERROR, printable
from upwell.modules.proxy_socket import ProxySocketSettings, parse_near
from upwell.peers.upstream import Upstream
from upwell.proxy.dial import Dial
from upwell.proxy.forward import ForwardSpec
from upwell.proxy.keepalive import Keepalive
from upwell.runtime.render import render

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange
    from upwell.runtime.destinations import Destinations

Make = Callable[[Upstream, Keepalive], ForwardSpec]
Choose = Callable[["Exchange", Upstream, Keepalive], ForwardSpec]

_MOST_KEPT = 256
"""What a client may have a say in must not be able to fill the memory."""


def by_upstream(make: Make) -> Choose:
    """A spec for each upstream."""
    specs: dict[Upstream, ForwardSpec] = {}

    def choose(exchange: Exchange, upstream: Upstream, keepalive: Keepalive) -> ForwardSpec:
        spec = specs.get(upstream)
        if spec is None:
            if len(specs) >= _MOST_KEPT:
                specs.clear()
            spec = specs[upstream] = make(upstream, keepalive)
        return spec

    return choose


def by_dial(settings: ProxySocketSettings, make: Make, pools: Destinations) -> Choose:
    """A spec for each upstream and near address, with connections of its own: others were made otherwise."""
    near = None if settings.bind is None else render(settings.bind)
    specs: dict[tuple[Upstream, bytes], ForwardSpec] = {}

    def choose(exchange: Exchange, upstream: Upstream, _: Keepalive) -> ForwardSpec:
        text = b"" if near is None else near(exchange)
        address = None
        if text and (upstream, text) not in specs:
            try:
                address = parse_near(text.decode("latin-1"))
            except ValueError:
                # nginx goes on without; what is told for each request is not remembered.
                exchange.log(ERROR, f'invalid local address "{printable(text)}"')
                text = b""
        spec = specs.get((upstream, text))
        if spec is None:
            if len(specs) >= _MOST_KEPT:
                for one in specs.values():
                    pools.drop(one.keepalive)
                specs.clear()
            made = make(upstream, pools.pool(upstream.spec))
            dial = Dial(address, settings.rcvbuf, settings.sndbuf)
            spec = specs[upstream, text] = replace(made, limits=replace(made.limits, dial=dial))
        return spec

    return choose
