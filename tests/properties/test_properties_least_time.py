"""least_time against a walk over all peers at each pick that takes nginx's estimate of each and, of equals, turns."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from upwell.peers.balancers.least_time import LeastTime
from upwell.peers.live import Peer
from upwell.peers.peer import Method, PeerSpec


class PlainPeer:
    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.current = 0
        self.conns = 0
        self.time = 0.0

    def eta(self) -> int:
        whole = int(self.time * 1000)
        return (5000 if whole > 5000 else whole + 20 - whole % 20) * (1 + self.conns)


def pick(peers: list[PlainPeer]) -> int:
    best = 0
    many = False
    for at, peer in enumerate(peers[1:], 1):
        mine, least = peer.eta() * peers[best].weight, peers[best].eta() * peer.weight
        if mine < least:
            best, many = at, False
        elif mine == least:
            many = True
    total = 0
    least = peers[best].eta()
    weight = peers[best].weight
    for at, peer in enumerate(peers):
        if many and peer.eta() * weight == least * peer.weight:
            peer.current += peer.weight
            total += peer.weight
            if peer.current > peers[best].current:
                best = at
    peers[best].current -= total
    return best


steps = st.one_of(
    st.tuples(st.just("pick"), st.integers(1, 15)),
    st.tuples(st.just("end"), st.integers(0, 3000)),
    st.tuples(st.just("end"), st.integers(0, 80)),
    st.tuples(st.just("read"), st.just(0)),
)


@given(st.lists(st.sampled_from([1, 1, 1, 2, 3]), min_size=1, max_size=8), st.lists(steps, max_size=80))
def test_the_sequence_is_that_of_the_walk(weights: list[int], script: list[tuple[str, int]]) -> None:
    """All were measured and none has been idle for its `fail_timeout`: there upwell has rules of its own."""
    now = 1000.0
    balancer = LeastTime(Method("least_time", measure="header"), Random(1).random)
    peers = [Peer(PeerSpec(str(at), ("a", at), weight=weight), at, at) for at, weight in enumerate(weights)]
    plain = [PlainPeer(weight) for weight in weights]
    for peer, other in zip(peers, plain, strict=True):
        peer.checked = now
        balancer.answered(peer, 0.0105, 9.0, now, True)
        other.time = 0.0105
    balancer.rebuild(peers, peers)
    held: list[Peer] = []
    for what, amount in script:
        if what == "pick":
            for _ in range(amount):
                chosen = balancer.pick(None, (), now)
                assert chosen is not None
                assert chosen.id == pick(plain)
                chosen.connections += 1
                plain[chosen.id].conns += 1
                held.append(chosen)
        elif what == "end" and held:
            peer = held.pop(amount % len(held))
            seconds = (amount + 0.5) / 1000
            peer.connections -= 1
            balancer.answered(peer, seconds, 9.0, now, True)
            balancer.released(peer)
            other = plain[peer.id]
            other.conns -= 1
            other.time += 0.05 * (seconds - other.time)
        elif what == "read":
            balancer.settle()
    balancer.settle()
    assert [peer.current_weight for peer in peers] == [other.current for other in plain]
