"""`hash key`: the peer by a key's CRC32 (nginx's choice, which is Cache::Memcached's).

Who comes or goes moves nearly all keys; who is only down moves its own: each of its keys is hashed again, with the
number of the attempt in front.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection
from zlib import crc32

from upwell.peers.balancers.balancer import chosen, unfit
from upwell.peers.balancers.places import MOST_TRIES, Places
from upwell.peers.live import Peer


class KeyHash(Places):
    """Shares go by weight: the hash is a place among all units of weight, those of peers that are down included."""

    __slots__ = ()

    def pick(self, key: bytes | None, tried: Collection[Peer], now: float) -> Peer | None:
        ends = self._ends
        if not key or len(ends) < 2:
            return self._instead.pick(tried, now)
        place = (crc32(key) >> 16) & 0x7FFF
        peer = self._peers[bisect_right(ends, place % ends[-1])]
        if not tried and peer in self._up and not unfit(peer, now):
            return chosen(peer, now)
        return self._search(key, tried, now)

    def _search(self, key: bytes, tried: Collection[Peer], now: float) -> Peer | None:
        """Hash again and again; after 20 attempts in vain round robin decides.

        nginx remembers for a request where it stopped. Here it begins anew for each try, and finds those that were
        tried where it chose them: these are no attempts in vain.
        """
        ends = self._ends
        met: set[Peer] = set()
        place = rehash = failed = 0
        while failed <= MOST_TRIES:
            place += (crc32(b"%d%b" % (rehash, key) if rehash else key) >> 16) & 0x7FFF
            rehash += 1
            peer = self._peers[bisect_right(ends, place % ends[-1])]
            if peer in tried and peer not in met:
                met.add(peer)
            elif peer in tried or peer not in self._up or unfit(peer, now):
                failed += 1
            else:
                return chosen(peer, now)
        return self._instead.pick(tried, now)
