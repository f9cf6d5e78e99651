"""What every member of BALANCERS must do, whatever its sequence."""

from __future__ import annotations

from collections import deque
from random import Random
from zlib import crc32

import pytest

from upwell.peers.balancers import BALANCERS
from upwell.peers.balancers.balancer import Balancer
from upwell.peers.live import Peer
from upwell.peers.peer import Method, PeerSpec

METHODS = {name: Method(name) for name in sorted(BALANCERS)} | {
    "least_time": Method("least_time", measure="last_byte"),
    "least_time inflight": Method("least_time", measure="header", inflight=True),
    "hash consistent": Method("hash", consistent=True),
    "hash bounded": Method("hash", consistent=True, bounded=1.25),
    "random two": Method("random", two=True, measure="least_conn"),
    "random two least_time": Method("random", two=True, measure="header"),
}
"""Each member as its directive makes it, and what else its parameters may make of it."""

SPREAD = {"hash consistent": 0.25}
"""Where shares are as uneven as the points on a ring happen to be."""

balancers = pytest.mark.parametrize("name", METHODS)


def made(name: str) -> Balancer:
    method = METHODS[name]
    return BALANCERS[method.name](method, Random(1).random)


def peers(count: int, max_conns: int = 0) -> list[Peer]:
    return [Peer(PeerSpec(f"p{n}", ("127.0.0.1", n + 1), max_conns=max_conns), n, n) for n in range(count)]


@balancers
def test_nobody_is_picked_from_nothing(name: str) -> None:
    balancer = made(name)
    assert balancer.pick(b"key", (), 1.0) is None
    balancer.rebuild((), ())
    balancer.settle()
    assert balancer.pick(None, (), 1.0) is None


@balancers
def test_the_tried_and_the_full_and_the_suspended_are_passed_over(name: str) -> None:
    balancer = made(name)
    group = peers(4, max_conns=2)
    balancer.rebuild(group, group)
    group[1].connections = 2
    group[2].fails = 1
    group[2].checked = 1.0
    for _ in range(8):
        assert balancer.pick(b"key", [group[0]], 5.0) is group[3]
    assert balancer.pick(b"key", [group[0], group[3]], 5.0) is None
    assert balancer.pick(b"key", [group[0], group[3]], 12.0) is group[2]
    assert group[2].checked == 12.0


@balancers
def test_a_rebuild_is_followed_at_once(name: str) -> None:
    balancer = made(name)
    group = peers(5)
    for members in (group, group[:2], group[3:], group):
        balancer.rebuild(group, members)
        chosen = {balancer.pick(str(n).encode(), (), 1.0) for n in range(50)}
        assert chosen <= set(members)
        assert None not in chosen


@balancers
def test_settle_never_changes_who_is_next(name: str) -> None:
    one, two = made(name), made(name)
    group, twins = peers(3), peers(3)
    one.rebuild(group, group)
    two.rebuild(twins, twins)
    for n in range(30):
        key = str(n).encode()
        chosen, twin = one.pick(key, (), 1.0), two.pick(key, (), 1.0)
        two.settle()
        assert chosen is not None
        assert twin is not None
        assert chosen.id == twin.id


@balancers
def test_shares_follow_weights(name: str) -> None:
    weights = (1, 2, 5, 2)
    group = [
        Peer(PeerSpec(f"10.0.0.{n}:80", ("10.0.0.1", 80), weight=weight), n, n) for n, weight in enumerate(weights)
    ]
    balancer = made(name)
    balancer.rebuild(group, group)
    counts = dict.fromkeys(group, 0)
    under_way: deque[Peer] = deque()
    for n in range(8000):
        peer = balancer.pick(_address(n) if name == "ip_hash" else b"/%d" % n, (), 1.0)
        assert peer is not None
        peer.connections += 1
        counts[peer] += 1
        under_way.append(peer)
        if len(under_way) > 40:
            done = under_way.popleft()
            done.connections -= 1
            balancer.released(done)
    for peer, count in counts.items():
        assert count / 8000 == pytest.approx(peer.weight / 10, rel=SPREAD.get(name, 0.1))


@balancers
def test_who_went_away_is_picked_no_more_and_who_came_is(name: str) -> None:
    group = peers(4)
    balancer = made(name)
    balancer.rebuild(group, group)
    for peer in group:
        peer.connections = 3
    came = [*group[1:], *peers(6)[4:]]
    balancer.rebuild(came, came)
    chosen = set()
    for n in range(300):
        picked = balancer.pick(_address(n) if name == "ip_hash" else b"/%d" % n, (), 1.0)
        assert picked is not None
        picked.connections += 1
        chosen.add(picked)
    assert chosen == set(came)


def _address(n: int) -> bytes:
    return crc32(b"%d" % n).to_bytes(4, "big")[:3]
