"""What peers are called in sessions, and which peer a session means (nginx: the SID of ngx_http_upstream_rr_peer_t).

Pure. Where a session keeps its route (a cookie, a table) is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import md5
from typing import Final

from upwell.peers.live import Peer
from upwell.peers.peer import PeerSpec

_MOST_HASHED: Final = 65_536
_hashed: dict[str, bytes] = {}


def route_of(spec: PeerSpec) -> bytes:
    """What a peer is called: its `route`, else nginx's name for it, made of its address."""
    if spec.route:
        return spec.route.encode("utf-8", "surrogateescape")
    found = _hashed.get(spec.name)
    if found is None:
        if len(_hashed) >= _MOST_HASHED:
            _hashed.clear()
        found = _hashed[spec.name] = md5(spec.name.encode(), usedforsecurity=False).hexdigest().encode()
    return found


class Routes:
    """The peers of one role by route. Of several with the same one the first counts, as in nginx."""

    __slots__ = ("_by_route", "_peers")

    def __init__(self) -> None:
        self._peers: Sequence[Peer] = ()
        self._by_route: dict[bytes, Peer] = {}

    def find(self, peers: Sequence[Peer], route: bytes) -> Peer | None:
        """The one of `peers` that is called `route`. They are read again when they are another object than before."""
        if peers is not self._peers:
            self._peers = peers
            self._by_route = {route_of(peer.spec): peer for peer in reversed(peers)}
        return self._by_route.get(route)
