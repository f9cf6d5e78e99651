"""The registry of balancers: `Method.name` names a member. A new one is a file and a line here."""

from __future__ import annotations

from collections.abc import Callable

from upwell.peers.balancers.balancer import Balancer, Chance
from upwell.peers.balancers.round_robin import RoundRobin
from upwell.peers.peer import Method

BALANCERS: dict[str, Callable[[Method, Chance], Balancer]] = {
    "round_robin": RoundRobin,
}
