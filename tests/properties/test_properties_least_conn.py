"""least_conn against nginx's algorithm, written a second time as nginx has it: two walks over all peers for a pick."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tests.properties.test_properties_round_robin import Reach
from upwell.peers.balancers.least_conn import LeastConn
from upwell.peers.live import Peer
from upwell.peers.peer import Method, PeerSpec, UpstreamSpec, peer_keys
from upwell.peers.upstream import Upstream
from upwell.zone.layout import ADMIN_DOWN, ADMIN_UP
from upwell.zone.table import PeerTable


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
        self.elsewhere = 0


class PlainUpstream:
    """get_peer and free_peer, without a thought for speed. Peers are numbers in configuration order."""

    def __init__(self, spec: UpstreamSpec) -> None:
        self.peers = [PlainPeer(peer) for peer in spec.peers]

    def fit(self, number: int, tried: set[int], now: float) -> bool:
        peer = self.peers[number]
        if number in tried or peer.down:
            return False
        spec = peer.spec
        if spec.max_fails and peer.fails >= spec.max_fails and now - peer.checked <= spec.fail_timeout:
            return False
        return not spec.max_conns or peer.conns < spec.max_conns

    def pick(self, tried: set[int], now: float) -> int | None:
        for backup in (False, True):
            group = [number for number, peer in enumerate(self.peers) if peer.spec.backup is backup]
            best: int | None = None
            many = False
            for number in group:
                if not self.fit(number, tried, now):
                    continue
                peer = self.peers[number]
                if best is None:
                    best = number
                    continue
                chosen = self.peers[best]
                if peer.conns * chosen.spec.weight < chosen.conns * peer.spec.weight:
                    best = number
                    many = False
                elif peer.conns * chosen.spec.weight == chosen.conns * peer.spec.weight:
                    many = True
            if best is None:
                continue
            total = 0
            if many:
                for number in group[group.index(best) :]:
                    peer, chosen = self.peers[number], self.peers[best]
                    if not self.fit(number, tried, now):
                        continue
                    if peer.conns * chosen.spec.weight != chosen.conns * peer.spec.weight:
                        continue
                    peer.current += peer.effective
                    total += peer.effective
                    if peer.effective < peer.spec.weight:
                        peer.effective += 1
                    if peer.current > chosen.current:
                        best = number
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
            return
        if failed:
            peer.fails += 1
            peer.accessed = peer.checked = now
            if peer.spec.max_fails:
                peer.effective -= peer.spec.weight // peer.spec.max_fails
            peer.effective = max(peer.effective, 0)
        elif peer.accessed < peer.checked:
            peer.fails = 0


peer_specs = st.builds(
    PeerSpec,
    name=st.sampled_from(["a", "b", "c"]),
    address=st.just(("127.0.0.1", 80)),
    weight=st.sampled_from([1, 1, 1, 2, 3, 4, 6, 7]),
    max_fails=st.integers(0, 3),
    fail_timeout=st.sampled_from([0.0, 1.0, 3.0, 10.0]),
    max_conns=st.sampled_from([0, 0, 0, 0, 1, 2, 5]),
    backup=st.sampled_from([False, False, False, True]),
    down=st.sampled_from([False, False, False, True]),
)
steps = st.one_of(
    st.tuples(st.just("requests"), st.integers(1, 25)),
    st.tuples(st.just("pick"), st.integers(1, 12)),
    st.tuples(st.just("fail"), st.integers(0, 30)),
    st.tuples(st.just("pass"), st.integers(0, 30)),
    st.tuples(st.just("end"), st.integers(1, 12)),
    st.tuples(st.just("wait"), st.integers(0, 12)),
    st.tuples(st.just("toggle"), st.integers(0, 9)),
    st.tuples(st.just("read"), st.just(0)),
)


@given(st.lists(peer_specs, min_size=1, max_size=10), st.lists(steps, max_size=60), st.integers(1, 2))
def test_the_sequence_is_nginx_s(specs: list[PeerSpec], script: list[tuple[str, int]], workers: int) -> None:
    spec = UpstreamSpec("u", tuple(specs), method=Method("least_conn"))
    table = PeerTable.create(peer_keys(spec), workers)
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

    def end(amount: int, failed: bool) -> None:
        at, tried = held.pop(amount % len(held))
        release(at, failed)
        if failed:
            again = pick(tried)
            if again is not None:
                held.append((again, {*tried, again}))

    def compare() -> None:
        for peer in (*upstream.primary, *upstream.backup):
            other = plain.peers[number[peer]]
            assert (peer.current_weight, peer.effective_weight, peer.fails, peer.connections, peer.down) == (
                other.current,
                other.effective,
                other.fails,
                other.conns,
                other.down,
            )

    for what, amount in script:
        if what == "requests":
            for _ in range(amount):
                chosen = pick(set())
                if chosen is not None:
                    release(chosen, False)
        elif what == "pick":
            for _ in range(amount):
                chosen = pick(set())
                if chosen is not None:
                    held.append((chosen, {chosen}))
        elif what in ("fail", "pass") and held:
            end(amount, what == "fail")
        elif what == "end":
            for count in range(min(amount, len(held))):
                end(amount * count, False)
        elif what == "wait":
            now += amount
        elif what == "toggle":
            at = amount % len(specs)
            plain.peers[at].down = not plain.peers[at].down
            table.set_admin(upstream.peers[at].row, ADMIN_DOWN if plain.peers[at].down else ADMIN_UP)
            table.publish()
        elif what == "read":
            compare()
    compare()


moves = st.one_of(
    st.tuples(st.just("pick"), st.integers(0, 20)),
    st.tuples(st.just("pick"), st.integers(0, 20)),
    st.tuples(st.just("end"), st.integers(0, 20)),
    st.tuples(st.just("join"), st.integers(0, 20)),
    st.tuples(st.just("append"), st.integers(1, 3)),
    st.tuples(st.just("leave"), st.integers(0, 20)),
    st.tuples(st.just("weigh"), st.integers(0, 20)),
    st.tuples(st.just("turn"), st.integers(0, 20)),
    st.tuples(st.just("read"), st.just(0)),
)


@given(st.lists(st.sampled_from([1, 2, 3, 500]), min_size=1, max_size=6), st.lists(moves, max_size=120))
def test_so_it_stays_while_peers_come_and_go(weights: list[int], script: list[tuple[str, int]]) -> None:
    """`now` stands still and nobody fails: what is looked at is whom the heaps hold."""
    balancer = LeastConn(Method("least_conn"), Random(1).random)
    plain = PlainUpstream(UpstreamSpec("u", ()))
    twin: dict[Peer, PlainPeer] = {}
    held: list[Peer] = []

    def new(weight: int) -> Peer:
        spec = PeerSpec("p", ("127.0.0.1", 80), weight=weight)
        peer = Peer(spec, 0, 0)
        twin[peer] = PlainPeer(spec)
        return peer

    peers = tuple(new(weight) for weight in weights)

    reach = Reach()

    def follow() -> None:
        plain.peers = [twin[peer] for peer in peers]
        currents = reach.moderated([peer.weight for peer in peers], [other.current for other in plain.peers])
        for other, current in zip(plain.peers, currents, strict=True):
            other.current = current
        balancer.rebuild(peers, [peer for peer in peers if peer.up])

    follow()
    for what, amount in script:
        at = amount % len(peers) if peers else 0
        if what == "pick":
            for _ in range(amount):
                chosen, expected = balancer.pick(None, (), 1.0), plain.pick(set(), 1.0)
                assert (None if chosen is None else peers.index(chosen)) == expected
                if chosen is not None:
                    chosen.connections += 1
                    held.append(chosen)
        elif what == "end":
            for _ in range(min(amount, len(held))):
                peer = held.pop(amount % len(held))
                peer.connections -= 1
                twin[peer].conns -= 1
                balancer.released(peer)
        elif what == "read":
            balancer.settle()
            for peer in peers:
                assert peer.current_weight == twin[peer].current
        elif what == "turn" and peers:
            peers[at].up = twin[peers[at]].down
            twin[peers[at]].down = not peers[at].up
            follow()
        elif what == "append":
            peers = (*peers, *[new(amount) for _ in range(amount)])
            follow()
        elif what == "join":
            peers = (*peers[:at], new(1 + amount % 3), *peers[at:])
            follow()
        elif what == "leave" and peers:
            peers = (*peers[:at], *peers[at + 1 :])
            follow()
        elif what == "weigh" and peers:
            peer = peers[at]
            other = twin[peer]
            peer.weight = peer.effective_weight = other.effective = 1 + amount % 4
            other.spec = replace(other.spec, weight=peer.weight)
            peers = (*peers[:at], peer, *peers[at + 1 :])
            follow()
