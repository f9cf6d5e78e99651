"""How requests come to a peer of the upstreams where that is more than a pick: `sticky` and `queue` together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from upwell.config.model import Block
from upwell.peers.live import Peer
from upwell.proxy.keepalive import Keepalive
from upwell.proxy.queue import Place, Queue
from upwell.proxy.upstream import Try
from upwell.runtime.choosing import Chooser, chooser
from upwell.runtime.sticky import compile_sticky
from upwell.zone.shared_dict import SharedDict

if TYPE_CHECKING:
    from upwell.peers.upstream import Upstream
    from upwell.proxy.exchange import Exchange

Ended = Callable[["Exchange", Peer, Try], None]


@dataclass(frozen=True, slots=True)
class Way:
    """What a ForwardSpec is given for one upstream."""

    choose: Chooser | None
    heard: Callable[[Exchange, Peer], None] | None
    ended: Ended | None
    queue: Place | None


def compile_ways(
    http: Block,
    upstreams: Mapping[str, tuple[Upstream, Keepalive]],
    dicts: Mapping[str, SharedDict],
    loop: asyncio.AbstractEventLoop,
) -> dict[Upstream, Way]:
    """Those of the upstreams that have one; `dicts` are the zones of sessions by name."""
    sticky = compile_sticky(http, upstreams, dicts)
    ways = {}
    for upstream, _ in upstreams.values():
        bound = sticky.get(upstream)
        spec = upstream.spec
        if bound is None and not spec.queue:
            continue
        choose = chooser(upstream) if bound is None else bound.choose
        heard = None if bound is None else bound.heard
        ended: Ended | None = None if bound is None else bound.ended
        place = None
        if spec.queue:
            queue = Queue(upstream, spec.queue, spec.queue_timeout, loop)
            place = queue.place(choose, None if bound is None else bound.route)
            choose = place.choose
            ended = queue.freed if ended is None else _both(ended, queue.freed)
        ways[upstream] = Way(choose, heard, ended, place)
    return ways


def _both(first: Ended, second: Ended) -> Ended:
    def ended(exchange: Exchange, peer: Peer, attempt: Try) -> None:
        first(exchange, peer, attempt)
        second(exchange, peer, attempt)

    return ended
