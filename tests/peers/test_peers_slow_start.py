"""slow_start: who begins anew, how much each gets meanwhile, and that nobody else notices."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from upwell.errors import ConfigErrors
from upwell.modules.load import load
from upwell.modules.upstream import UpstreamsSettings
from upwell.peers.balancers.round_robin import RoundRobin
from upwell.peers.balancers.slow_start import SlowStart
from upwell.peers.live import Peer
from upwell.peers.peer import Method, PeerSpec, UpstreamSpec, peer_keys
from upwell.peers.slow_start import share
from upwell.peers.upstream import Upstream
from upwell.zone.table import PeerTable


def peer(name: str, weight: int = 1, slow_start: float = 10.0, max_fails: int = 1, backup: bool = False) -> PeerSpec:
    return PeerSpec(name, (name, 80), weight=weight, slow_start=slow_start, max_fails=max_fails, backup=backup)


class Group:
    """An upstream whose peers are checked and up, and its view in one worker. Times are seconds, 0 is its start."""

    def __init__(self, *peers: PeerSpec) -> None:
        self.spec = UpstreamSpec("u", peers)
        self.table = PeerTable.create(peer_keys(self.spec), 1)
        for row in range(len(peers)):
            self.table.add_check(row, 7, 1, 1)
            self.table.summarise(row, 1000)
        self.worker = Upstream(self.spec, self.table)

    def turn(self, row: int, health: int, now: float) -> None:
        millis = int(now * 1000)
        self.table.set_check(self.table.layout.check(row, 0), health, millis, 0, 0, bool(health))
        self.table.summarise(row, millis)
        self.table.publish()

    def come_back(self, row: int, now: float) -> None:
        self.turn(row, 0, now - 1.0)
        self.turn(row, 1, now)

    def count(self, now: float, picks: int) -> Counter[str]:
        """Who gets `picks` requests at one moment."""
        seen: Counter[str] = Counter()
        for _ in range(picks):
            chosen = self.worker.pick((), now)
            assert chosen is not None
            seen[chosen.name] += 1
            self.worker.release(chosen, now, failed=False)
        return seen


def test_a_share_grows_evenly() -> None:
    began = Peer(peer("a"), 0, 0)
    began.started = 100.0
    assert [share(began, now) for now in (100.0, 101.0, 105.0, 109.0, 110.0, 200.0)] == [
        0.01,
        0.1,
        0.5,
        0.9,
        1.0,
        1.0,
    ]
    assert share(began, 99.0) == 0.01  # another clock may round down
    never, at_once = Peer(peer("b"), 0, 0), Peer(peer("c", slow_start=0.0), 0, 0)
    at_once.started = 100.0
    assert share(never, 1.0) == share(at_once, 100.0) == 1.0


def test_a_peer_that_comes_back_gets_its_share_little_by_little() -> None:
    group = Group(peer("a"), peer("b"))
    assert group.count(50.0, 10) == {"a": 5, "b": 5}
    group.come_back(1, 100.0)
    got = [group.count(now, 1000)["b"] for now in (100.0, 101.0, 105.0, 109.0)]
    assert got == pytest.approx([1000 * part / (1 + part) for part in (0.01, 0.1, 0.5, 0.9)], abs=1.5)
    assert group.count(110.0, 10) == {"a": 5, "b": 5}


def test_weights_hold_beside_it() -> None:
    group = Group(peer("a", 2, 0.0), peer("b", 4, 20.0), peer("c", 1, 0.0))
    group.come_back(1, 100.0)
    assert group.count(110.0, 500) == {"a": 200, "b": 200, "c": 100}
    assert group.count(130.0, 700) == {"a": 200, "b": 400, "c": 100}


def test_nobody_is_held_back_where_all_begin() -> None:
    group = Group(peer("a"), peer("b", 2))
    for row in (0, 1):
        group.turn(row, 0, 90.0)
    for row in (0, 1):
        group.turn(row, 1, 100.0)
    assert group.count(100.0, 30) == {"a": 10, "b": 20}
    assert group.count(105.0, 30) == {"a": 10, "b": 20}


def test_nor_where_it_is_alone() -> None:
    group = Group(peer("a"), peer("b"))
    group.turn(0, 0, 99.0)
    group.come_back(1, 100.0)
    assert group.count(100.0, 5) == {"b": 5}
    single = Group(peer("a"))
    single.come_back(0, 100.0)
    assert single.count(100.0, 5) == {"a": 5}


def test_nothing_happens_at_a_start() -> None:
    assert Group(peer("a"), peer("b")).count(1.0, 10) == {"a": 5, "b": 5}


def test_only_peers_that_are_told_to_begin_slowly() -> None:
    group = Group(peer("a", slow_start=0.0), peer("b"))
    group.come_back(0, 100.0)
    assert group.count(100.0, 10) == {"a": 5, "b": 5}


def test_an_upstream_without_it_is_balanced_as_ever() -> None:
    plain = Group(peer("a", slow_start=0.0), peer("b", slow_start=0.0)).worker
    assert type(plain._primary_balancer) is RoundRobin
    assert type(Group(peer("a"), peer("b")).worker._primary_balancer) is SlowStart


def test_the_sequence_of_nginx_goes_on_where_it_was() -> None:
    group = Group(peer("a", 5), peer("b", 1), peer("c", 1))
    twin = Group(peer("a", 5, 0.0), peer("b", 1, 0.0), peer("c", 1, 0.0))

    def names(one: Group, picks: int, now: float) -> str:
        return "".join(next(iter(one.count(now, 1))) for _ in range(picks))

    assert names(group, 9, 50.0) == names(twin, 9, 50.0)
    group.come_back(2, 100.0)
    names(group, 50, 101.0)
    assert names(group, 21, 111.0) == names(twin, 21, 111.0)


def test_a_good_trial_after_a_fail_timeout_is_a_beginning() -> None:
    group = Group(peer("a"), peer("b"))
    a, b = group.worker.peers
    a.connections += 1
    assert group.worker.release(a, 100.0, failed=True)
    assert group.count(101.0, 10) == {"b": 10}
    got = group.count(111.0, 1000)  # one trial, then slowly
    assert got["a"] == pytest.approx(1000 * 0.01 / 1.01, abs=2.5)
    assert a.started == 111.0
    assert b.started == 0.0
    assert group.count(121.0, 10) == {"a": 5, "b": 5}


def test_a_failure_that_suspends_nobody_is_no_beginning() -> None:
    group = Group(peer("a", max_fails=3), peer("b"))
    a = group.worker.peers[0]
    a.connections += 1
    group.worker.release(a, 100.0, failed=True)
    group.count(111.0, 10)
    assert (a.fails, a.started) == (0, 0.0)


def test_the_end_of_a_suspension_by_a_check_is_a_beginning_where_it_was_suspended() -> None:
    group = Group(peer("a"), peer("b"))
    a, b = group.worker.peers
    a.connections += 1
    group.worker.release(a, 100.0, failed=True)
    group.table.clear(a.row, 102_000)
    group.table.clear(b.row, 102_000)
    group.table.publish()
    assert group.count(107.0, 300) == {"a": 100, "b": 200}
    assert (a.started, b.started) == (102.0, 0.0)


def test_it_is_noticed_also_by_a_worker_that_slept() -> None:
    group = Group(peer("a"), peer("b"))
    group.count(50.0, 3)
    group.come_back(1, 100.0)  # down and up again without a request between
    assert group.count(105.0, 300) == {"a": 200, "b": 100}


def test_a_new_worker_goes_on_with_it() -> None:
    group = Group(peer("a"), peer("b"))
    group.come_back(1, 100.0)
    group.worker = Upstream(group.spec, group.table)
    assert group.count(105.0, 300) == {"a": 200, "b": 100}


def reloaded(old: Group, *peers: PeerSpec, name: str = "u") -> Group:
    new = Group(*peers)
    new.spec = UpstreamSpec(name, peers)
    new.table = PeerTable.create(peer_keys(new.spec), 1)
    new.table.adopt(old.table, 100_000)
    new.worker = Upstream(new.spec, new.table)
    return new


def test_a_reload_that_adds_a_peer_is_its_beginning() -> None:
    old = Group(peer("a"))
    old.come_back(0, 99.0)
    new = reloaded(old, peer("a"), peer("b"))
    a, b = new.worker.peers
    assert (a.started, b.started) == (99.0, 100.0)
    assert new.count(110.0, 10) == {"a": 5, "b": 5}
    assert reloaded(Group(peer("a")), peer("a"), peer("b")).count(105.0, 300) == {"a": 200, "b": 100}


def test_a_reload_that_adds_an_upstream_is_no_beginning_of_its_peers() -> None:
    new = reloaded(Group(peer("a")), peer("a"), peer("b"), name="v")
    assert [one.started for one in new.worker.peers] == [0.0, 0.0]


def test_backups_begin_slowly_too() -> None:
    group = Group(peer("a"), peer("X", backup=True), peer("Y", backup=True))
    group.turn(0, 0, 90.0)
    group.come_back(1, 100.0)
    assert group.count(105.0, 300) == {"X": 100, "Y": 200}


def test_the_tried_and_the_full_and_the_suspended_are_passed_over() -> None:
    balancer = SlowStart(Method(), Random(1).random)
    group = [Peer(PeerSpec(f"p{n}", ("127.0.0.1", n + 1), max_conns=2, slow_start=1000.0), n, n) for n in range(4)]
    for one in group:
        one.started = 1.0
    balancer.rebuild(group, group)
    group[1].connections = 2
    group[2].fails = 1
    group[2].checked = 1.0
    for _ in range(8):
        assert balancer.pick(None, [group[0]], 5.0) is group[3]
    assert balancer.pick(None, [group[0], group[3]], 5.0) is None
    assert balancer.pick(None, [group[0], group[3]], 12.0) is group[2]
    assert group[2].checked == 12.0
    balancer.rebuild((), ())
    assert balancer.pick(None, (), 13.0) is None


def test_the_weight_that_failures_took_grows_back_meanwhile() -> None:
    group = Group(peer("a", 4, max_fails=0), peer("b", 4))
    group.come_back(1, 100.0)
    b = group.worker.peers[1]
    b.effective_weight = 2
    group.count(105.0, 2)
    assert b.effective_weight == 4


def _specs(folder: Path, server: str) -> tuple[UpstreamSpec, ...]:
    (folder / "nginx.conf").write_text(f"events {{}}\nhttp {{ upstream a {{ server 127.0.0.1:81 {server}; }} }}\n")
    config = load("nginx.conf", str(folder))
    [http] = config.main.of("http")
    return http[UpstreamsSettings].specs


def test_the_parameter(tmp_path: Path) -> None:
    for text, seconds in (("slow_start=30s", 30.0), ("slow_start=1m", 60.0), ("slow_start=2", 2.0), ("", 0.0)):
        [spec] = _specs(tmp_path, text)
        assert [one.slow_start for one in spec.peers] == [seconds]
    for text in ("slow_start=", "slow_start=soon", "slow_start=-1s", "slow_start"):
        with pytest.raises(ConfigErrors, match=f'invalid parameter "{text}"'):
            _specs(tmp_path, text)
