"""`random` and `random two`: what is left to chance, what is compared, and what happens where chance finds nobody."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random as Source

from upwell.peers.balancers.random import Random
from upwell.peers.live import Peer
from upwell.peers.peer import Method, PeerSpec


def group(*weights: int) -> list[Peer]:
    return [Peer(PeerSpec(f"p{n}", ("127.0.0.1", n + 1), weight=weight), n, n) for n, weight in enumerate(weights)]


class Drawn:
    """A chance that gives `values` again and again."""

    def __init__(self, *values: float) -> None:
        self.values = values
        self.count = 0

    def __call__(self) -> float:
        value = self.values[self.count % len(self.values)]
        self.count += 1
        return value


def test_a_number_means_a_place_among_all_weights() -> None:
    peers = group(1, 2, 1)
    balancer = Random(Method("random"), Drawn(0.0, 0.24, 0.25, 0.5, 0.74, 0.75, 0.999))
    balancer.rebuild(peers, peers)
    one, two, three = peers
    assert [balancer.pick(None, (), 1.0) for _ in range(7)] == [one, one, two, two, two, three, three]


def test_of_two_the_less_busy_for_its_weight_is_taken() -> None:
    peers = group(1, 4)
    balancer = Random(Method("random", two=True, measure="least_conn"), Drawn(0.0, 0.9))
    balancer.rebuild(peers, peers)
    peers[0].connections, peers[1].connections = 1, 3
    assert balancer.pick(None, (), 1.0) is peers[1]
    peers[1].connections = 4  # equal loads: the later one
    assert balancer.pick(None, (), 1.0) is peers[1]
    peers[1].connections = 5
    assert balancer.pick(None, (), 1.0) is peers[0]


def test_of_two_the_quicker_is_taken() -> None:
    peers = group(1, 1)
    for measure, quick in (("header", 0), ("last_byte", 1)):
        balancer = Random(Method("random", two=True, measure=measure), Drawn(0.0, 0.9))
        assert balancer.watches
        balancer.rebuild(peers, peers)
        for peer, header, last in zip(peers, (0.01, 0.2), (0.9, 0.3), strict=True):
            peer.answer_time = 0.0
            assert balancer.pick(None, [other for other in peers if other is not peer], 1.0) is peer
            peer.connections += 1
            balancer.answered(peer, header, last, 2.0, True)
            peer.connections -= 1
            balancer.released(peer)
        assert balancer.pick(None, (), 2.0) is peers[quick]


def test_two_are_two_different_ones() -> None:
    peers = group(1, 1, 1)
    balancer = Random(Method("random", two=True, measure="least_conn"), Drawn(0.0, 0.1, 0.2, 0.9))
    balancer.rebuild(peers, peers)
    assert balancer.pick(None, (), 1.0) is peers[2]


def test_after_twenty_one_draws_in_vain_round_robin_decides() -> None:
    for two in (False, True):
        chance = Drawn(0.0)
        peers = group(1, 1, 1)
        balancer = Random(Method("random", two=two), chance)
        balancer.rebuild(peers, peers)
        assert [balancer.pick(None, peers[:1], 1.0) for _ in range(2)] == peers[1:]
        assert chance.count == 42


def test_chance_falls_on_nobody_who_is_down() -> None:
    chance = Source(7)
    peers = group(*[3] * 50)
    balancer = Random(Method("random"), chance.random)
    balancer.rebuild(peers, peers[:2])

    def picks() -> Iterator[Peer | None]:
        return (balancer.pick(None, (), 1.0) for _ in range(200))

    assert set(picks()) == set(peers[:2])
    balancer.rebuild(peers, peers[2:3])
    assert set(picks()) == {peers[2]}
    balancer.rebuild(peers, [])
    assert set(picks()) == {None}
