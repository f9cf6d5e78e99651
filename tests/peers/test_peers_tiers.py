"""Tiers: which are in use, that the next one joins and goes again, and what is asked when nobody in use has room."""

from __future__ import annotations

import pytest

from tests.peers.test_peers_upstream import names
from upwell.peers.peer import Method, PeerSpec, UpstreamSpec, peer_keys
from upwell.peers.routes import route_of
from upwell.peers.tiers import last_in_use
from upwell.peers.upstream import Upstream
from upwell.zone.layout import ADMIN_DOWN, ADMIN_UP
from upwell.zone.table import PeerTable


@pytest.mark.parametrize(
    ("peers", "threshold", "last"),
    [
        ("0+ 0- 1+ 2+", 1, 0),
        ("0- 0- 1+ 2+", 1, 1),
        ("0- 0- 1- 2+", 1, 2),
        ("0- 1- 2-", 1, 2),
        ("3- 7+ 9+", 1, 7),
        ("0+ 0- 1+ 1+ 2+", 50, 0),  # 1 of 2 is not less than 50 %
        ("0+ 0- 1+ 1+ 2+", 51, 1),  # 3 of 4 then
        ("0+ 0- 1- 1- 2+", 51, 2),
        ("0+ 0+ 1+", 100, 0),
        ("0+ 0- 1+ 2+", 100, 2),
        ("", 1, 0),
    ],
)
def test_the_next_tier_joins_under_the_threshold(peers: str, threshold: int, last: int) -> None:
    assert last_in_use([(int(one[0]), one[1] == "+") for one in peers.split()], threshold) == last


_ROUND_ROBIN = Method()


def build(
    *peers: tuple[str, int], threshold: int = 1, method: Method = _ROUND_ROBIN, backups: str = "", **fields: object
) -> tuple[Upstream, PeerTable]:
    specs = [PeerSpec(name, (name, 80), tier=tier, **fields) for name, tier in peers]  # type: ignore[arg-type]  # fields of PeerSpec
    specs += [PeerSpec(name, (name, 80), backup=True) for name in backups]
    spec = UpstreamSpec("u", tuple(specs), method, tier_threshold=threshold)
    table = PeerTable.create(peer_keys(spec), 1)
    return Upstream(spec, table, 0, chance=lambda: 0.3), table


def switch(upstream: Upstream, table: PeerTable, down: str, up: str = "") -> None:
    for peer in upstream.peers:
        if peer.name in down or peer.name in up:
            table.set_admin(peer.row, ADMIN_DOWN if peer.name in down else ADMIN_UP)
    table.publish()


def test_a_tier_joins_and_goes_again_and_backups_come_last() -> None:
    upstream, table = build(("a", 0), ("b", 0), ("c", 1), ("d", 2), backups="e")
    assert names(upstream, 4) == "abab"
    switch(upstream, table, "a")
    assert names(upstream, 2) == "bb"
    switch(upstream, table, "b")
    assert names(upstream, 2) == "cc"
    switch(upstream, table, "c")
    assert names(upstream, 2) == "dd"
    switch(upstream, table, "d")
    assert names(upstream, 2) == "ee"
    switch(upstream, table, "", "b")
    assert names(upstream, 2) == "bb"


def test_with_a_threshold_tiers_share_by_weight() -> None:
    upstream, table = build(("a", 0), ("b", 0), ("c", 1), ("d", 1), threshold=75)
    assert names(upstream, 4) == "abab"
    switch(upstream, table, "a")
    assert sorted(names(upstream, 6)) == list("bbccdd")
    switch(upstream, table, "", "a")
    assert sorted(names(upstream, 4)) == list("aabb")


@pytest.mark.parametrize(
    "method",
    [
        Method(),
        Method("least_conn"),
        Method("least_time", measure="header"),
        Method("ewma"),
        Method("random"),
        Method("hash", key="$x"),
        Method("hash", key="$x", consistent=True),
        Method("hash", key="$x", consistent=True, bounded=1.25),
        Method("ip_hash"),
    ],
    ids=str,
)
def test_who_cannot_have_it_leaves_it_to_the_tier_behind_by_every_method(method: Method) -> None:
    upstream, table = build(("a", 0), ("b", 0), ("c", 1), ("d", 2), method=method, max_conns=1)
    chosen = [upstream.pick((), 100.0, b"key") for _ in range(4)]
    assert {peer.name for peer in chosen[:2] if peer} == {"a", "b"}
    assert [peer.name for peer in chosen[2:] if peer] == ["c", "d"]
    assert upstream.pick((), 100.0, b"key") is None
    for peer in chosen:
        assert peer is not None
        upstream.release(peer, 100.0, failed=False)
    assert {peer.connections for peer in upstream.peers} == {0}
    switch(upstream, table, "ab")
    again = upstream.pick((), 100.0, b"key")
    assert again is not None
    assert again.name == "c"
    upstream.release(again, 100.0, failed=True)
    switch(upstream, table, "", "a")
    last = upstream.pick((), 100.0, b"key")
    assert last is not None
    assert last.name == "a"


def test_failed_requests_turn_to_the_tier_behind() -> None:
    upstream, _ = build(("a", 0), ("b", 1))
    peer = upstream.pick((), 100.0)
    assert peer is not None
    upstream.release(peer, 100.0, failed=True)
    assert names(upstream, 2) == "bb"
    assert names(upstream, 2, 111.0) == "aa"


def test_a_session_is_bound_within_the_tiers_in_use() -> None:
    upstream, table = build(("a", 0), ("b", 1), ("c", 1), backups="d")
    routes = {peer.name: peer for peer in upstream.peers}

    def bound(name: str) -> str:
        peer = upstream.pick_bound(route_of(routes[name].spec), (), 100.0)
        assert peer is not None
        upstream.release(peer, 100.0, failed=False)
        return peer.name

    assert [bound("c") for _ in range(3)] == ["a"] * 3
    switch(upstream, table, "a")
    assert [bound("c") for _ in range(3)] == ["c"] * 3
    switch(upstream, table, "abc")
    assert [bound("c"), bound("d")] == ["d"] * 2


@pytest.mark.parametrize("method", [Method(), Method("least_conn"), Method("hash", key="$x", consistent=True)], ids=str)
def test_a_session_is_bound_where_those_in_use_have_no_room(method: Method) -> None:
    peers = (
        PeerSpec("a", ("a", 80), max_conns=1),
        PeerSpec("b", ("b", 80), tier=1),
        PeerSpec("c", ("c", 80), tier=1, drain=True),
        PeerSpec("d", ("d", 80), tier=2),
        PeerSpec("e", ("e", 80), tier=2),
    )
    spec = UpstreamSpec("u", peers, method)
    table = PeerTable.create(peer_keys(spec), 1)
    upstream = Upstream(spec, table)
    routes = {one.name: route_of(one) for one in peers}

    def bound(name: str) -> str:
        peer = upstream.pick_bound(routes[name], (), 100.0, b"key")
        assert peer is not None
        upstream.release(peer, 100.0, failed=False)
        return peer.name

    first = upstream.pick((), 100.0, b"key")
    assert first is not None
    assert first.name == "a"
    assert [bound(name) for name in "bcbcc"] == list("bcbcc")
    assert [bound("d"), bound("e")] == ["b", "b"]  # as with backups: not while those before them have somebody
    switch(upstream, table, "b")
    assert [bound(name) for name in "edeed"] == list("edeed")
    upstream.release(first, 100.0, failed=False)
    assert [bound("c"), bound("e")] == ["a", "a"]


def test_one_that_drains_is_not_counted_as_fit() -> None:
    spec = UpstreamSpec("u", (PeerSpec("a", ("a", 80), drain=True), PeerSpec("b", ("b", 80), tier=1)))
    upstream = Upstream(spec, PeerTable.create(peer_keys(spec), 1))
    assert names(upstream, 2) == "bb"


def test_all_down_serves_all_tiers() -> None:
    spec = UpstreamSpec("u", (PeerSpec("a", ("a", 80)), PeerSpec("b", ("b", 80), tier=1)), all_down="serve_all")
    table = PeerTable.create(peer_keys(spec), 1)
    for row in range(2):
        table.add_check(row, 7, rise=1, health=0)
        table.set_check(table.layout.check(row, 0), 0, 5, 0, 0, False)
        table.summarise(row, 5)
    upstream = Upstream(spec, table)
    assert upstream.panics
    assert sorted(names(upstream, 4)) == list("aabb")
