"""least_conn and max_conns over several workers, slow starts, and that many peers are chosen as few are."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from tests.properties.test_properties_least_conn import PlainUpstream
from upwell.peers.balancers.least_conn import LeastConn
from upwell.peers.live import Peer
from upwell.peers.membership import Membership
from upwell.peers.peer import Method, PeerSpec, UpstreamSpec, peer_keys
from upwell.peers.upstream import Upstream
from upwell.zone.layout import COUNT_CONNECTIONS
from upwell.zone.table import PeerTable

LEAST_CONN = Method("least_conn")


def named(name: str, **settings: object) -> PeerSpec:
    return PeerSpec(name, (name, 80), **settings)  # type: ignore[arg-type]  # a test's own words


def workers(count: int, method: Method, *peers: PeerSpec) -> list[Upstream]:
    spec = UpstreamSpec("u", peers, method=method)
    table = PeerTable.create(peer_keys(spec), count)
    return [Upstream(spec, table, worker, chance=Random(worker).random) for worker in range(count)]


def picked(upstream: Upstream, now: float = 1.0) -> Peer:
    peer = upstream.pick((), now)
    assert peer is not None
    return peer


def test_all_workers_count() -> None:
    one, two = workers(2, LEAST_CONN, named("a"), named("b"), named("c"))
    held = [picked(one), picked(one)]
    assert [peer.name for peer in held] == ["a", "b"]
    assert picked(two).name == "c"  # alone it would begin with a
    assert sorted(picked(two).name for _ in range(3)) == ["a", "b", "c"]
    one.release(held[0], 1.0, failed=False)
    assert "a" in [picked(two).name for _ in range(3)]  # a has less: it is looked at within three


def test_peers_that_others_have_filled_are_found_again_when_they_are_free() -> None:
    one, two = workers(2, LEAST_CONN, *[named(str(number)) for number in range(20)])
    held = [picked(one) for _ in range(100)]  # five at each
    mine = [picked(two) for _ in range(20)]
    assert Counter(peer.name for peer in mine) == dict.fromkeys(map(str, range(20)), 1)
    for peer in held:
        if int(peer.name) < 10:
            one.release(peer, 1.0, failed=False)
    mine = [picked(two) for _ in range(50)]
    assert sum(int(peer.name) < 10 for peer in mine) >= 45  # one peer is looked at with each pick: it finds them soon


def test_requests_spread_evenly_whoever_takes_them() -> None:
    group = workers(4, LEAST_CONN, *[named(str(number)) for number in range(10)])
    chance = Random(5)
    held: list[tuple[Upstream, Peer]] = []
    widest = 0
    for turn in range(4000):
        upstream = chance.choice(group)
        held.append((upstream, picked(upstream)))
        if len(held) > 200:
            owner, peer = held.pop(chance.randrange(len(held)))
            owner.release(peer, 1.0, failed=False)
        if turn > 1000:
            load = Counter(peer.name for _, peer in held)
            widest = max(widest, max(load.values()) - min(load.values()))
    assert widest <= 6  # 20 each; workers that knew only their own would differ by more


every_method = pytest.mark.parametrize(
    "method",
    [
        Method(),
        LEAST_CONN,
        Method("ewma"),
        Method("least_time", measure="header"),
        Method("random"),
        Method("random", two=True, measure="least_conn"),
        Method("ip_hash"),
        Method("hash", consistent=True, bounded=1.25),
    ],
    ids=str,
)


@every_method
def test_who_failed_in_one_worker_gets_not_even_one_request_of_another(method: Method) -> None:
    one, two = workers(2, method, named("a"), named("b"), named("c"))
    for upstream in (one, two):
        for _ in range(9):
            peer = upstream.pick((), 100.0, b"\x7f\x00\x00")
            assert peer is not None
            upstream.release(peer, 100.0, failed=False)
    failing = one.pick((), 101.0, b"\x7f\x00\x00")
    assert failing is not None
    assert one.release(failing, 101.0, failed=True)
    one._table.touch(failing.row)  # as the checker does when it is told of it
    one._table.publish()
    names = [two.pick((), 102.0, b"\x7f\x00\x00") for _ in range(8)]
    assert failing.name not in [peer.name for peer in names if peer is not None]
    assert None not in names


@every_method
def test_max_conns_holds_over_all_workers(method: Method) -> None:
    group = workers(3, method, named("a", max_conns=4), named("b", max_conns=5))
    chance = Random(3)
    held: list[tuple[Upstream, Peer]] = []
    for _ in range(300):
        upstream = chance.choice(group)
        peer = upstream.pick((), 1.0, b"\x7f\x00\x00\x01")
        if peer is None:
            assert len(held) == 9
        else:
            held.append((upstream, peer))
        load = Counter(peer.name for _, peer in held)
        assert load["a"] <= 4
        assert load["b"] <= 5
        if held and chance.random() < 0.4:
            owner, peer = held.pop(chance.randrange(len(held)))
            owner.release(peer, 1.0, failed=False)


def test_two_workers_that_take_the_last_place_at_once_give_it_back() -> None:
    (one, _two) = workers(2, Method(), named("a", max_conns=1), named("b", max_conns=1))
    peer = one.peers[0]
    assert peer.everywhere is not None

    class Late:
        """The word of the other worker comes only after this one has decided."""

        def __init__(self, words: memoryview[int]) -> None:
            self.words = words
            self.reads = 0

        def __setitem__(self, at: int, value: int) -> None:
            self.words[at] = value
            self.words[1] = 1

        def __iter__(self) -> object:
            return iter(self.words.tolist())

    peer.everywhere = Late(peer.everywhere)  # type: ignore[assignment]  # it is asked for nothing else
    chosen = picked(one)
    assert chosen.name == "b"
    assert (peer.connections, peer.requests) == (0, 0)


def test_a_worker_that_died_holds_nothing() -> None:
    (one, two) = workers(2, LEAST_CONN, named("a"), named("b"))
    assert picked(one).name == "a"
    Upstream(one.spec, one._table, 0)  # its successor
    assert picked(two).name == "a"


def test_one_worker_keeps_its_counts_to_itself_till_they_are_published() -> None:
    (one,) = workers(1, LEAST_CONN, named("a"), named("b"))
    peer = picked(one)
    word = one._table.layout.count(peer.row, 0) + COUNT_CONNECTIONS
    assert one._table.words[word] == 0
    one.publish()
    assert one._table.words[word] == 1


@pytest.mark.parametrize("weights", [(1,), (1, 2, 3, 5)], ids=["equal", "unequal"])
def test_a_thousand_peers_are_chosen_as_nginx_does(weights: tuple[int, ...]) -> None:
    specs = [named(str(at), weight=weights[at % len(weights)]) for at in range(1000)]
    (upstream,) = workers(1, LEAST_CONN, *specs)
    plain = PlainUpstream(upstream.spec)
    chance = Random(7)
    held: list[Peer] = []
    for _ in range(300):
        peer = picked(upstream)
        assert peer.id == plain.pick(set(), 1.0)
        held.append(peer)
        while held and chance.random() < 0.45:
            ended = held.pop(chance.randrange(len(held)))
            failed = chance.random() < 0.1
            upstream.release(ended, 1.0, failed)
            plain.release(ended.id, 1.0, failed)


def test_a_peer_that_starts_slowly_gets_a_part_of_its_share() -> None:
    balancer = LeastConn(LEAST_CONN, Random(1).random)
    peers = [Peer(named(name, slow_start=10.0), 0, 0) for name in "ab"]
    peers[1].started = 100.0
    balancer.rebuild(peers, peers)

    def share_of_b(now: float, held: int) -> float:
        under_way = []
        for _ in range(held):
            peer = balancer.pick(None, (), now)
            assert peer is not None
            peer.connections += 1
            under_way.append(peer)
        for peer in under_way:
            peer.connections -= 1
            balancer.released(peer)
        return sum(peer is peers[1] for peer in under_way) / held

    assert share_of_b(100.0, 200) == pytest.approx(0.01, abs=0.006)
    assert share_of_b(105.0, 300) == pytest.approx(1 / 3, abs=0.02)
    assert share_of_b(110.1, 200) == pytest.approx(0.5, abs=0.01)
    # One at a time both have nothing: the turns are what is weighed.
    peers[1].started = 200.0
    balancer.unsettle(peers[1])
    alone = [balancer.pick(None, (), 205.0) for _ in range(300)]
    assert sum(peer is peers[1] for peer in alone) / 300 == pytest.approx(1 / 3, abs=0.02)


def test_nobody_waits_for_those_that_start_slowly_together() -> None:
    (upstream,) = workers(1, LEAST_CONN, named("a", slow_start=10.0), named("b", slow_start=10.0))
    for peer in upstream.peers:
        peer.started = 100.0
    upstream._rebuild()
    assert Counter(picked(upstream, 101.0).name for _ in range(20)) == {"a": 10, "b": 10}


def test_a_peer_that_is_well_again_starts_slowly() -> None:
    (upstream,) = workers(1, LEAST_CONN, named("a", slow_start=10.0), named("b", slow_start=10.0))
    peer = picked(upstream, 1000.0)
    assert upstream.release(peer, 1000.0, failed=True)
    assert {picked(upstream, 1001.0).name for _ in range(20)} == {"b"}
    again = picked(upstream, 1020.0)
    assert again is peer  # on trial
    upstream.release(again, 1020.5, failed=False)
    assert peer.started == 1020.5
    got = Counter(picked(upstream, 1023.0).name for _ in range(90))
    assert 10 <= got["a"] <= 40  # 21 of 111 under way
    assert Counter(picked(upstream, 1031.0).name for _ in range(200))["a"] > 100


@pytest.mark.parametrize("method", [LEAST_CONN, Method("least_time", measure="header")], ids=["conn", "time"])
def test_a_peer_that_was_tried_is_not_tried_again_when_another_worker_makes_room(method: Method) -> None:
    one, two = workers(2, method, named("a", max_conns=1), named("b"))
    a, b = one.peers
    first = one.pick({b}, 1.0)
    assert first is a
    one.release(a, 1.0, failed=False)
    filling = two.pick({two.peers[1]}, 1.0)
    assert filling is not None
    assert one.pick({a}, 1.0) is b
    assert one.pick({b}, 1.0) is None  # that a is full is known now
    two.release(filling, 1.0, failed=False)
    one.release(b, 1.0, failed=False)
    assert one.pick({a, b}, 1.0) is None
    assert one.pick({b}, 1.0) is a


@pytest.mark.parametrize("method", [Method(), LEAST_CONN, Method("least_time", measure="header")], ids=str)
def test_max_conns_that_changes_counts_at_once(method: Method) -> None:
    (upstream,) = workers(1, method, named("a", max_conns=1), named("b", max_conns=2))
    membership = Membership(upstream._table, (upstream.spec,))
    a, b = upstream.peers
    for _ in range(3):
        picked(upstream)
    assert upstream.pick((), 1.0) is None

    def bound(peer: Peer, most: int) -> None:
        membership.change(peer.key, max_conns=most)
        upstream._table.publish()

    bound(a, 3)
    assert [picked(upstream), picked(upstream), upstream.pick((), 1.0)] == [a, a, None]
    bound(a, 0)
    assert [picked(upstream) for _ in range(3)] == [a] * 3
    bound(b, 100)
    assert picked(upstream) is b
    bound(b, 3)
    assert [picked(upstream) for _ in range(3)] == [a] * 3
    bound(a, 2)
    assert upstream.pick((), 1.0) is None


@pytest.mark.parametrize(
    "method",
    [LEAST_CONN, Method("least_time", measure="header"), Method("least_time", measure="last_byte"), Method("ewma")],
    ids=["conn", "header", "last_byte", "ewma"],
)
@pytest.mark.parametrize("known", [False, True], ids=["new", "again"])
def test_a_share_grows_evenly_also_where_one_request_comes_at_a_time(method: Method, known: bool) -> None:
    (upstream,) = workers(1, method, named("a", slow_start=10.0), named("b", slow_start=10.0))
    b = upstream.peers[1]
    now = 100.0

    def answer(peer: Peer) -> None:
        if upstream.watches:
            upstream.answered(peer, 0.045, 0.045, now, True)
        upstream.release(peer, now, failed=False)

    for _ in range(20):
        peer = upstream.pick(() if known else {b}, now)
        assert peer is not None
        answer(peer)
    upstream._start(b, now)
    shares = []
    for now in (101.0, 105.0, 109.0, 120.0):  # the clock that `answer` reads
        got = 0
        for _ in range(400):
            peer = picked(upstream, now)
            got += peer is b
            answer(peer)
        shares.append(got / 400)
    # Round robin's, or of each second request a part.
    exact = [0.05, 0.25, 0.45, 0.5] if method.name == "ewma" else [0.1 / 1.1, 0.5 / 1.5, 0.9 / 1.9, 0.5]
    assert shares == pytest.approx(exact, abs=0.06 if method.name == "ewma" else 0.01)


def test_one_that_begins_is_not_overrun_while_the_others_have_more_under_way() -> None:
    (upstream,) = workers(1, LEAST_CONN, named("a", slow_start=10.0), named("b", slow_start=10.0))
    a, b = upstream.peers
    for _ in range(100):
        assert upstream.pick({b}, 100.0) is a
    upstream._start(b, 100.0)
    assert Counter(picked(upstream, 101.0).name for _ in range(110))["b"] == pytest.approx(10, abs=1)
