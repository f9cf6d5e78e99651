"""What a change among many peers costs: the checker, and a worker until its next pick.

Only this process is measured, with the zone in its memory: no socket. `PYTHONPATH=build/compiled python -m bench
members` measures the compiled parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from statistics import median
from time import process_time

from bench.balancers import METHODS, peer_spec
from bench.measure import Progress
from upwell.peers.membership import Membership
from upwell.peers.peer import Method, PeerSpec, UpstreamSpec, peer_keys
from upwell.peers.upstream import Upstream
from upwell.zone.layout import ADMIN_DOWN, ADMIN_UP
from upwell.zone.table import PeerTable

MEMBERS = 10_000
_TIMES = 15
_PICKS = 500  # between two changes
_WORKERS = 2


@dataclass(frozen=True, slots=True)
class Change:
    """Milliseconds of one kind of change, medians: in the checker, and in a worker until its next pick is done."""

    owner: float
    worker: float


def measure_members(say: Progress) -> dict[str, dict[str, Change]]:
    """By method, by what was done."""
    found = {}
    for name, method in METHODS.items():
        say(f"members: {name}")
        found[name] = _measure(method)
    return found


def _measure(method: Method) -> dict[str, Change]:
    spec = UpstreamSpec("u", tuple(map(peer_spec, range(MEMBERS))), method=method)
    table = PeerTable.create(peer_keys(spec), _WORKERS, 2 * _TIMES)
    membership = Membership(table, (spec,))
    chance = Random(1)
    upstream = Upstream(spec, table, 0, chance=chance.random)
    now = 1000.0
    spent: dict[str, list[tuple[float, float]]] = {}

    def timed(kind: str, change: Callable[[], object]) -> None:
        nonlocal now
        for number in range(_PICKS):
            now += 0.001
            _pick(upstream, now, b"/%d" % number)
        began = process_time()
        change()
        table.publish()
        middle = process_time()
        _pick(upstream, now, b"/")
        spent.setdefault(kind, []).append((middle - began, process_time() - middle))

    for turn in range(_TIMES):
        members = membership.members("u")
        one, other, third = chance.sample(members, 3)
        timed("leave", partial(membership.leave, one.key))
        timed("join", partial(_join, membership, peer_spec(MEMBERS + turn)))
        timed("weight", partial(membership.change, other.key, weight=2))
        timed("down", partial(table.set_admin, third.row, ADMIN_DOWN))
        timed("up", partial(table.set_admin, third.row, ADMIN_UP))
    return {
        kind: Change(median(one for one, _ in times) * 1000, median(two for _, two in times) * 1000)
        for kind, times in spent.items()
    }


def _join(membership: Membership, spec: PeerSpec) -> None:
    membership.join(membership.key_for("u", spec), spec, membership.row_for("u"))


def _pick(upstream: Upstream, now: float, key: bytes) -> None:
    peer = upstream.pick((), now, key)
    assert peer is not None
    upstream.release(peer, now, False)
