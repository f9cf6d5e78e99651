"""upwell: a load balancer in pure Python that keeps traffic on healthy upstreams.

What a program can import; each name is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from upwell.version import VERSION as __version__

if TYPE_CHECKING:
    from upwell.check.checker import Checker
    from upwell.check.spec import CheckSpec, MatchSpec
    from upwell.contrib.group import Group, NoPeer, http_check, peer
    from upwell.peers.balancers import BALANCERS
    from upwell.peers.balancers.balancer import Balancer
    from upwell.peers.live import Peer
    from upwell.peers.peer import Method, PeerKey, PeerSpec, UpstreamSpec
    from upwell.peers.upstream import Upstream
    from upwell.zone.table import PeerTable

__all__ = [
    "BALANCERS",
    "Balancer",
    "CheckSpec",
    "Checker",
    "Group",
    "MatchSpec",
    "Method",
    "NoPeer",
    "Peer",
    "PeerKey",
    "PeerSpec",
    "PeerTable",
    "Upstream",
    "UpstreamSpec",
    "__version__",
    "http_check",
    "peer",
]

_WHERE = {
    "BALANCERS": "peers.balancers",
    "Balancer": "peers.balancers.balancer",
    "CheckSpec": "check.spec",
    "Checker": "check.checker",
    "Group": "contrib.group",
    "MatchSpec": "check.spec",
    "Method": "peers.peer",
    "NoPeer": "contrib.group",
    "Peer": "peers.live",
    "PeerKey": "peers.peer",
    "PeerSpec": "peers.peer",
    "PeerTable": "zone.table",
    "Upstream": "peers.upstream",
    "UpstreamSpec": "peers.peer",
    "http_check": "contrib.group",
    "peer": "contrib.group",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"upwell.{_WHERE[name]}"), name)
    globals()[name] = found
    return found
