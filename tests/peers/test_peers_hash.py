"""Hashing: whose keys move when peers go down, leave or join; the ring that follows them; loads that are bounded."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from math import ceil
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upwell.peers.balancers import BALANCERS
from upwell.peers.balancers.balancer import Balancer
from upwell.peers.balancers.ring import Ring, points
from upwell.peers.live import Peer
from upwell.peers.membership import Membership
from upwell.peers.peer import Method, PeerSpec, UpstreamSpec, peer_keys
from upwell.peers.upstream import Upstream
from upwell.zone.table import PeerTable

HASHES = {
    "ip_hash": Method("ip_hash"),
    "hash": Method("hash"),
    "consistent": Method("hash", consistent=True),
    "bounded": Method("hash", consistent=True, bounded=1.5),
}
hashes = pytest.mark.parametrize("name", HASHES)
KEYS = [bytes((n % 251, n % 7, n * 31 % 256)) for n in range(500)]


def group(weights: Iterable[int], first: int = 0) -> list[Peer]:
    """Peers of these weights, each its own server."""
    return [
        Peer(PeerSpec(f"10.0.0.{n}:80", (f"10.0.0.{n}", 80), server=f"10.0.0.{n}:80", weight=weight), n, n)
        for n, weight in enumerate(weights, first)
    ]


def made(name: str, peers: Sequence[Peer], up: Sequence[Peer] | None = None) -> Balancer:
    method = HASHES[name]
    balancer = BALANCERS[method.name](method, Random(1).random)
    balancer.rebuild(peers, peers if up is None else up)
    return balancer


def owners(balancer: Balancer, keys: Iterable[bytes] = KEYS) -> dict[bytes, Peer]:
    """Whose each key is; nobody has anything to do."""
    found = {}
    for key in keys:
        peer = balancer.pick(key, (), 1.0)
        assert peer is not None
        balancer.released(peer)
        found[key] = peer
    return found


weights = st.lists(st.integers(1, 5), min_size=3, max_size=12)


@hashes
@given(weights=weights, down=st.sets(st.integers(0, 11), min_size=1, max_size=2))
@settings(deadline=None, max_examples=25)
def test_a_peer_that_is_down_moves_nobody_elses_keys(name: str, weights: list[int], down: set[int]) -> None:
    peers = group(weights)
    before = owners(made(name, peers))
    up = [peer for peer in peers if peer.id not in down]
    if not up:
        return
    balancer = made(name, peers, up)
    after = owners(balancer)
    assert {key: peer for key, peer in after.items() if before[key] in up} == {
        key: peer for key, peer in before.items() if peer in up
    }
    assert set(after.values()) <= set(up)
    balancer.rebuild(peers, peers)
    assert owners(balancer) == before


@hashes
@given(weights=weights, gone=st.integers(0, 11))
@settings(deadline=None, max_examples=25)
def test_a_suspended_peer_moves_nobody_elses_keys(name: str, weights: list[int], gone: int) -> None:
    peers = group(weights)
    balancer = made(name, peers)
    before = owners(balancer)
    failing = peers[gone % len(peers)]
    failing.fails, failing.checked = 1, 1.0
    after = owners(balancer)
    assert failing not in after.values()
    assert all(after[key] is peer for key, peer in before.items() if peer is not failing)


@pytest.mark.parametrize("name", ["consistent", "bounded"])
@given(weights=weights, gone=st.integers(0, 11))
@settings(deadline=None, max_examples=25)
def test_who_leaves_a_ring_moves_only_its_own_keys(name: str, weights: list[int], gone: int) -> None:
    peers = group(weights)
    balancer = made(name, peers)
    before = owners(balancer)
    left = peers[gone % len(peers)]
    rest = [peer for peer in peers if peer is not left]
    balancer.rebuild(rest, rest)
    after = owners(balancer)
    assert left not in after.values()
    assert all(after[key] is peer for key, peer in before.items() if peer is not left)
    # and who joins takes keys, but moves none between the others
    balancer.rebuild(peers, peers)
    assert owners(balancer) == before


@hashes
def test_a_request_tries_each_peer_once(name: str) -> None:
    peers = group([2, 1, 3, 1, 1])
    balancer = made(name, peers)
    for key in KEYS[:50]:
        tried: list[Peer] = []
        while (peer := balancer.pick(key, tried, 1.0)) is not None:
            assert peer not in tried
            tried.append(peer)
        assert set(tried) == set(peers)


@hashes
@pytest.mark.parametrize("key", [None, b""])
def test_without_a_key_round_robin_decides(name: str, key: bytes | None) -> None:
    peers = group([1, 1, 1])
    balancer = made(name, peers)
    assert [balancer.pick(key, (), 1.0) for _ in range(6)] == peers * 2


def test_points_are_ketamas() -> None:
    # crc32(HOST \0 PORT PREVIOUS), as Cache::Memcached::Fast has them
    assert points("127.0.0.1:8080", 0, 3)[1:] == points("127.0.0.1:8080", 1, 3)
    assert points("unix:/a:1", 0, 9) == points("UNIX:/a:1", 0, 9) != points("/a:1", 0, 9)
    assert points("/a", 0, 9) == points("unix:/a", 0, 9)
    assert len({tuple(points(name, 0, 2)) for name in ("a:80", "a", "a:", "a:x", "[::1]:80", "[::1]")}) == 5
    assert points("a", 0, 2) == points("a:", 0, 2)


def _whole(ring: Ring) -> list[str]:
    return [server.name for server in ring.after(0)]


what_happens = st.sampled_from(("join", "leave", "weight", "again", "name"))
changes = st.lists(st.tuples(what_happens, st.integers(0, 30), st.integers(1, 4)), max_size=12)


@given(weights=weights, changes=changes)
@settings(deadline=None, max_examples=40)
def test_a_ring_that_followed_is_one_made_afresh(weights: list[int], changes: list[tuple[str, int, int]]) -> None:
    peers = group(weights)
    ring = Ring()
    ring.follow(peers)
    number = 100
    for what, which, weight in changes:
        peers = list(peers)
        if what == "join":
            peers += group([weight], number)
        elif what == "again":  # one more address of a server that is there
            spec = peers[which % len(peers)].spec
            peers.append(Peer(PeerSpec("x", ("x", 1), server=spec.server, weight=weight), number, number))
        elif what == "leave" and len(peers) > 1:
            del peers[which % len(peers)]
        elif what == "weight":
            changed = peers[which % len(peers)]
            changed.change(replace(changed.spec, weight=weight), number)
        elif what == "name":  # the same address, otherwise written
            changed = peers[which % len(peers)]
            changed.change(replace(changed.spec, server=f"name{weight}:80"), number)
        number += 1
        ring.follow(peers)
        fresh = Ring()
        fresh.follow(peers)
        assert _whole(ring) == _whole(fresh)
        for server in set(islice(ring.after(0), 100)):
            assert server.peers == [peer for peer in peers if peer.spec.server == server.name]
    ring.follow([])
    assert ring.first(0) is None
    assert _whole(ring) == []


def test_high_weights_cost_no_more_than_the_ring_may() -> None:
    """What DNS says a service's weights are is not the configuration's author's choice."""
    peers = group([65_535, 65_535 // 4, 1])
    ring = Ring()
    ring.follow(peers[:1])
    ring.follow(peers)
    assert ring._size <= 8192 * 160
    got = Counter(ring.first(key * 2_654_435 % 2**32).name for key in range(20_000))  # type: ignore[union-attr]  # not empty
    assert got[peers[0].name] / 20_000 == pytest.approx(0.8, abs=0.02)
    assert _whole(ring).count(peers[2].name) == 160  # or it would have nothing
    ring.follow(peers[2:])
    assert ring._size == 160
    fresh = Ring()
    fresh.follow(peers[2:])
    assert _whole(ring) == _whole(fresh)


def test_weights_as_they_are_usual_have_the_points_of_nginx() -> None:
    ring = Ring()
    ring.follow(group([100] * 81 + [1]))
    assert ring._size == 8101 * 160


def test_a_change_among_many_touches_only_its_own_points() -> None:
    peers = group([1] * 300)
    ring = Ring()
    ring.follow(peers)
    arrays = list(ring._buckets)
    before = [len(bucket) for bucket in arrays]
    ring.follow(peers[1:])
    assert all(one is other for one, other in zip(ring._buckets, arrays, strict=True))
    assert sum(before) - sum(map(len, arrays)) == 160


def test_the_addresses_of_one_server_share_its_keys_by_weight() -> None:
    """nginx: the points belong to the name, and smooth weighted round robin decides among its addresses."""
    two = [
        Peer(PeerSpec(f"10.0.0.{n}:80", (f"10.0.0.{n}", 80), server="app:80", weight=weight), n, n)
        for n, weight in ((1, 2), (2, 1))
    ]
    other = group([1], 9)
    balancer = made("consistent", [*two, *other])
    key = next(key for key, peer in owners(made("consistent", [*two, *other])).items() if peer in two)
    assert [balancer.pick(key, (), 1.0) for _ in range(6)] == [two[0], two[1], two[0]] * 2
    assert balancer.pick(key, [two[0]], 1.0) is two[1]
    assert balancer.pick(key, two, 1.0) is other[0]


@given(
    turns=st.lists(
        st.tuples(
            st.sampled_from(("key", "none", "key", "none", "settled", "tried", "failed", "down", "up")),
            st.integers(0, 2),
            st.integers(1, 15),
        ),
        max_size=20,
    )
)
@settings(deadline=None, max_examples=200)
def test_the_turns_of_addresses_are_nginxs_walk(turns: list[tuple[str, int, int]]) -> None:
    """Written down rounds or not: the weights are those that nginx's walks over the same peers leave."""
    weights = (2, 1, 3, 1)
    spec = [PeerSpec(f"p{n}", ("p", n), server="app" if n < 3 else "x", weight=w) for n, w in enumerate(weights)]
    peers = [Peer(one, n, n) for n, one in enumerate(spec)]
    twins = [Peer(one, n, n) for n, one in enumerate(spec)]
    balancer = made("consistent", peers)
    key = next(key for key, peer in owners(balancer).items() if peer.spec.server == "app")
    balancer = made("consistent", peers)
    for peer, twin in zip(peers, twins, strict=True):
        peer.current_weight = twin.current_weight = 0
    up = list(twins)
    for what, which in ((what, which) for what, which, times in turns for _ in range(times)):
        tried: list[int] = []
        among = [twin for twin in up if twin.spec.server == "app"] or up
        if what in ("down", "up"):
            up = [twin for twin in twins if (twin in up and twin.id != which) or (what == "up" and twin.id == which)]
            balancer.rebuild(peers, [peers[twin.id] for twin in up])
            continue
        if what == "failed":
            balancer.settle()
            peers[which].effective_weight = twins[which].effective_weight = 1
            continue
        if what == "none":
            among = up
        elif what == "tried":
            tried = [which]
            among = [twin for twin in among if twin.id != which] or [twin for twin in up if twin.id != which]
        picked = balancer.pick(b"" if what == "none" else key, [peers[number] for number in tried], 1.0)
        expected = _walk(among)
        assert (picked and picked.id) == (expected and expected.id)
        if what != "settled":
            continue
        balancer.settle()
        assert [peer.current_weight for peer in peers] == [twin.current_weight for twin in twins]


def _walk(peers: list[Peer]) -> Peer | None:
    """ngx_http_upstream_get_peer, without what is no part of the weights."""
    best = None
    total = 0
    for peer in peers:
        peer.current_weight += peer.effective_weight
        total += peer.effective_weight
        peer.effective_weight = min(peer.effective_weight + 1, peer.weight)
        if best is None or peer.current_weight > best.current_weight:
            best = peer
    if best is not None:
        best.current_weight -= total
    return best


def test_a_bounded_load_is_of_each_address() -> None:
    peers = [Peer(PeerSpec(f"p{n}", ("p", n), server="app"), n, n) for n in range(3)]
    assert len(set(owners(made("bounded", peers)).values())) == 3


def test_a_failed_peer_gets_its_weight_back_as_its_turns_come() -> None:
    peers = group([4, 4])
    balancer = made("consistent", peers)
    key, peer = next(iter(owners(balancer).items()))
    peer.effective_weight = 1
    for expected in (2, 3, 4, 4):
        assert balancer.pick(key, (), 1.0) is peer
        assert peer.effective_weight == expected


@given(weights=weights, keys=st.lists(st.sampled_from(KEYS[:3]), max_size=200), factor=st.sampled_from((1.05, 1.25, 2)))
@settings(deadline=None, max_examples=40)
def test_no_load_exceeds_its_bound(weights: list[int], keys: list[bytes], factor: float) -> None:
    peers = group(weights)
    balancer = BALANCERS["hash"](Method("hash", consistent=True, bounded=factor), Random(1).random)
    balancer.rebuild(peers, peers)
    under_way: deque[Peer] = deque()
    for number, key in enumerate(keys):
        peer = balancer.pick(key, (), 1.0)
        assert peer is not None
        assert peer.connections < ceil(factor * (len(under_way) + 1) * peer.weight / sum(weights))
        peer.connections += 1
        under_way.append(peer)
        if number % 3 == 2:
            done = under_way.popleft()
            done.connections -= 1
            balancer.released(done)


def test_a_key_that_all_ask_for_spreads_along_the_ring_and_comes_back() -> None:
    peers = group([1] * 10)
    upstream = _upstream(10, Method("hash", consistent=True, bounded=1.25))
    first = upstream.pick((), 1.0, b"hot")
    assert first is not None
    under_way = [first]
    for _ in range(39):
        peer = upstream.pick((), 1.0, b"hot")
        assert peer is not None
        under_way.append(peer)
    counts = Counter(under_way)
    assert counts[first] == max(counts.values()) == 5  # 1.25 times 40 among ten
    assert len(counts) >= len(peers) * 0.8
    for peer in under_way:
        upstream.release(peer, 1.0, False)
    assert upstream.pick((), 1.0, b"hot") is first


def test_requests_at_peers_that_went_down_bound_nobody() -> None:
    upstream = _upstream(4, Method("hash", consistent=True, bounded=1.25))
    for n in range(40):
        upstream.pick((), 1.0, b"%d" % n)
    busy = max(upstream.peers, key=lambda peer: peer.connections)
    upstream.set_local_down(False, busy.id, True)
    for _ in range(40):
        upstream.pick((), 1.0, b"hot")
    loads = [peer.connections for peer in upstream.peers if peer is not busy]
    assert max(loads) <= ceil(1.25 * sum(loads) / 3)
    while busy.connections:
        upstream.release(busy, 1.0, False)
    upstream.set_local_down(False, busy.id, False)
    peer = upstream.pick((), 1.0, b"hot")
    assert peer is not None


def test_with_room_only_at_those_tried_the_bound_is_none() -> None:
    upstream = _upstream(2, Method("hash", consistent=True, bounded=1.05))
    one = upstream.pick((), 1.0, b"k")
    assert one is not None
    (other,) = (peer for peer in upstream.peers if peer is not one)
    for _ in range(5):
        assert upstream.pick([one], 1.0, b"k") is other
    assert upstream.pick([one, other], 1.0, b"k") is None


def _upstream(count: int, method: Method) -> Upstream:
    spec = UpstreamSpec("u", tuple(peer.spec for peer in group([1] * count)), method=method)
    return Upstream(spec, PeerTable.create(peer_keys(spec), 1))


@pytest.mark.parametrize("name", ["consistent", "bounded"])
def test_peers_that_join_and_leave_at_run_time_move_no_other_keys(name: str) -> None:
    spec = UpstreamSpec("u", tuple(peer.spec for peer in group([1, 2, 3, 1])), method=HASHES[name])
    table = PeerTable.create(peer_keys(spec), 2, 8)
    membership = Membership(table, (spec,))
    upstream = Upstream(spec, table, 0)

    def names(upstream: Upstream) -> dict[bytes, str]:
        found = {}
        for key in KEYS:
            peer = upstream.pick((), 1.0, key)
            assert peer is not None
            upstream.release(peer, 1.0, False)
            found[key] = peer.name
        return found

    before = names(upstream)
    (joining,) = (peer.spec for peer in group([2], 7))
    key = membership.key_for("u", joining)
    membership.join(key, joining, membership.row_for("u"))
    table.publish()
    after = names(upstream)
    assert {name for key, name in after.items() if name != before[key]} == {joining.name}
    assert names(Upstream(spec, table, 1)) == after  # a worker that begins later agrees
    membership.leave(key)
    membership.leave(peer_keys(spec)[1])
    table.publish()
    later = names(upstream)
    assert all(later[key] == name for key, name in before.items() if name != spec.peers[1].name)
    assert names(Upstream(spec, table, 1)) == later
