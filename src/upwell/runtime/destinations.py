"""`proxy_pass` with variables: from what it comes to for a request to the upstream that is meant.

Knows the upstreams of the configuration and makes those of addresses that it does not name, and of names that are no
upstreams, whose addresses a resolver gives (runtime/directory.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from upwell.http1.fields import one_line
from upwell.log import ERROR, printable
from upwell.modules.address import Address, format_address, is_ip, parse_address
from upwell.modules.proxy import DEFAULT_PORTS
from upwell.peers.membership import Membership, NoRoom
from upwell.peers.peer import PeerSpec, UpstreamSpec, peer_keys
from upwell.peers.upstream import Upstream
from upwell.proxy.destination import Destination
from upwell.proxy.forward import forward
from upwell.proxy.keepalive import Keepalive
from upwell.proxy.location import Content
from upwell.proxy.timers import Timers
from upwell.runtime.dials import Choose
from upwell.runtime.render import Render
from upwell.zone.table import PeerTable

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange
    from upwell.resolve.spec import Found as Place
    from upwell.resolve.spec import ResolverSpec
    from upwell.runtime.directory import Directory

Found = tuple[Upstream, Keepalive]

_MOST_MADE = 256
"""Upstreams that are made at run time and kept: who may choose the address must not be able to fill the memory."""

_SPARE = 64
"""How many addresses may come to a name before its upstream is made anew."""


class _Named:
    """The upstream of a name, whose peers change as its addresses do: who stays keeps its idle connections."""

    __slots__ = ("_membership", "_peers", "_table", "found")

    def __init__(self, spec: UpstreamSpec, table: PeerTable, found: Found) -> None:
        self.found = found
        self._table = table
        self._peers = spec.peers
        self._membership = Membership(table, (spec,))
        found[0].on_leave = found[1].drop

    def follow(self, peers: tuple[PeerSpec, ...]) -> bool:
        """Have `peers`; false when that is too much."""
        if len(self._peers) == len(peers) and set(self._peers) == set(peers):
            return True
        membership = self._membership
        name = self.found[0].name
        here = {member.spec: member.key for member in membership.members(name)}
        try:
            for peer in peers:
                if peer not in here:
                    row = membership.row_for(name)
                    key = here[peer] = membership.key_for(name, peer)
                    self._table.know(row, key)
                    membership.join(key, peer, row)
        except NoRoom:
            return False
        wanted = set(peers)
        for peer, key in here.items():
            if peer not in wanted:
                membership.leave(key)
        self._table.publish()
        self._peers = peers
        return True


class Destinations:
    """The upstreams of one worker by address. `upstreams` are those of the configuration by name.

    `names` are what each resolver knows. It closes them, and all pools of connections that are made beside those of the
    configuration's upstreams.
    """

    __slots__ = ("_by_address", "_by_name", "_loop", "_made", "_named", "_pools", "_timers", "names")

    def __init__(
        self,
        upstreams: Mapping[str, Found],
        loop: asyncio.AbstractEventLoop,
        timers: Timers,
        names: Mapping[ResolverSpec, Directory],
    ) -> None:
        self._loop = loop
        self._timers = timers
        self.names = names
        self._by_name: dict[str, Found] = {}
        self._by_address: dict[tuple[str, int], Found] = {}
        self._made: dict[tuple[str, int], Found] = {}
        self._named: dict[tuple[str, int, Directory], _Named] = {}
        self._pools: set[Keepalive] = set()
        for name, found in upstreams.items():
            if found[0].spec.implicit:
                self._by_address[_key(parse_address(name), DEFAULT_PORTS[False])] = found
            else:
                self._by_name[name.lower()] = found

    def __repr__(self) -> str:
        return f"<Destinations {len(self._by_name) + len(self._by_address)}, {len(self._made)} made>"

    def find(self, address: Address, default_port: int) -> Found | None:
        """The upstream that `address` means, at `default_port` if it says none; None when it has a name that is neither
        an upstream nor an IP address.
        """
        if not address.port and not address.path:
            named = self._by_name.get(address.host.lower())
            if named is not None:
                return named
        key = _key(address, default_port)
        found = self._by_address.get(key) or self._made.get(key)
        if found is None and (address.path or is_ip(address.host)):
            found = self._make(key, address)
        return found

    def behind(self, address: Address, default_port: int, names: Directory, places: Sequence[Place]) -> Found:
        """The upstream of a name, which has a peer at each of `places`."""
        port = address.port or default_port
        key = address.host.lower(), port, names
        peers = tuple(
            PeerSpec(format_address(place.address, port), (place.address, port), server=address.host)
            for place in places
        )
        named = self._named.get(key)
        if named is not None:
            if named.follow(peers):
                return named.found
            self.drop(named.found[1])
        elif len(self._named) >= _MOST_MADE:
            self.drop(self._named.pop(next(iter(self._named))).found[1])
        spec = UpstreamSpec(f"{address.host}:{port}", peers, implicit=True)
        table = PeerTable.create(peer_keys(spec), 1, _SPARE)
        named = self._named[key] = _Named(spec, table, (Upstream(spec, table), self.pool(spec)))
        return named.found

    def pool(self, spec: UpstreamSpec) -> Keepalive:
        """A pool of connections for an upstream of `spec`."""
        pool = keepalive_of(spec, self._loop, self._timers)
        self._pools.add(pool)
        return pool

    def drop(self, pool: Keepalive) -> None:
        """A pool that is not used for further requests."""
        self._pools.discard(pool)
        pool.close()

    def close(self) -> None:
        for names in self.names.values():
            names.close()
        for pool in self._pools:
            pool.close()

    def _make(self, key: tuple[str, int], address: Address) -> Found:
        port = key[1]
        if address.path:
            peer = PeerSpec(f"unix:{address.path}", address.path)
        else:
            peer = PeerSpec(format_address(address.host, port), (address.host, port))
        spec = UpstreamSpec(peer.name, (peer,), implicit=True)
        # A table of its own, of one row: no check and no operator can know of this peer.
        found = Upstream(spec, PeerTable.create(peer_keys(spec), 1)), self.pool(spec)
        if len(self._made) >= _MOST_MADE:
            self.drop(self._made.pop(next(iter(self._made)))[1])
        self._made[key] = found
        return found


def _key(address: Address, default_port: int) -> tuple[str, int]:
    if address.path:
        return f"unix:{address.path}", 0
    return address.host.lower(), address.port or default_port


def keepalive_of(spec: UpstreamSpec, loop: asyncio.AbstractEventLoop, timers: Timers) -> Keepalive:
    """A pool of connections with the bounds of `spec`."""
    return Keepalive(loop, timers, spec.keepalive, spec.keepalive_requests, spec.keepalive_time, spec.keepalive_timeout)


def forward_by_value(
    url: Render,
    destinations: Destinations,
    choose: Mapping[bool, Choose],
    names: Directory | None,
    abortable: bool,
) -> Content:
    """The content handler of a location whose `proxy_pass` has variables; `choose` gives the spec for an upstream, of
    http:// under False and of https:// under True.

    `names` knows the addresses of names; a client that leaves while they are looked up ends it if `abortable`."""

    async def content(exchange: Exchange) -> None:
        try:
            secure, address = _aim(exchange, url(exchange))
        except ValueError as error:
            exchange.log(ERROR, str(error))
            exchange.respond_error(500)
            return
        port = DEFAULT_PORTS[secure]
        found = destinations.find(address, port)
        if found is None and names is not None:
            exchange.proxying = True
            exchange.abortable = abortable
            places = await names.find(exchange, address.host)
            if places:
                found = destinations.behind(address, port, names, places)
        elif found is None:
            exchange.log(ERROR, f"no resolver defined to resolve {printable(address.host.encode('latin-1'))}")
        if found is None:
            exchange.proxying = True
            if exchange.tries is None:
                exchange.tries = []  # what answers in the end comes second
            exchange.respond_error(502)
            return
        await forward(exchange, choose[secure](exchange, *found))

    return content


def _aim(exchange: Exchange, url: bytes) -> tuple[bool, Address]:
    """Whether TLS is spoken there, and the address in `url`; what follows from it is left in the exchange. Raises
    ValueError with nginx's words.
    """
    scheme = url[:8].lower()
    secure = scheme == b"https://"
    begin = len("https://") if secure else len("http://")
    if not scheme.startswith((b"http://", b"https://")) or len(url) <= begin:
        raise ValueError(f'invalid URL prefix in "{printable(url)}"')
    rest = url[begin:]
    default_port = DEFAULT_PORTS[secure]
    try:
        address = parse_address(rest.decode("latin-1"), with_uri=True)
    except ValueError as error:
        raise ValueError(f'{error} in upstream "{printable(rest)}"') from None
    uri = address.uri.encode("latin-1")
    if uri.startswith(b"#"):
        uri = b""
    elif uri.startswith(b"?"):
        uri = b"/" + uri
    if address.path:
        host, port = b"localhost", b""
    else:
        host = (f"[{address.host}]" if address.is_ipv6 else address.host).encode("latin-1")
        port = b"%d" % (address.port or default_port)
        if address.port not in (0, default_port):
            host += b":" + port
    exchange.destination = Destination(one_line(host), port, uri)
    return secure, address
