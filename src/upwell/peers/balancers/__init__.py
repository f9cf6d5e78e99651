"""The registry of balancers: `UpstreamSpec.balancer` names a member. A new one is a file and a line here."""

from __future__ import annotations

from collections.abc import Callable

from upwell.peers.balancers.balancer import Balancer
from upwell.peers.balancers.round_robin import RoundRobin

BALANCERS: dict[str, Callable[[], Balancer]] = {
    "round_robin": RoundRobin,
}
