"""Who picks the peer of a request where the request has a part in it: its key for an upstream that hashes."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from upwell.config.template import compile_template
from upwell.peers.live import Peer
from upwell.peers.peer import Method
from upwell.peers.upstream import Upstream
from upwell.proxy.request import as_before_tries
from upwell.runtime.render import Render, render

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

Chooser = Callable[["Exchange", set[Peer], float], Peer | None]

_NO_ADDRESS = bytes(3)  # nginx hashes this for a client without an IP address


def chooser(upstream: Upstream) -> Chooser | None:
    """What a ForwardSpec chooses with; None: the upstream does without the request."""
    key = key_of(upstream.spec.method)
    if key is None:
        return None

    def choose(exchange: Exchange, tried: set[Peer], now: float) -> Peer | None:
        return upstream.pick(tried, now, key(exchange))

    return choose


def key_of(method: Method) -> Render | None:
    """What the method hashes of a request; None: nothing."""
    if method.name == "ip_hash":
        return _client
    if method.name != "hash":
        return None
    template = compile_template(method.key)
    value = render(template)
    if any(name.startswith("upstream_") for name in template.variables):
        return as_before_tries(value)
    return value


def _client(exchange: Exchange) -> bytes:
    """What `ip_hash` hashes of the client's address."""
    address = exchange.client.address
    if ":" not in address:
        return socket.inet_aton(address)[:3]
    if address.startswith("unix:"):
        return _NO_ADDRESS
    return socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
