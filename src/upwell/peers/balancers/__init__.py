"""The registry of balancers: `Method.name` names a member. A new one is a file and a line here."""

from __future__ import annotations

from collections.abc import Callable

from upwell.peers.balancers.balancer import Balancer, Chance
from upwell.peers.balancers.bounded_hash import BoundedHash
from upwell.peers.balancers.consistent_hash import ConsistentHash
from upwell.peers.balancers.ewma import Ewma
from upwell.peers.balancers.hash import KeyHash
from upwell.peers.balancers.ip_hash import IpHash
from upwell.peers.balancers.least_conn import LeastConn
from upwell.peers.balancers.least_time import LeastTime, LeastTimeInflight
from upwell.peers.balancers.random import Random
from upwell.peers.balancers.round_robin import RoundRobin
from upwell.peers.peer import Method


def _hash(method: Method, chance: Chance) -> Balancer:
    """The three of `hash`."""
    if not method.consistent:
        return KeyHash(method, chance)
    return BoundedHash(method, chance) if method.bounded else ConsistentHash(method, chance)


def _least_time(method: Method, chance: Chance) -> Balancer:
    return LeastTimeInflight(method, chance) if method.inflight else LeastTime(method, chance)


BALANCERS: dict[str, Callable[[Method, Chance], Balancer]] = {
    "ewma": Ewma,
    "hash": _hash,
    "ip_hash": IpHash,
    "least_conn": LeastConn,
    "least_time": _least_time,
    "random": Random,
    "round_robin": RoundRobin,
}
