"""What every member of BALANCERS must do, whatever its sequence."""

from __future__ import annotations

from random import Random

import pytest

from upwell.peers.balancers import BALANCERS
from upwell.peers.balancers.balancer import Balancer
from upwell.peers.live import Peer
from upwell.peers.peer import Method, PeerSpec

balancers = pytest.mark.parametrize("name", sorted(BALANCERS))


def made(name: str) -> Balancer:
    return BALANCERS[name](Method(name), Random(1).random)


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
