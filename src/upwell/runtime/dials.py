"""Which ForwardSpec a request gets where that depends on more than its location: the upstream, the near address."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from upwell.config.model import Block
from upwell.config.template import compile_template
from upwell.log import ERROR, printable
from upwell.modules.proxy_socket import ProxySocketSettings, parse_near
from upwell.modules.tls import PeerTlsSettings
from upwell.peers.upstream import Upstream
from upwell.proxy.dial import Dial, DialTls
from upwell.proxy.forward import ForwardSpec
from upwell.proxy.keepalive import Keepalive
from upwell.runtime.render import Render, render

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange
    from upwell.runtime.destinations import Destinations

Make = Callable[[Upstream, Keepalive], ForwardSpec]
Choose = Callable[["Exchange", Upstream, Keepalive], ForwardSpec]

_MOST_KEPT = 256
"""What a client may have a say in must not be able to fill the memory."""


@dataclass(frozen=True, slots=True)
class Secured:
    """TLS toward the peers of a location: `name` gives the name that is asked for, with its port or without."""

    context: ssl.SSLContext
    name: Render
    tells: bool

    def name_for(self, exchange: Exchange) -> str:
        """Without the port (nginx: proxy_ssl_name)."""
        text = self.name(exchange).decode("latin-1")
        if text.startswith("["):
            return text[1:].partition("]")[0]
        host, colon, _ = text.rpartition(":")
        return host if colon else text


def secured(block: Block) -> Secured | None:
    """What a location says of TLS toward its peers; None where they do not speak it."""
    settings = block[PeerTlsSettings]
    if settings.context is None:
        return None
    name = compile_template("$proxy_host") if settings.name is None else settings.name
    return Secured(settings.context, render(name), settings.server_name)


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


def by_dial(settings: ProxySocketSettings, tls: Secured | None, make: Make, pools: Destinations) -> Choose:
    """A spec for each upstream, near address and name for TLS, with connections of its own: others were made
    otherwise.
    """
    near = None if settings.bind is None else render(settings.bind)
    specs: dict[tuple[Upstream, bytes, str], ForwardSpec] = {}

    def choose(exchange: Exchange, upstream: Upstream, _: Keepalive) -> ForwardSpec:
        text = b"" if near is None else near(exchange)
        name = "" if tls is None else tls.name_for(exchange)
        address = None
        if text and (upstream, text, name) not in specs:
            try:
                address = parse_near(text.decode("latin-1"))
            except ValueError:
                # nginx goes on without; what is told for each request is not remembered.
                exchange.log(ERROR, f'invalid local address "{printable(text)}"')
                text = b""
        spec = specs.get((upstream, text, name))
        if spec is None:
            if len(specs) >= _MOST_KEPT:
                for one in specs.values():
                    pools.drop(one.keepalive)
                specs.clear()
            made = make(upstream, pools.pool(upstream.spec))
            spoken = None if tls is None else DialTls(tls.context, name, tls.tells)
            dial = Dial(address, settings.rcvbuf, settings.sndbuf, spoken)
            spec = specs[upstream, text, name] = replace(made, limits=replace(made.limits, dial=dial))
        return spec

    return choose
