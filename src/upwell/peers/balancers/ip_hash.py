"""`ip_hash`: the peer by the client's address, of IPv4 by its first three octets (ngx_http_upstream_ip_hash_module)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection
from operator import mul
from typing import Final

from upwell.peers.balancers.balancer import chosen, unfit
from upwell.peers.balancers.places import MOST_TRIES, Places
from upwell.peers.live import Peer

_START: Final = 89
_FACTOR: Final = 113
_MODULUS: Final = 6271

_POWERS: Final = {count: [pow(_FACTOR, count - n - 1, _MODULUS) for n in range(count)] for count in (3, 16)}
"""nginx goes on from byte to byte with `(hash * 113 + byte) % 6271`. What an address adds is a sum that is the same
each time the address is hashed again, so it is made once."""


class IpHash(Places):
    """The key is the address in bytes: three of an IPv4 address, all 16 of an IPv6 one."""

    __slots__ = ()

    def pick(self, key: bytes | None, tried: Collection[Peer], now: float) -> Peer | None:
        ends = self._ends
        if not key or len(ends) < 2:
            return self._instead.pick(tried, now)
        powers = _POWERS.get(len(key))
        if powers is None:
            powers = [pow(_FACTOR, len(key) - n - 1, _MODULUS) for n in range(len(key))]
        added = sum(map(mul, key, powers))
        moved = powers[0] * _FACTOR
        value = _START
        failed = 0
        met: set[Peer] | None = None
        # nginx remembers for a request where it stopped; here each try begins anew. Those that were tried are met where
        # they were chosen, and that is no attempt in vain.
        while failed <= MOST_TRIES:
            value = (value * moved + added) % _MODULUS
            peer = self._peers[bisect_right(ends, value % ends[-1])]
            if tried and peer in tried:
                if met is None:
                    met = set()
                if peer in met:
                    failed += 1
                met.add(peer)
            elif peer in self._up and not unfit(peer, now):
                return chosen(peer, now)
            else:
                failed += 1
        return self._instead.pick(tried, now)
