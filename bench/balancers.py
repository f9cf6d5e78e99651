"""What choosing a peer costs: every method, among few and many peers, and how long a change among many takes.

Only the choice is measured, in this process: no socket, no zone but its words. `PYTHONPATH=build/compiled python -m
bench balancers` measures the compiled ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from time import process_time

from bench.measure import Progress
from upwell.peers import live
from upwell.peers.balancers import BALANCERS
from upwell.peers.balancers.balancer import Balancer
from upwell.peers.live import Peer
from upwell.peers.peer import Method, PeerSpec

GOAL_US = 2.0
PAUSE_GOAL_MS = 5.0
SIZES = (10, 1000, 10_000)
_BATCH = 32  # requests under way
_PICKS = 32_000
_ROUNDS = 3
_STEP = 0.0005  # seconds between requests

_NAMED = {name: Method(name) for name in sorted(BALANCERS)}
METHODS: dict[str, Method] = _NAMED | {
    "least_time": Method("least_time", measure="header"),
    "least_time inflight": Method("least_time", measure="header", inflight=True),
    "hash consistent": Method("hash", consistent=True),
    "hash consistent bounded": Method("hash", consistent=True, bounded=1.25),
    "random two": Method("random", two=True, measure="least_conn"),
    "random two least_time": Method("random", two=True, measure="header"),
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of a pick, and of it with its release, among each of SIZES; milliseconds of one worker until the
    next pick after one of the most peers went down, and after one joined them."""

    pick: tuple[float, ...]
    both: tuple[float, ...]
    down: float
    join: float


def compiled() -> bool:
    """Whether it is the compiled ones that are measured."""
    return not (live.__file__ or "").endswith(".py")


def measure_balancers(say: Progress) -> dict[str, Cost]:
    """By method; the names in parentheses are variants of the peers."""
    found = {}
    for name, method in METHODS.items():
        say(f"balancers: {name}")
        found[name] = _measure(method)
    for name in ("round_robin", "least_conn"):
        say(f"balancers: {name}, weights")
        found[f"{name} (weights 1 to 5)"] = _measure(METHODS[name], weights=(1, 2, 3, 4, 5))
    for name in ("least_conn", "ewma"):
        say(f"balancers: {name}, shared")
        found[f"{name} (4 workers)"] = _measure(METHODS[name], workers=4)
    return found


def peer_spec(number: int, weight: int = 1) -> PeerSpec:
    """A peer with an address of its own."""
    host = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    return PeerSpec(f"{host}:80", (host, 80), server=f"{host}:80", weight=weight)


def _peers(count: int, weights: Sequence[int], workers: int) -> tuple[Peer, ...]:
    words = memoryview(bytearray(8 * count * workers)).cast("q")
    peers = []
    for at in range(count):
        peer = Peer(peer_spec(at, weights[at % len(weights)]), at, at)
        if workers > 1:
            peer.everywhere = words[at * workers : (at + 1) * workers]
        peers.append(peer)
    return tuple(peers)


def _measure(method: Method, weights: Sequence[int] = (1,), workers: int = 1) -> Cost:
    picks, boths = [], []
    down = join = 0.0
    for size in SIZES:
        balancer = BALANCERS[method.name](method, Random(1).random)
        peers = _peers(size, weights, workers)
        balancer.rebuild(peers, peers)
        pick, both, now = _steady(balancer)
        picks.append(pick)
        boths.append(both)
        if size == SIZES[-1]:
            down, join = _changes(balancer, peers, now)
    return Cost(tuple(picks), tuple(boths), down, join)


def _steady(balancer: Balancer) -> tuple[float, float, float]:
    """The best of some rounds, as whoever else is on the machine only adds; and what time it is then."""
    now = 1000.0
    best_pick = best_both = float("inf")
    under_way: deque[Peer] = deque()
    keys = [b"/%d" % number for number in range(_BATCH * 37)]
    at = 0
    for _ in range(_ROUNDS + 1):  # the first one warms up
        picking = releasing = 0.0
        for _ in range(_PICKS // _BATCH // _ROUNDS):
            batch = keys[at : at + _BATCH]
            at = (at + _BATCH) % len(keys)
            began = process_time()
            for key in batch:
                now += _STEP
                peer = balancer.pick(key, (), now)
                assert peer is not None
                peer.connections += 1
                if peer.everywhere is not None:
                    peer.everywhere[0] = peer.connections
                under_way.append(peer)
            middle = process_time()
            took = _BATCH * _STEP
            for _ in batch:
                peer = under_way.popleft()
                peer.connections -= 1
                if peer.everywhere is not None:
                    peer.everywhere[0] = peer.connections
                if balancer.watches:
                    balancer.answered(peer, took, took, now, True)
                    balancer.released(peer)
            releasing += process_time() - middle
            picking += middle - began
        count = _PICKS // _BATCH // _ROUNDS * _BATCH
        best_pick = min(best_pick, picking / count * 1e6)
        best_both = min(best_both, (picking + releasing) / count * 1e6)
    return best_pick, best_both, now


def _changes(balancer: Balancer, peers: tuple[Peer, ...], now: float) -> tuple[float, float]:
    middle = len(peers) // 2
    down = join = float("inf")
    for turn in range(_ROUNDS):
        without = [*peers[: middle + turn], *peers[middle + turn + 1 :]]
        down = min(down, _until_next(balancer, peers, without, now))
        _until_next(balancer, peers, peers, now)
    for _ in range(_ROUNDS):
        (new,) = _peers(1, (1,), 1)
        peers = (*peers, new)
        join = min(join, _until_next(balancer, peers, peers, now))
    return down, join


def _until_next(balancer: Balancer, peers: Sequence[Peer], up: Sequence[Peer], now: float) -> float:
    began = process_time()
    balancer.rebuild(peers, up)
    balancer.pick(b"/", (), now)
    return (process_time() - began) * 1000
