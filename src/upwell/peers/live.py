"""A peer at run time, in one worker: what nginx keeps in ngx_http_upstream_rr_peer_t, plus this worker's counters.

Plain state; the rules that change it are in `passive.py`, `balancers/` and `upstream.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from upwell.peers.peer import PeerKey, PeerSpec

_sum: Final[Callable[[memoryview[int]], int]] = sum


class Peer:
    """One address of one upstream. Compared and hashed by identity.

    `id` counts from 0 within its role (ngx.upstream's peer id), and moves up when one before it leaves; `key` is who it
    is; `row` is its row in the zone and `at` that row's first word, `serial` the roster's (peers/roster.py). `gone`: it
    left the upstream, and has requests yet that are to end.
    `weight`, `max_fails`, `fail_timeout` and `max_conns` are the spec's, as attributes because the balancer reads them
    at each pick. `up` says
    whether it may get traffic as of the last `Upstream.refresh()`, `healthy` whether it might if its upstream did not
    ignore health just then (peers/panic.py). `accessed` (last failure) and `checked` (start of
    the current fail_timeout window) are times of the clock whose `now` the caller passes, 0.0 before. `cleared` says
    as of then when its checks ended what requests held against it, in the zone's words; `relieved` (0.0: never) when
    that last ended a suspension, and `relapsed` that the one after it may not end so; `started` when it began anew
    (0.0: never), which is kept only where somebody has a `slow_start`.

    `connections` is what this worker has in use there now, `elsewhere` what the others had when it last looked
    (`look`): they write it into `everywhere`, one word a worker, which is None where nobody needs it. `answer_time` is
    the moving average of answer times in seconds, 0.0 while there is none, `answer_at` when it last changed, and
    `begun` the sum of the times at which `dated` of the requests under way began (balancers/answer_times.py).

    `requests`, `failures`, `responses` (five counters, 1xx to 5xx), `sent` and `received` (bytes) only grow.
    `Upstream.publish()` takes them to the zone.
    """

    __slots__ = (
        "accessed",
        "address",
        "answer_at",
        "answer_time",
        "at",
        "begun",
        "checked",
        "cleared",
        "connections",
        "current_weight",
        "dated",
        "effective_weight",
        "elsewhere",
        "everywhere",
        "fail_timeout",
        "fails",
        "failures",
        "gone",
        "healthy",
        "id",
        "key",
        "max_conns",
        "max_fails",
        "name",
        "received",
        "relapsed",
        "relieved",
        "requests",
        "responses",
        "row",
        "sent",
        "serial",
        "spec",
        "started",
        "up",
        "weight",
    )

    def __init__(self, spec: PeerSpec, number: int, row: int, key: PeerKey | None = None, serial: int = 0) -> None:
        self.spec = spec
        self.key = key or PeerKey("", spec.role, spec.name, 0)
        self.serial = serial
        self.at = 0
        self.gone = False
        self.name = spec.name
        self.address = spec.address
        self.id = number
        self.row = row
        self.up = self.healthy = not spec.down
        self.weight = spec.weight
        self.effective_weight = spec.weight
        self.current_weight = 0
        self.max_fails = spec.max_fails
        self.fail_timeout = spec.fail_timeout
        self.max_conns = spec.max_conns
        self.fails = 0
        self.accessed = 0.0
        self.checked = 0.0
        self.started = 0.0
        self.cleared = 0
        self.relieved = 0.0
        self.relapsed = False
        self.connections = 0
        self.elsewhere = 0
        self.everywhere: memoryview[int] | None = None
        self.answer_time = 0.0
        self.answer_at = 0.0
        self.begun = 0.0
        self.dated = 0
        self.requests = 0
        self.failures = 0
        self.responses = [0, 0, 0, 0, 0]
        self.sent = 0
        self.received = 0

    def __repr__(self) -> str:
        return f"<Peer {self.name}{'' if self.up else ' down'}>"

    def change(self, spec: PeerSpec, serial: int) -> None:
        """Other settings at run time; what is known of the peer stays."""
        if spec.weight != self.weight:
            self.weight = self.effective_weight = spec.weight
        self.spec = spec
        self.serial = serial
        self.max_fails = spec.max_fails
        self.fail_timeout = spec.fail_timeout
        self.max_conns = spec.max_conns

    @property
    def down(self) -> bool:
        """Whether it is out: by its configuration, an operator or its health checks (nginx: peer->down)."""
        return not self.healthy


def look(peer: Peer) -> int:
    """How many requests are under way at `peer` in all workers, read anew."""
    everywhere = peer.everywhere
    if everywhere is None:
        return peer.connections
    found = _sum(everywhere)
    peer.elsewhere = found - peer.connections
    return found
