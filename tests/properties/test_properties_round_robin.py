"""Round robin against nginx's algorithm, written a second time as nginx has it: a walk over all peers at each pick."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upwell.peers.balancers.round_robin import RoundRobin
from upwell.peers.live import Peer
from upwell.peers.peer import Method, PeerSpec, UpstreamSpec, peer_keys
from upwell.peers.upstream import Upstream
from upwell.zone.layout import ADMIN_DOWN, ADMIN_UP
from upwell.zone.table import PeerTable


class Reach:
    """Where all weights are less than half of what they were, so is what peers are owed (balancer.moderate)."""

    def __init__(self) -> None:
        self.most = 0

    def moderated(self, weights: list[int], owed: list[int]) -> list[int]:
        whole = sum(weights)
        if whole * 2 < self.most:
            self.most = whole
            most = max(map(abs, owed), default=0)
            if most > whole:
                return [int(one * whole / most) for one in owed]
        self.most = max(self.most, whole)
        return owed


class PlainPeer:
    def __init__(self, spec: PeerSpec) -> None:
        self.spec = spec
        self.down = spec.down
        self.effective = spec.weight
        self.current = 0
        self.fails = 0
        self.accessed = 0.0
        self.checked = 0.0
        self.conns = 0


class PlainUpstream:
    """get_peer and free_peer, without a thought for speed. Peers are numbers in configuration order."""

    def __init__(self, spec: UpstreamSpec) -> None:
        self.peers = [PlainPeer(peer) for peer in spec.peers]

    def pick(self, tried: set[int], now: float) -> int | None:
        for backup in (False, True):
            best = None
            total = 0
            for number, peer in enumerate(self.peers):
                spec = peer.spec
                if spec.backup is not backup or number in tried or peer.down:
                    continue
                if spec.max_fails and peer.fails >= spec.max_fails and now - peer.checked <= spec.fail_timeout:
                    continue
                if spec.max_conns and peer.conns >= spec.max_conns:
                    continue
                peer.current += peer.effective
                total += peer.effective
                if peer.effective < spec.weight:
                    peer.effective += 1
                if best is None or peer.current > self.peers[best].current:
                    best = number
            if best is not None:
                chosen = self.peers[best]
                chosen.current -= total
                if now - chosen.checked > chosen.spec.fail_timeout:
                    chosen.checked = now
                chosen.conns += 1
                return best
        return None

    def release(self, number: int, now: float, failed: bool) -> None:
        peer = self.peers[number]
        peer.conns -= 1
        if len(self.peers) == 1 and not peer.spec.backup:
            peer.fails = 0
            return
        if failed:
            peer.fails += 1
            peer.accessed = peer.checked = now
            if peer.spec.max_fails:
                peer.effective -= int(peer.spec.weight / peer.spec.max_fails)
            peer.effective = max(peer.effective, 0)
        elif peer.accessed < peer.checked:
            peer.fails = 0


peer_specs = st.builds(
    PeerSpec,
    name=st.sampled_from(["a", "b", "c"]),
    address=st.just(("127.0.0.1", 80)),
    weight=st.integers(1, 7),
    max_fails=st.integers(0, 3),
    fail_timeout=st.sampled_from([0.0, 1.0, 3.0, 10.0]),
    max_conns=st.sampled_from([0, 0, 0, 1, 2]),
    backup=st.sampled_from([False, False, False, True]),
    down=st.sampled_from([False, False, False, True]),
)
steps = st.one_of(
    st.tuples(st.just("requests"), st.integers(1, 25)),
    st.tuples(st.just("pick"), st.just(0)),
    st.tuples(st.just("fail"), st.integers(0, 3)),
    st.tuples(st.just("pass"), st.integers(0, 3)),
    st.tuples(st.just("wait"), st.integers(0, 12)),
    st.tuples(st.just("toggle"), st.integers(0, 5)),
    st.tuples(st.just("read"), st.just(0)),
)


@given(st.lists(peer_specs, min_size=1, max_size=6), st.lists(steps, max_size=40))
def test_the_sequence_is_nginx_s(specs: list[PeerSpec], script: list[tuple[str, int]]) -> None:
    spec = UpstreamSpec("u", tuple(specs))
    table = PeerTable.create(peer_keys(spec), 1)
    upstream = Upstream(spec, table)
    plain = PlainUpstream(spec)
    number = {peer: at for at, peer in enumerate(upstream.peers)}
    now = 1000.0
    held: list[tuple[int, set[int]]] = []  # who was picked and not released, and what that request tried

    def pick(tried: set[int]) -> int | None:
        chosen = upstream.pick([upstream.peers[at] for at in tried], now)
        expected = plain.pick(tried, now)
        assert (None if chosen is None else number[chosen]) == expected
        return expected

    def release(at: int, failed: bool) -> None:
        upstream.release(upstream.peers[at], now, failed)
        plain.release(at, now, failed)

    for what, amount in script:
        if what == "requests":
            for _ in range(amount):
                chosen = pick(set())
                if chosen is not None:
                    release(chosen, False)
        elif what == "pick":
            chosen = pick(set())
            if chosen is not None:
                held.append((chosen, {chosen}))
        elif what in ("fail", "pass") and held:
            at, tried = held.pop(amount % len(held))
            release(at, what == "fail")
            if what == "fail":
                again = pick(tried)
                if again is not None:
                    held.append((again, {*tried, again}))
        elif what == "wait":
            now += amount
        elif what == "toggle":
            at = amount % len(specs)
            plain.peers[at].down = not plain.peers[at].down
            table.set_admin(upstream.peers[at].row, ADMIN_DOWN if plain.peers[at].down else ADMIN_UP)
            table.publish()
        elif what == "read":
            for peer in (*upstream.primary, *upstream.backup):
                other = plain.peers[number[peer]]
                assert (peer.current_weight, peer.effective_weight, peer.down) == (
                    other.current,
                    other.effective,
                    other.down,
                )
    for peer in (*upstream.primary, *upstream.backup):
        other = plain.peers[number[peer]]
        assert (peer.current_weight, peer.effective_weight, peer.fails, peer.connections) == (
            other.current,
            other.effective,
            other.fails,
            other.conns,
        )


moves = st.one_of(
    st.tuples(st.just("requests"), st.integers(1, 200)),
    st.tuples(st.sampled_from(["toggle", "toggle", "leave", "join", "session", "weight", "fail"]), st.integers(0, 9)),
)
weights = st.sampled_from([1, 4099, 4099, 4099, 5003, 20011])


@given(st.lists(weights, min_size=2, max_size=6), st.lists(moves, min_size=15, max_size=60))
def test_who_comes_and_goes_moves_nobody_else_s_turn(some: list[int], script: list[tuple[str, int]]) -> None:
    # Rounds as long as these are not written down: the lines stay through what happens.
    def new(weight: int) -> Peer:
        return Peer(PeerSpec("p", ("127.0.0.1", 80), weight=weight, max_fails=0), 0, 0)

    balancer = RoundRobin(Method("round_robin"), float)
    peers = tuple(new(weight) for weight in some)
    plain = dict.fromkeys(peers, 0)
    balancer.rebuild(peers, peers)

    reach = Reach()
    reach.moderated([peer.weight for peer in peers], [])

    def walk(chosen: Peer | None) -> None:
        for peer in plain:
            if peer.up:
                plain[peer] += peer.weight
        if chosen is not None:
            plain[chosen] -= sum(peer.weight for peer in plain if peer.up)

    for what, amount in script:
        peer = peers[amount % len(peers)] if peers else new(1)
        if what == "requests":
            for _ in range(amount if any(peer.up for peer in peers) else 0):
                chosen = balancer.pick(None, (), 1.0)
                assert chosen is not None
                walk(None)
                assert chosen is max([peer for peer in peers if peer.up], key=plain.__getitem__)
                plain[chosen] -= sum(peer.weight for peer in peers if peer.up)
        elif what == "toggle":
            peer.up = not peer.up
        elif what == "leave":
            peers = tuple(one for one in peers if one is not peer)
            plain.pop(peer, None)
        elif what == "join":
            peers = (*peers, new(some[amount % len(some)]))
            plain[peers[-1]] = 0
        elif what == "session" and peer in peers:
            balancer.bound(peer, None, (), 1.0)
            if plain[peer] > peer.weight - sum(one.weight for one in peers):
                walk(peer)
        elif what == "weight":
            balancer.set_aside([peer])
            peer.weight = peer.effective_weight = some[amount % len(some)]
            peers = (*peers,)
        elif what == "fail" and not peer.up:
            # One that comes back with a failure is walked to until it is forgiven.
            peer.fails = 1 - peer.fails
        if what != "requests":
            balancer.rebuild(peers, [peer for peer in peers if peer.up])
            plain = dict(zip(peers, reach.moderated([one.weight for one in peers], list(plain.values())), strict=True))
    balancer.settle()
    assert {peer: peer.current_weight for peer in peers} == {peer: plain[peer] for peer in peers}


def test_one_that_comes_back_suspended_is_passed_over_where_rounds_are_long() -> None:
    peers = [Peer(PeerSpec(f"p{at}", ("127.0.0.1", 80), weight=4099 + at), at, at) for at in range(3)]
    balancer = RoundRobin(Method("round_robin"), float)
    balancer.rebuild(peers, peers)
    balancer.pick(None, (), 100.0)
    balancer.rebuild(peers, peers[:2])
    peers[2].fails, peers[2].checked = 1, 100.0
    balancer.rebuild(peers, peers)
    assert peers[2] not in [balancer.pick(None, (), 105.0) for _ in range(6)]
    assert peers[2] in [balancer.pick(None, (), 111.0) for _ in range(6)]


def test_one_that_comes_back_has_its_place_where_a_long_round_became_a_short_one() -> None:
    peers = [
        Peer(PeerSpec(f"p{at}", ("127.0.0.1", 80), weight=weight), at, at) for at, weight in enumerate((5000, 1, 1, 2))
    ]
    balancer = RoundRobin(Method("round_robin"), float)
    balancer.rebuild(peers, peers)
    balancer.pick(None, (), 1.0)
    balancer.rebuild(peers, peers[1:])
    for _ in range(5):  # a whole round, and one of the next
        balancer.pick(None, (), 1.0)
    balancer.rebuild(peers, peers[2:])
    balancer.rebuild(peers, peers[1:])
    assert [balancer.pick(None, (), 1.0) for _ in range(3)] == [peers[1], peers[2], peers[3]]


@pytest.mark.parametrize("seed", [511, 1437, 2005, 2097, *range(60)])
def test_histories_of_short_and_long_rounds_are_nginx_s(seed: int) -> None:
    rnd = random.Random(seed)
    lists = (
        [1, 1, 2, 5000],
        [1, 2, 3, 5000, 6001],
        [1, 1, 1, 1, 4999],
        [3, 5, 4099],
        [2, 2000, 3000],
        [1],
        [1, 2, 5, 7],
    )
    some = rnd.choice(lists)

    def new(weight: int) -> Peer:
        return Peer(PeerSpec("p", ("127.0.0.1", 80), weight=weight, max_fails=0), 0, 0)

    balancer = RoundRobin(Method("round_robin"), float)
    peers = tuple(new(rnd.choice(some)) for _ in range(rnd.randint(2, 7)))
    plain = dict.fromkeys(peers, 0)
    balancer.rebuild(peers, peers)

    reach = Reach()
    reach.moderated([one.weight for one in peers], [])

    def walk(who: list[Peer], chosen: Peer | None = None) -> Peer:
        for one in who:
            plain[one] += one.weight
        best = chosen or max(who, key=plain.__getitem__)
        plain[best] -= sum(one.weight for one in who)
        return best

    for _ in range(120):
        what = rnd.choice(["req", "req", "req", "tog", "tog", "leave", "join", "session", "settle", "tried", "weight"])
        peer = rnd.choice(peers)
        up = [one for one in peers if one.up]
        if what in ("req", "tried"):
            for _ in range(rnd.choice([1, 1, 2, 3, 5, 9, 40])):
                tried = [one for one in peers if what == "tried" and rnd.random() < 0.3]
                left = [one for one in up if one not in tried]
                assert balancer.pick(None, tried, 1.0) is (walk(left) if left else None)
            continue
        if what == "session":
            balancer.bound(peer, None, (), 1.0)
            if plain[peer] > peer.weight - sum(one.weight for one in peers):
                walk(up, peer)
            continue
        if what == "settle":
            balancer.settle()
            assert plain == {one: one.current_weight for one in peers}
            continue
        if what == "tog":
            peer.up = not peer.up
        elif what == "weight":
            balancer.set_aside([peer])
            peer.weight = peer.effective_weight = rnd.choice(some)
            peers = (*peers,)
        elif what == "join":
            peers = (*peers, new(rnd.choice(some)))
            plain[peers[-1]] = 0
        elif what == "leave" and len(peers) > 1:
            peers = tuple(one for one in peers if one is not peer)
            del plain[peer]
        balancer.rebuild(peers, [one for one in peers if one.up])
        plain = dict(zip(peers, reach.moderated([one.weight for one in peers], list(plain.values())), strict=True))
