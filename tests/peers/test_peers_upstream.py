"""Upstream: nginx's sequence, backups, the single peer, max_conns, what the zone says and what the operator says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from upwell.log import WARN, ErrorLog
from upwell.peers.peer import PeerKey, PeerSpec, UpstreamSpec, peer_keys
from upwell.peers.upstream import Peer, Upstream
from upwell.zone.layout import ADMIN_DOWN, ADMIN_UP
from upwell.zone.table import PeerTable


def peer(
    name: str,
    weight: int = 1,
    max_fails: int = 1,
    fail_timeout: float = 10.0,
    max_conns: int = 0,
    backup: bool = False,
    down: bool = False,
) -> PeerSpec:
    return PeerSpec(name, (name, 80), "", weight, max_fails, fail_timeout, max_conns, backup, down)


def build(*peers: PeerSpec, workers: int = 1, log: ErrorLog | None = None) -> tuple[Upstream, PeerTable]:
    spec = UpstreamSpec("u", peers)
    table = PeerTable.create(peer_keys(spec), workers)
    return Upstream(spec, table, 0, log), table


def names(upstream: Upstream, picks: int, now: float = 100.0) -> str:
    """The names of `picks` requests that go well, one after the other."""
    seen = []
    for _ in range(picks):
        chosen = upstream.pick((), now)
        assert chosen is not None
        seen.append(chosen.name)
        upstream.release(chosen, now, failed=False)
    return "".join(seen)


def test_the_sequence_is_nginx_s_smooth_one() -> None:
    upstream, _ = build(peer("a", 5), peer("b", 1), peer("c", 1))
    assert names(upstream, 14) == "aabacaaaabacaa"
    upstream, _ = build(peer("a"), peer("b"))
    assert names(upstream, 6) == "ababab"


def test_reading_the_peers_does_not_disturb_the_sequence() -> None:
    upstream, _ = build(peer("a", 5), peer("b", 1))
    seen = ""
    weights = []
    for _ in range(20):
        seen += names(upstream, 1)
        weights.append(tuple(p.current_weight for p in upstream.primary))
    assert seen == "aaabaa" * 3 + "aa"
    assert weights[:6] == [(-1, 1), (-2, 2), (-3, 3), (2, -2), (1, -1), (0, 0)]
    assert weights[6:12] == weights[:6]


def test_weights_are_true_in_the_middle_of_a_remembered_round() -> None:
    upstream, _ = build(peer("a", 5), peer("b", 1), peer("c", 1))
    names(upstream, 7 + 7 + 3)
    assert [p.current_weight for p in upstream.primary] == [1, -4, 3]


def test_a_failed_peer_rests_for_its_fail_timeout_and_comes_back_slowly() -> None:
    upstream, _ = build(peer("a", 2, max_fails=1), peer("b", 2))
    a, b = upstream.peers
    first = upstream.pick((), 100.0)
    assert first is a
    assert upstream.release(a, 100.0, failed=True) is True
    assert (a.fails, a.effective_weight, a.accessed, a.checked) == (1, 0, 100.0, 100.0)
    assert upstream.pick([a], 100.0) is b
    upstream.release(b, 100.0, failed=False)
    assert names(upstream, 3, now=110.0) == "bbb"
    # After the window it is tried again once its weight has grown back; a good trial makes it a full member.
    assert names(upstream, 6, now=110.5) == "bbbaba"
    assert a.fails == 0
    assert sorted(names(upstream, 8, now=111.0)) == list("aaaabbbb")


def test_a_failed_trial_starts_another_rest() -> None:
    upstream, _ = build(peer("a"), peer("b"))
    a, b = upstream.peers
    chosen = upstream.pick((), 100.0)
    assert chosen is a
    upstream.release(a, 100.0, failed=True)
    tried_again = [upstream.pick((), 111.0) for _ in range(3)]
    assert a in tried_again
    for each in tried_again:
        assert each is not None
        upstream.release(each, 111.0, failed=each is a)
    assert a.fails >= 2
    assert names(upstream, 3, now=120.0) == "bbb"
    assert b.fails == 0


def test_fewer_failures_than_max_fails_change_the_weight_only() -> None:
    upstream, _ = build(peer("a", 6, max_fails=3), peer("b", 6))
    a = upstream.peers[0]
    upstream.pick((), 1.0)
    assert upstream.release(a, 1.0, failed=True) is False
    assert (a.fails, a.effective_weight) == (1, 4)
    upstream.pick((), 1.0)
    assert a.effective_weight == 5


def test_max_fails_0_never_suspends() -> None:
    upstream, _ = build(peer("a", max_fails=0), peer("b", max_fails=0))
    a = upstream.peers[0]
    for _ in range(5):
        a.connections += 1
        assert upstream.release(a, 1.0, failed=True) is False
    assert sorted(names(upstream, 4, now=1.0)) == list("aabb")


def test_backups_serve_only_while_no_primary_can() -> None:
    upstream, _ = build(peer("a"), peer("b"), peer("x", backup=True))
    a, b, x = upstream.peers
    assert "x" not in names(upstream, 6)
    assert upstream.pick([a, b], 100.0) is x
    assert upstream.pick([a, b, x], 100.0) is None
    for each in (a, b):
        each.connections += 1
        upstream.release(each, 100.0, failed=True)
    assert names(upstream, 2, now=100.0) == "xx"
    assert (upstream.tries, [p.id for p in upstream.primary], [p.id for p in upstream.backup]) == (3, [0, 1], [0])


def test_a_single_peer_is_never_marked_failed() -> None:
    upstream, _ = build(peer("a"))
    for _ in range(3):
        chosen = upstream.pick((), 1.0)
        assert chosen is not None
        assert upstream.release(chosen, 1.0, failed=True) is False
        assert (chosen.fails, chosen.effective_weight, chosen.connections) == (0, 1, 0)
    assert upstream.single


def test_with_a_backup_the_only_primary_is_not_single() -> None:
    upstream, _ = build(peer("a"), peer("x", backup=True))
    chosen = upstream.pick((), 1.0)
    assert chosen is not None
    upstream.release(chosen, 1.0, failed=True)
    assert names(upstream, 2, now=2.0) == "xx"


def test_max_conns_is_a_limit_of_connections_in_use() -> None:
    upstream, _ = build(peer("a", max_conns=1), peer("b", max_conns=2))
    taken = [upstream.pick((), 1.0) for _ in range(3)]
    assert sorted(p.name for p in taken if p) == ["a", "b", "b"]
    assert upstream.pick((), 1.0) is None
    assert taken[0] is not None
    upstream.release(taken[0], 1.0, failed=False)
    assert upstream.pick((), 1.0) is taken[0]
    single, _ = build(peer("a", max_conns=1))
    assert single.pick((), 1.0) is not None
    assert single.pick((), 1.0) is None


def test_configured_down_gets_nothing() -> None:
    upstream, _ = build(peer("a", down=True), peer("b"))
    assert names(upstream, 3) == "bbb"
    assert upstream.primary[0].down
    assert upstream.tries == 1
    dead, _ = build(peer("a", down=True))
    assert dead.pick((), 1.0) is None


def test_the_zone_is_read_again_when_its_generation_changes() -> None:
    upstream, table = build(peer("a"), peer("b"))
    slot = table.add_check(0, 9, rise=1, health=0)
    table.summarise(0, 1)
    assert names(upstream, 2) == "ab"
    table.publish()
    assert names(upstream, 2) == "bb"
    assert [p.down for p in upstream.primary] == [True, False]
    table.words[table.layout.check(0, slot) + 2] = 1
    table.summarise(0, 2)
    table.publish()
    assert sorted(names(upstream, 2)) == ["a", "b"]


def test_whom_checks_find_well_again_is_not_on_trial() -> None:
    """The other one fails while the first request is under way: the second has somewhere to go."""
    upstream, table = build(peer("a"), peer("b"))
    a, b = upstream.peers
    slot = table.add_check(0, 9, rise=1, health=1)
    assert upstream.pick((), 100.0) is a
    assert upstream.release(a, 100.0, failed=True)
    for health in (0, 1):
        assert upstream.pick((), 101.0) is b
        upstream.release(b, 101.0, failed=False)
        table.set_check(table.layout.check(0, slot), health, 1, 200, 1, health == 1)
        table.summarise(0, 1)
        table.publish()
    chosen = upstream.pick((a,), 120.0)
    assert chosen is b
    assert upstream.release(b, 120.0, failed=True)
    assert upstream.pick((b,), 120.0) is a
    assert upstream.pick((), 120.0) is a


def test_who_was_never_down_is_on_trial_after_its_time_out() -> None:
    upstream, _ = build(peer("a"), peer("b"))
    a, b = upstream.peers
    for each in (a, b):
        assert upstream.pick((), 100.0) is each
        upstream.release(each, 100.0, failed=True)
    assert upstream.pick((), 111.0) is not None
    assert upstream.pick((), 111.0) is not None
    assert upstream.pick((), 111.0) is None


def test_all_down_is_none_and_one_up_again_serves() -> None:
    upstream, table = build(peer("a"), peer("b"))
    for row in (0, 1):
        table.set_admin(row, ADMIN_DOWN)
    table.publish()
    assert upstream.pick((), 1.0) is None
    table.set_admin(1, ADMIN_UP)
    table.publish()
    assert names(upstream, 2) == "bb"


def test_a_worker_sees_its_own_word_until_the_zone_moves_on() -> None:
    upstream, table = build(peer("a"), peer("b"), peer("x", backup=True))
    upstream.set_local_down(False, 0, True)
    assert upstream.primary[0].down
    assert names(upstream, 2) == "bb"
    # Something else changes: the overlay stays.
    table.set_admin(table.row(peer_keys(upstream.spec)[2]), ADMIN_DOWN)
    table.publish()
    assert upstream.primary[0].down
    # The checker has taken it, and then somebody else's contrary word: the overlay must be gone.
    table.set_admin(0, ADMIN_DOWN)
    table.set_admin(0, ADMIN_UP)
    table.publish()
    assert [p.down for p in upstream.primary] == [False, False]
    for number in (-1, 1):
        with pytest.raises(IndexError):
            upstream.set_local_down(True, number, True)


def test_an_operator_s_up_lifts_a_configured_down() -> None:
    upstream, _ = build(peer("a", down=True), peer("b"))
    upstream.set_local_down(False, 0, False)
    assert sorted(names(upstream, 2)) == ["a", "b"]


def test_reaching_max_fails_is_warned_of(tmp_path: Path) -> None:
    log = ErrorLog(str(tmp_path / "error.log"), WARN)
    log.open()
    upstream, _ = build(peer("a", max_fails=2), peer("b"), log=log)
    a = upstream.peers[0]
    a.connections += 2
    upstream.release(a, 1.0, failed=True)
    assert (tmp_path / "error.log").read_text() == ""
    upstream.release(a, 1.0, failed=True)
    line = (tmp_path / "error.log").read_text()
    assert "[warn]" in line
    assert line.endswith(" upstream server temporarily disabled\n")
    os.close(log.fd)


def test_counters_reach_the_zone_and_survive_the_worker() -> None:
    upstream, table = build(peer("a"), peer("b"))
    a = upstream.peers[0]
    chosen = upstream.pick((), 1.0)
    assert chosen is a
    a.responses[1] += 1
    a.sent += 10
    a.received += 20
    upstream.publish()
    counts = table.counts(0)
    assert (counts.connections, counts.requests, counts.responses, counts.sent, counts.received) == (
        1,
        1,
        (0, 1, 0, 0, 0),
        10,
        20,
    )
    successor = Upstream(upstream.spec, table, 0)
    assert (successor.peers[0].requests, successor.peers[0].connections) == (1, 0)
    other = Upstream(upstream.spec, table, 1)
    assert other.peers[0].requests == 0
    with pytest.raises(IndexError):
        other.publish()


def test_an_upstream_must_be_in_the_zone() -> None:
    _, table = build(peer("a"))
    with pytest.raises(KeyError):
        Upstream(UpstreamSpec("u", (peer("stranger"),)), table)


def test_peers_of_one_address_are_two() -> None:
    upstream, _ = build(peer("a"), peer("a"))
    one, two = upstream.peers
    assert one is not two
    assert one.row != two.row
    picked: list[Peer | None] = [upstream.pick((), 1.0), upstream.pick((), 1.0)]
    assert set(picked) == {one, two}


def add_checks(upstream: Upstream, table: PeerTable, health: int = 1, identity: int = 7) -> None:
    """Give each peer a check with rise 1 and fall 1."""
    for each in upstream.peers:
        table.add_check(each.row, identity, 1, health)
        table.summarise(each.row, 1)
    table.publish()


def test_a_peer_that_is_out_of_use_is_told_to_its_checker() -> None:
    told: list[PeerKey] = []
    spec = UpstreamSpec("u", (peer("a", max_fails=2), peer("b"), peer("x", backup=True)))
    table = PeerTable.create(peer_keys(spec), 1)
    upstream = Upstream(spec, table, suspect=told.append)
    a, _, x = upstream.peers

    def fail(which: Peer) -> None:
        which.connections += 1
        upstream.release(which, 100.0, failed=True)

    fail(a)
    fail(a)
    assert told == []  # nobody checks it
    add_checks(upstream, table)
    upstream.refresh()
    fail(a)
    assert told == [a.key]
    fail(x)
    assert told[1:] == [x.key]
    a.fails = 0
    fail(a)
    assert len(told) == 2  # one failure of two


def test_what_requests_held_against_a_peer_ends_with_an_active_pass() -> None:
    upstream, table = build(peer("a", 4), peer("b", 4))
    add_checks(upstream, table)
    a, b = upstream.peers
    for each in (a, b):
        each.connections += 1
        upstream.release(each, 100.0, failed=True)
    assert upstream.pick((), 100.0) is None
    table.clear(a.row, 1000)
    assert upstream.pick((), 100.0) is None
    table.publish()
    assert names(upstream, 3, 100.0) == "aaa"
    assert (a.fails, a.effective_weight, b.fails) == (0, 4, 1)
    # It is ended once, not for all time.
    a.connections += 1
    upstream.release(a, 101.0, failed=True)
    table.publish()
    assert upstream.pick((), 101.0) is None


def test_the_zone_knows_until_when_requests_keep_a_peer_out_of_use() -> None:
    upstream, table = build(peer("a", max_fails=2), peer("b"))
    add_checks(upstream, table)
    a = upstream.peers[0]
    upstream.refresh()
    for until in ((), (110_000,)):
        a.connections += 1
        upstream.release(a, 100.0, failed=True)
        assert table.counts(a.row).suspended == table.counts(a.row, 0).suspended == until
    upstream.publish()
    assert table.counts(a.row).suspended == (110_000,)
    table.clear(a.row, 101_000)
    table.publish()
    upstream.refresh()
    assert table.counts(a.row).suspended == ()
    for _ in range(2):
        a.connections += 1
        upstream.release(a, 120.0, failed=True)
    # Neither a worker that takes the number of one that died, nor a reload, has it from there.
    assert table.counts(a.row).suspended == (130_000,)
    successor = PeerTable.create(peer_keys(upstream.spec), 1)
    successor.adopt(table)
    assert successor.counts(a.row).suspended == ()
    Upstream(upstream.spec, table)
    assert table.counts(a.row).suspended == ()


def test_an_active_pass_does_not_end_a_suspension_that_follows_on_one_that_it_ended() -> None:
    upstream, table = build(peer("a"), peer("b"))
    add_checks(upstream, table)
    a = upstream.peers[0]

    def fail(now: float) -> None:
        a.connections += 1
        upstream.release(a, now, failed=True)

    def passes(now: float) -> bool:
        """An active pass: whether the peer is in use after it."""
        table.clear(a.row, int(now * 1000))
        table.publish()
        upstream.refresh()
        return a.fails == 0

    upstream.refresh()
    fail(100.0)
    assert passes(101.0)
    fail(102.0)
    assert not passes(103.0)
    assert not passes(104.0)
    assert names(upstream, 2, 112.0) == "bb"
    assert "a" in names(upstream, 2, 112.5)  # its time is over
    fail(120.0)
    assert passes(121.0)  # the one before was ended by time, not by a pass
    fail(131.5)
    assert passes(132.0)  # requests went well for as long as its fail_timeout


def test_a_new_worker_takes_over_no_old_word() -> None:
    upstream, table = build(peer("a"), peer("b"))
    table.clear(upstream.peers[0].row, 1000)
    table.publish()
    successor = Upstream(upstream.spec, table)
    a = successor.peers[0]
    a.connections += 1
    successor.release(a, 100.0, failed=True)
    table.publish()
    successor.refresh()
    assert a.fails == 1


def _three() -> tuple[list[Upstream], PeerTable]:
    spec = UpstreamSpec("u", (peer("a"), peer("b")))
    table = PeerTable.create(peer_keys(spec), 3)
    return [Upstream(spec, table, worker) for worker in range(3)], table


def _fails(upstream: Upstream, table: PeerTable, now: float) -> None:
    a = upstream.peers[0]
    a.connections += 1
    upstream.release(a, now, failed=True)
    table.touch(a.row)
    table.publish()


def test_a_worker_that_hears_of_a_suspension_after_its_end_lets_it_be_over() -> None:
    workers, table = _three()
    _fails(workers[0], table, 100.0)
    table.clear(0, 101_000)
    table.publish()
    # The one that found it has not looked since, as it had no request.
    assert "a" in names(workers[1], 2, 101.5)
    assert "a" in names(workers[0], 2, 101.5)
    # A new one is another matter.
    _fails(workers[0], table, 102.0)
    assert names(workers[1], 2, 102.0) == "bb"


def test_what_another_worker_found_ends_by_a_pass_however_its_times_are_rounded() -> None:
    workers, table = _three()
    _fails(workers[0], table, 1014.0135)  # 1024.013 - 10 + 10 is less than it
    assert names(workers[1], 2, 1014.0135) == "bb"
    table.clear(0, 1_014_013)  # within the same millisecond, and the first worker has not looked yet
    table.publish()
    assert "a" in names(workers[1], 2, 1014.5)


def test_a_pass_ends_a_relapse_in_no_worker() -> None:
    workers, table = _three()
    for now in (100.0, 102.0):
        _fails(workers[0], table, now)
        assert names(workers[1], 2, now) == "bb"
        table.clear(0, int(now * 1000) + 1000)
        table.publish()
        expected = 1 if now < 102.0 else 0
        assert [names(worker, 2, now + 1.0).count("a") for worker in workers[:2]] == [expected, expected]


def test_what_one_worker_found_at_fault_all_leave_alone() -> None:
    spec = UpstreamSpec("u", (peer("a", max_fails=2), peer("b"), peer("x", backup=True)))
    table = PeerTable.create(peer_keys(spec), 3)

    def suspect(key: PeerKey) -> None:
        table.touch(table.row(key))
        table.publish()

    workers = [Upstream(spec, table, worker, suspect=suspect) for worker in range(3)]
    a = workers[0].peers[0]
    for now in (100.0, 101.0):
        a.connections += 1
        workers[0].release(a, now, failed=True)
        expected = "abab" if now < 101.0 else "bbbb"
        assert names(workers[1], 4, now) == expected
    assert len(table.counts(a.row).suspended) == 2  # the third has not looked yet
    assert names(workers[2], 3, 111.0) == "bbb"
    # A trial when the time is over, in each; what went well once is forgotten.
    for worker in workers:
        assert "a" in names(worker, 2, 111.5)
        assert names(worker, 4, 111.6).count("a") == 2
    # What is long over does not come back with the next change of another peer.
    suspect(workers[0].peers[1].key)
    assert names(workers[1], 4, 112.0).count("a") == 2
    # A pass of the checks ends it everywhere.
    a.connections += 1
    workers[0].release(a, 200.0, failed=True)
    a.connections += 1
    workers[0].release(a, 200.0, failed=True)
    assert names(workers[1], 2, 200.0) == "bb"
    table.clear(a.row, 200_001)
    table.publish()
    for worker in workers:
        assert names(worker, 4, 200.1).count("a") == 2
