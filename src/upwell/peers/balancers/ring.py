"""The ring of consistent hashing: which server comes at a hash, and which after it.

The points are nginx's (ketama, ngx_http_upstream_hash_module.c). A server is what a `server` line names, and the
addresses behind a name share its points, as they do there; or each address is one. It knows nothing of who is up.

The points lie in many short sorted arrays, by their high bits: a peer that joins or leaves changes a few bytes here and
there, where one array of the 1.6 million points of ten thousand peers would be moved in memory 160 times.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import Final
from zlib import crc32

from upwell.peers.live import Peer
from upwell.peers.peer import PeerSpec

_POINTS: Final = 160  # for each unit of weight
_MOST_WEIGHT: Final = 1 << 13  # of all together whose points are nginx's: 1.3 million
_MOST_EACH: Final = 128  # the same where there are many, of each on average
_ID_BITS: Final = 29  # with the 32 of the hash it is an integer that compiled code need not box
_ID_MASK: Final = (1 << 29) - 1
_IN_BUCKET: Final = 64
_LEAST_BITS: Final = 8  # so that a small ring may become a large one without being made again


class Server:
    """One server on the ring: its peers in their order, and the weight that it has points for, the largest of theirs.

    Where two servers have a point at the same hash, the one with the lower `id` has it. The id is made of the name, so
    that all workers agree, whatever joined and left meanwhile.
    """

    __slots__ = ("id", "name", "peers", "weight")

    def __init__(self, name: str) -> None:
        self.name = name
        self.id = 0
        self.peers: list[Peer] = []
        self.weight = 0

    def __repr__(self) -> str:
        return f"<Server {self.name}, {len(self.peers)} peers>"


def _weight(peers: Sequence[Peer]) -> int:
    """The weight of a server with these peers."""
    return max([peer.weight for peer in peers], default=0)


def points(server: str, begin: int, end: int) -> list[int]:
    """The hashes of the points `begin` up to `end` (without it) of `server`: each is made of the one before."""
    host, port = server, ""
    if server[:5].lower() == "unix:":
        host = server[5:]
    else:
        front, colon, back = server.rpartition(":")
        if colon and (not back or (back.isascii() and back.isdigit())):
            host, port = front, back
    base = crc32(f"{host}\0{port}".encode("utf-8", "surrogateescape"))
    value = 0
    found = []
    for _ in range(end):
        value = crc32(value.to_bytes(4, "little"), base)
        found.append(value)
    return found[begin:]


def _divisor(weight: int, servers: int) -> int:
    """By what weights are divided before they are points, where `weight` is the sum of all."""
    most = max(_MOST_WEIGHT, _MOST_EACH * servers)
    return 1 << ((weight - 1) // most).bit_length() if weight > most else 1


class Ring:
    """The points of some servers. `follow` says whose; with `by_address` each peer is a server of its own.

    Where weights are high (a service's in DNS go up to 65535), all are divided by a power of two, 1 at least: nginx's
    points would take minutes and gigabytes.
    """

    __slots__ = (
        "_buckets",
        "_by_address",
        "_by_name",
        "_divisor",
        "_servers",
        "_shift",
        "_size",
        "_specs",
        "_weight",
    )

    def __init__(self, by_address: bool = False) -> None:
        self._by_address = by_address
        self._buckets: list[array[int]] = [array("Q")]
        self._shift = 32
        self._size = 0
        self._weight = 0  # of all servers together
        self._divisor = 1
        self._servers: dict[int, Server] = {}
        self._by_name: dict[str, Server] = {}
        self._specs: dict[Peer, PeerSpec] = {}  # as they were when the points were made

    def __repr__(self) -> str:
        return f"<Ring {len(self._by_name)} servers, {self._size} points>"

    def first(self, key: int) -> Server | None:
        """The server whose point is at the hash `key` or the next one after it; None: there is no server."""
        number = key >> self._shift
        bucket = self._buckets[number]
        at = bisect_left(bucket, key << _ID_BITS)
        if at < len(bucket):
            return self._servers[bucket[at] & _ID_MASK]
        for server in self.after(key):
            return server
        return None

    def after(self, key: int) -> Iterator[Server]:
        """The servers of all points from the hash `key` on, once around."""
        buckets = self._buckets
        count = len(buckets)
        begin = key >> self._shift
        at = bisect_left(buckets[begin], key << _ID_BITS)
        last = -1
        for turn in range(count + 1):
            bucket = buckets[(begin + turn) % count]
            end = len(bucket) if turn < count else at
            for place in range(at if turn == 0 else 0, end):
                point = bucket[place]
                if point >> _ID_BITS != last:
                    last = point >> _ID_BITS
                    yield self._servers[point & _ID_MASK]

    def follow(self, peers: Sequence[Peer]) -> None:
        """Have the points of `peers` and no others. What differs from before is changed, the rest stays."""
        members = self._changed(peers)
        changes = 0
        weight = self._weight
        count = len(self._by_name)
        for name, found in members.items():
            server = self._by_name.get(name)
            before = server.weight if server is not None else 0
            now = _weight(found)
            changes += abs(self._units(now) - self._units(before))
            weight += now - before
            count += (now > 0) - (before > 0)
        self._weight = weight
        divisor = _divisor(weight, count)
        if divisor != self._divisor or changes * _POINTS > self._size // 2:
            self._divisor = divisor
            self._make(peers)
        else:
            for name, found in members.items():
                self._change(name, found)

    def _units(self, weight: int) -> int:
        """How many times its points a server of this weight has."""
        return max(weight // self._divisor, 1) if weight else 0

    def _name(self, spec: PeerSpec) -> str:
        """The name of the server whose address such a peer is."""
        return spec.name if self._by_address else spec.server or spec.name

    def _changed(self, peers: Sequence[Peer]) -> dict[str, list[Peer]]:
        """The servers of which something is not as before, with their peers; takes note of all peers."""
        # Ten thousand peers are looked through here while requests wait.
        specs = self._specs
        known = map(specs.get, peers)
        came: list[Peer] = []
        touched: set[str] = set()
        for peer in [peer for peer, spec in zip(peers, known, strict=True) if spec is not peer.spec]:
            before, now = specs.get(peer), peer.spec
            specs[peer] = now
            if before is not None:
                if before.weight == now.weight and self._name(before) == self._name(now):
                    continue
                touched.add(self._name(before))
            touched.add(self._name(now))
            came.append(peer)
        if len(specs) != len(peers):
            present = set(peers)
            for peer in [peer for peer in specs if peer not in present]:
                touched.add(self._name(specs.pop(peer)))
        members: dict[str, list[Peer]] = {}
        shared = False
        for name in touched:
            server = self._by_name.get(name)
            members[name] = [] if server is None else [peer for peer in server.peers if self._is_at(name, peer)]
        for peer in came:
            found = members[self._name(peer.spec)]
            if peer not in found:
                found.append(peer)
                shared |= len(found) > 1
        if shared:
            order = {peer: place for place, peer in enumerate(peers)}
            for found in members.values():
                found.sort(key=order.__getitem__)
        return members

    def _is_at(self, name: str, peer: Peer) -> bool:
        """Whether the peer is one of those that belong here, and the server called `name` has its address."""
        spec = self._specs.get(peer)
        return spec is not None and self._name(spec) == name

    def _make(self, peers: Sequence[Peer]) -> None:
        """All of it anew."""
        self._servers = {}
        self._by_name = {}
        for peer in peers:
            server = self._server(self._name(peer.spec))
            server.peers.append(peer)
            server.weight = max(server.weight, peer.weight)
        total = sum([self._units(server.weight) for server in self._by_name.values()]) * _POINTS
        bits = max(_LEAST_BITS, (total // _IN_BUCKET).bit_length())
        shift = self._shift = 32 - bits
        self._size = total
        buckets: list[array[int]] = [array("Q") for _ in range(1 << bits)]
        for server in self._by_name.values():
            number = server.id
            for value in points(server.name, 0, self._units(server.weight) * _POINTS):
                buckets[value >> shift].append(value << _ID_BITS | number)
        self._buckets = [array("Q", sorted(bucket)) for bucket in buckets]

    def _change(self, name: str, peers: list[Peer]) -> None:
        """The server `name` has `peers` from now on, possibly none."""
        server = self._server(name)
        before = self._units(server.weight)
        server.peers = peers
        server.weight = _weight(peers)
        units = self._units(server.weight)
        if units > before:
            for value in points(name, before * _POINTS, units * _POINTS):
                insort(self._buckets[value >> self._shift], value << _ID_BITS | server.id)
        else:
            for value in points(name, units * _POINTS, before * _POINTS):
                bucket = self._buckets[value >> self._shift]
                del bucket[bisect_left(bucket, value << _ID_BITS | server.id)]
        self._size += (units - before) * _POINTS
        if not peers:
            del self._servers[server.id]
            del self._by_name[name]

    def _server(self, name: str) -> Server:
        """The server called `name`, which may be new."""
        server = self._by_name.get(name)
        if server is None:
            server = self._by_name[name] = Server(name)
            server.id = crc32(name.encode("utf-8", "surrogateescape"), 1) & _ID_MASK
            while server.id in self._servers:
                server.id = (server.id + 1) & _ID_MASK
            self._servers[server.id] = server
        return server
