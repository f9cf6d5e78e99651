"""Upstreams of names that requests say (`proxy_pass` with variables): whose address stays is the same peer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from upwell.modules.address import parse_address
from upwell.peers.live import Peer
from upwell.proxy.keepalive import Keepalive
from upwell.proxy.timers import Timers
from upwell.resolve.spec import Found as Place
from upwell.runtime.destinations import Destinations
from upwell.runtime.directory import Directory

_NAMES = object.__new__(Directory)  # only which one it is counts


@pytest.fixture
def destinations() -> Iterator[Destinations]:
    loop = asyncio.new_event_loop()
    made = Destinations({}, loop, Timers(loop), {})
    yield made
    made.close()
    loop.close()


def behind(destinations: Destinations, *hosts: str) -> tuple[dict[str, Peer], Keepalive]:
    """The peers that a request for the name may get now, in a pool of connections."""
    places = [Place(host, 0) for host in hosts]
    upstream, pool = destinations.behind(parse_address("app.example:81"), 80, _NAMES, places)
    picked = [upstream.pick((), 0.0) for _ in range(2 * len(hosts))]
    for peer in picked:
        assert peer is not None
        upstream.release(peer, 0.0, failed=False)
    return {peer.spec.name: peer for peer in picked if peer is not None}, pool


def test_who_stays_is_the_same_peer_with_the_same_connections(destinations: Destinations) -> None:
    before, pool = behind(destinations, "10.0.0.1", "10.0.0.2")
    assert before.keys() == {"10.0.0.1:81", "10.0.0.2:81"}
    after, same = behind(destinations, "10.0.0.3", "10.0.0.2")
    assert after.keys() == {"10.0.0.2:81", "10.0.0.3:81"}
    assert after["10.0.0.2:81"] is before["10.0.0.2:81"]
    assert same is pool
    assert before["10.0.0.1:81"].gone
    assert not after["10.0.0.2:81"].gone
    again, _ = behind(destinations, "10.0.0.2", "10.0.0.3")
    assert again == after
    back, _ = behind(destinations, "10.0.0.1")
    assert back.keys() == {"10.0.0.1:81"}
    assert back["10.0.0.1:81"] is not before["10.0.0.1:81"]


def test_a_name_whose_addresses_change_for_ever_begins_anew(destinations: Destinations) -> None:
    pools: set[Keepalive] = set()
    for number in range(300):
        peers, pool = behind(destinations, "10.0.0.1", f"10.0.{number}.2")
        assert peers.keys() == {"10.0.0.1:81", f"10.0.{number}.2:81"}
        pools.add(pool)
    assert len(pools) > 1
