"""Peers that join, leave and change at run time: whoever reads the zone has them, and nobody else notices."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upwell.peers.membership import Membership, NoRoom, Refused, carry
from upwell.peers.peer import Method, PeerKey, PeerSpec, UpstreamSpec, peer_keys
from upwell.peers.roster import Member, Roster
from upwell.peers.upstream import Peer, Upstream, forget_others, publish_all
from upwell.zone.layout import ADMIN_DOWN, ADMIN_UP, PEER_ADMIN, RING_WORDS
from upwell.zone.table import PeerTable


def peer(name: str, **settings: object) -> PeerSpec:
    return PeerSpec(name, (name, 80), **settings)  # type: ignore[arg-type]  # tests say them as they are


class Group:
    """An upstream's list, and workers that read it."""

    def __init__(self, *peers: PeerSpec, workers: int = 2, spare: int = 8) -> None:
        self.spec = UpstreamSpec("u", peers)
        other = UpstreamSpec("v", (peer("z"),))
        self.table = PeerTable.create([*peer_keys(self.spec), *peer_keys(other)], workers, spare)
        self.membership = Membership(self.table, (self.spec, other))
        self.workers = [Upstream(self.spec, self.table, worker) for worker in range(workers)]

    def join(self, spec: PeerSpec) -> Member:
        row = self.membership.row_for("u")
        member = self.membership.join(self.membership.key_for("u", spec), spec, row)
        self.table.publish()
        return member

    def leave(self, key: PeerKey) -> None:
        self.membership.leave(key)
        self.table.publish()

    def publish(self, worker: int) -> None:
        publish_all(self.table, worker, (self.workers[worker],))

    def names(self, worker: int = 0) -> str:
        self.workers[worker].primary  # noqa: B018  # brought up to date by being read
        return "".join(peer.name for peer in self.workers[worker].peers)

    def picks(self, count: int, worker: int = 0) -> str:
        found = ""
        for _ in range(count):
            peer = self.workers[worker].pick((), 1.0)
            assert peer is not None
            self.workers[worker].release(peer, 1.0, failed=False)
            found += peer.name
        return found


def test_one_that_joins_gets_requests_in_every_worker() -> None:
    group = Group(peer("a"), peer("b"))
    kept = group.workers[0].peers
    group.join(peer("c", weight=2))
    for worker in (0, 1):
        assert sorted(group.picks(8, worker)) == sorted("abcc" * 2)
    assert group.workers[0].peers[:2] == kept
    assert [one.id for one in group.workers[0].primary] == [0, 1, 2]
    assert group.workers[0].tries == 3


def test_one_that_leaves_gets_none_and_ends_what_it_has() -> None:
    group = Group(peer("a"), peer("b"), peer("c"))
    told: list[Peer] = []
    worker = group.workers[0]
    worker.on_leave = told.append
    b = worker.peers[1]
    b.connections += 1
    group.leave(b.key)
    assert "b" not in group.picks(9)
    assert told == [b]
    assert b.gone
    assert [one.id for one in worker.peers] == [0, 1]
    worker.publish()
    assert group.table.counts(b.row, 0).connections == 1
    assert worker.release(b, 1.0, failed=True) in (True, False)
    worker.publish()
    assert group.table.counts(b.row, 0).requests == 0
    assert not group.table.holds(b.row, 0)


def test_a_row_is_given_again_when_no_worker_counts_there_any_more() -> None:
    group = Group(peer("a"), spare=1)
    first = group.join(peer("b"))
    group.picks(2, 0)
    group.picks(2, 1)
    with pytest.raises(Refused, match="no room for one more peer"):
        group.join(peer("c"))
    group.leave(first.key)
    with pytest.raises(Refused, match="no room"):
        group.join(peer("c"))
    group.publish(0)
    with pytest.raises(Refused, match="no room"):
        group.join(peer("c"))
    group.publish(1)
    second = group.join(peer("c"))
    assert second.row == first.row
    assert group.picks(4) == "acac"
    assert group.table.counts(second.row).requests == 0


def test_a_worker_that_died_holds_no_row_once_its_successor_begins() -> None:
    group = Group(peer("a"), spare=1, workers=1)
    member = group.join(peer("b"))
    group.picks(2)
    group.leave(member.key)
    assert group.table.holds(member.row, 0)
    successor = Upstream(group.spec, group.table, 0)
    forget_others(group.table, 0, [successor])
    assert not group.table.holds(member.row, 0)
    assert group.table.holds(0, 0)
    publish_all(group.table, 0, (successor,))
    assert group.join(peer("c")).row == member.row


def test_a_row_is_not_given_again_while_a_worker_may_not_have_heard_that_its_peer_left() -> None:
    """It may be reading just now who has the row, and say only afterwards that it counts there."""
    group = Group(peer("a"), spare=1, workers=1)
    first = group.join(peer("b"))
    group.leave(first.key)
    assert not group.table.holds(first.row, 0)
    with pytest.raises(Refused, match="no room"):
        group.join(peer("c"))
    group.publish(0)
    assert group.join(peer("c")).row == first.row


def test_a_changed_peer_stays_the_same_object() -> None:
    group = Group(peer("a"), peer("b"))
    a, b = group.workers[0].peers
    a.connections = 3
    group.membership.change(a.key, weight=3, max_conns=9)
    group.table.publish()
    assert sorted(group.picks(8)) == sorted("aaab" * 2)
    assert group.workers[0].peers == (a, b)
    assert (a.connections, a.max_conns, a.spec.weight) == (3, 9, 3)
    group.membership.change(a.key, down=True)
    group.table.publish()
    assert group.picks(3) == "bbb"
    assert group.workers[0].tries == 1


@pytest.mark.parametrize("method", [Method(), Method("least_conn"), Method("least_time", measure="header")], ids=str)
@pytest.mark.parametrize("slow", [False, True])
def test_what_was_owed_by_weights_that_are_gone_starves_nobody(method: Method, slow: bool) -> None:
    spec = UpstreamSpec("u", (peer("a", weight=6000), peer("b", weight=6000), peer("c"), peer("d")), method)
    table = PeerTable.create(peer_keys(spec), 1, 4)
    membership = Membership(table, (spec,))
    worker = Upstream(spec, table)

    def picks(count: int) -> str:
        found = ""
        for _ in range(count):
            chosen = worker.pick((), 100.0)
            assert chosen is not None
            worker.release(chosen, 100.0, failed=False)
            found += chosen.name
        return found

    if slow:
        row = membership.row_for("u")
        slowly = peer("e", slow_start=60.0)
        membership.join(membership.key_for("u", slowly), slowly, row)
        table.start(row, 100_000)
    table.publish()
    picks(5001)
    for one in worker.peers:
        if one.name in "ab":
            membership.change(one.key, weight=1)
        elif one.name == "e":
            membership.leave(one.key)
    table.publish()
    assert Counter(picks(40)) == pytest.approx(dict.fromkeys("abcd", 10), abs=3)
    membership.change(worker.peers[0].key, weight=6000)
    table.publish()
    picks(3000)
    membership.leave(worker.peers[0].key)
    table.publish()
    assert Counter(picks(30)) == pytest.approx(dict.fromkeys("bcd", 10), abs=3)


def test_a_peer_with_a_slow_start_does_not_turn_back_the_sequence_of_the_others() -> None:
    group = Group(peer("a", weight=5), peer("b"), peer("c"))
    begun = group.picks(3)
    slowly = group.join(peer("d", slow_start=60.0))
    group.workers[0].primary  # noqa: B018  # brought up to date by being read
    group.leave(slowly.key)
    assert begun + group.picks(4) == "aabacaa"


def test_who_begins_later_reads_the_same() -> None:
    group = Group(peer("a"), peer("b"), peer("x", backup=True))
    group.join(peer("c"))
    group.leave(group.workers[0].peers[0].key)
    group.join(peer("y", backup=True))
    group.membership.change(PeerKey("u", "primary", "b", 0), weight=5)
    late = Upstream(group.spec, PeerTable.create(peer_keys(group.spec), 1), 0)
    assert [one.name for one in late.peers] == ["a", "b", "x"]  # another zone
    late = Upstream(group.spec, group.table, 1)
    assert [(one.name, one.weight) for one in late.peers] == [("b", 5), ("x", 1), ("c", 1), ("y", 1)]
    assert [one.name for one in late.backup] == ["x", "y"]
    again = Membership(group.table, (group.spec,))
    assert [member.spec.name for member in again.members("u")] == ["b", "x", "c", "y"]
    group.table.publish()
    assert group.names() == "bxcy"
    # Its numbers go on where the last one's ended.
    spec = peer("c")
    assert again.key_for("u", spec) == PeerKey("u", "primary", "c", 1)
    assert again.join(again.key_for("u", spec), spec, again.row_for("u")).joined == 3


def test_what_cannot_be_is_refused_and_changes_nothing() -> None:
    group = Group(peer("a"))
    stranger = PeerKey("u", "primary", "q", 0)
    for call in (
        lambda: group.membership.leave(stranger),
        lambda: group.membership.change(stranger, weight=2),
        lambda: group.membership.find(stranger._replace(upstream="w")),
        lambda: group.membership.row_for("w"),
        lambda: group.membership.change(group.workers[0].peers[0].key, address=("b", 1)),
        lambda: group.membership.change(group.workers[0].peers[0].key, colour="red"),
        lambda: group.join(peer("a" * 2000)),
    ):
        with pytest.raises(Refused):
            call()
    assert group.names() == "a"
    assert [member.spec.name for member in Membership(group.table, (group.spec,)).members("u")] == ["a"]


def test_equal_peers_are_told_apart() -> None:
    group = Group(peer("a"))
    one, two = group.join(peer("a")), group.join(peer("a"))
    assert [one.key.ordinal, two.key.ordinal] == [1, 2]
    group.leave(one.key)
    assert group.join(peer("a")).key.ordinal == 1
    assert group.names() == "aaa"


def test_more_changes_than_the_ring_holds_are_all_seen() -> None:
    group = Group(peer("a"), peer("b"))
    a = group.workers[0].peers[0]
    member = group.join(peer("c"))
    for _ in range(RING_WORDS):
        group.table.touch(1)
    group.table.set_admin(0, 1)
    group.table.publish()
    assert group.picks(4) == "bcbc"
    assert not a.up
    for _ in range(RING_WORDS + 1):
        group.table.touch(1)
    group.leave(member.key)
    assert group.picks(2) == "bb"


def test_health_and_streaks_of_the_others_stay() -> None:
    group = Group(peer("a", max_fails=3), peer("b"))
    a = group.workers[0].peers[0]
    a.connections += 1
    group.workers[0].release(a, 1.0, failed=True)
    group.join(peer("c"))
    group.picks(3)
    assert group.workers[0].peers[0] is a
    assert a.fails == 1
    assert a.accessed == 1.0


def test_a_line_s_peers_stay_over_a_reload() -> None:
    line = PeerSpec("", "", server="name:80", weight=2)
    group = Group(peer("a"))
    one = group.join(replace(line, name="1:80", address=("1", 80)))
    group.join(peer("by hand"))
    group.table.set_admin(one.row, 1)
    spec = UpstreamSpec("u", (peer("b"),), lines=(replace(line, weight=7),))
    table = PeerTable.create(peer_keys(spec), 1, 4)
    carry(table, (spec,), group.table, (group.spec,))
    table.adopt(group.table)
    members = Roster(spec, table).members
    assert [(member.spec.name, member.spec.weight) for member in members] == [("b", 1), ("1:80", 7)]
    assert table.admin(members[1].row) & 3 == 1
    assert [one.name for one in Upstream(spec, table).peers if one.up] == ["b"]
    # And over the next one, from there.
    third = PeerTable.create(peer_keys(spec), 1, 4)
    carry(third, (spec,), table, (spec,))
    assert [member.spec.name for member in Roster(spec, third).members] == ["b", "1:80"]
    gone = replace(spec, lines=())
    fourth = PeerTable.create(peer_keys(spec), 1, 4)
    carry(fourth, (gone,), table, (spec,))
    assert [member.spec.name for member in Roster(gone, fourth).members] == ["b"]


@given(st.lists(st.tuples(st.sampled_from("jlcp"), st.integers(0, 9)), max_size=60))
def test_workers_and_those_who_begin_now_agree(steps: list[tuple[str, int]]) -> None:
    group = Group(peer("a"), peer("b"), spare=12)
    for what, number in steps:
        members = group.membership.members("u")
        if what == "j":
            try:
                group.join(peer(str(number), weight=1 + number, backup=number > 7))
            except Refused:
                group.publish(0)
                group.publish(1)
        elif what == "l" and members:
            group.leave(members[number % len(members)].key)
        elif what == "c" and members:
            group.membership.change(members[number % len(members)].key, weight=1 + number)
            group.table.publish()
        elif what == "p":
            group.publish(number % 2)
    late = Upstream(group.spec, group.table, 5)
    expected = [(one.key, one.weight, one.id) for one in late.peers]
    for worker in group.workers:
        assert worker.primary is not None
        assert sorted((one.key, one.weight, one.id) for one in worker.peers) == sorted(expected)
        assert [one.key for one in worker.primary] == [one.key for one in late.primary]
        assert worker.tries == late.tries
        chosen = worker.pick((), 1.0)
        assert (chosen is None) == (not late.peers)


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": 0},
        {"weight": -2},
        {"weight": "x"},
        {"weight": 1.5},
        {"weight": 10**30},
        {"max_conns": "x"},
        {"max_conns": -1},
        {"max_fails": None},
        {"fail_timeout": None},
        {"fail_timeout": -1.0},
        {"fail_timeout": float("nan")},
        {"slow_start": float("inf")},
        {"tier": 10},
        {"tier": "a"},
        {"down": "no"},
        {"drain": 2},
        {"route": b"r"},
        {"server": None},
    ],
    ids=str,
)
def test_what_no_balancer_could_work_with_is_refused(wrong: dict[str, object]) -> None:
    group = Group(peer("a"), peer("b"))
    before = group.membership.members("u")
    with pytest.raises(Refused, match="invalid"):
        group.membership.change(before[0].key, **wrong)
    with pytest.raises((Refused, TypeError)):  # a compiled PeerSpec of wrong types cannot be made at all
        group.join(peer("c", **wrong))
    assert group.membership.members("u") == before
    assert group.table.members_changed == 0
    assert group.join(peer("c", weight=2**31 - 1, fail_timeout=0.5)).spec.name == "c"


def test_a_row_that_a_killed_checker_was_about_to_give_is_given_clean() -> None:
    """Else its check, maybe another upstream's that nobody makes here, would hold the peer back for ever."""
    group = Group(peer("a"), spare=1)
    group.table.add_check(group.membership.row_for("u"), 7, 1, 0)
    joined = group.join(peer("b"))
    assert group.table.checks(joined.row) == []


def test_a_row_for_a_peer_that_is_refused_is_given_again_clean() -> None:
    group = Group(peer("a"), spare=1)
    row = group.membership.row_for("u")
    key = group.membership.key_for("u", peer("b"))
    for wrong in (peer("b", weight=0), peer("b", route="x" * 9000)):
        group.table.add_check(row, 7, 1, 0)
        with pytest.raises(Refused):
            group.membership.join(key, wrong, row)
        assert group.membership.row_for("u") == row
        assert group.table.checks(row) == []
    group.leave(group.join(peer("b")).key)
    group.publish(0)
    group.publish(1)
    with pytest.raises(Refused):
        group.membership.join(key, peer("b", weight=0), group.membership.row_for("u"))
    assert group.join(peer("b")).row == row


@pytest.mark.pure_only(reason="a compiled PeerSpec of wrong types cannot be made at all")
@pytest.mark.parametrize("address", [("c", 0), ("c", "80"), ("c",), ["c", 80], None, (b"c", 80)], ids=repr)
def test_an_address_is_a_host_and_a_port_or_a_path(address: object) -> None:
    group = Group(peer("a"))
    with pytest.raises(Refused, match="invalid address"):
        group.join(PeerSpec("c", address))  # type: ignore[arg-type]  # which is the point
    assert len(group.membership.members("u")) == 1


def test_an_owner_after_one_that_was_killed_announces_what_it_had_written() -> None:
    group = Group(peer("a"), peer("b"), workers=1)
    group.table.start_checker(1)
    words, at = group.table.words, group.table.layout.row(0) + PEER_ADMIN
    words[at] = ADMIN_DOWN  # and is killed before it says so
    (worker,) = group.workers
    assert worker.pick((), 1.0) is worker.peers[0]
    worker.release(worker.peers[0], 1.0, failed=False)
    Membership(group.table, (group.spec,))
    assert [worker.pick((), 1.0) for _ in range(2)] == [worker.peers[1]] * 2


def test_what_a_worker_that_died_counted_for_one_that_left_is_not_counted_for_the_next() -> None:
    group = Group(peer("a"))
    row = group.join(peer("b")).row
    worker = group.workers[1]
    taken = [worker.pick((), 1.0) for _ in range(4)]
    assert {one.name for one in taken if one is not None} == {"a", "b"}
    group.leave(PeerKey("u", "primary", "b", 0))
    group.publish(1)
    # It dies with requests under way at one that has left, and its successor knows nothing of that one.
    group.table.vacate(1)
    group.workers[1] = Upstream(group.spec, group.table, 1)
    forget_others(group.table, 1, (group.workers[1],))
    group.publish(0)
    group.publish(1)
    assert group.join(peer("c")).row == row
    assert group.table.counts(row).requests == 0


@pytest.mark.parametrize("seed", range(30))
def test_whatever_comes_and_goes_under_load_is_counted_right(seed: int) -> None:
    rnd = random.Random(seed)
    group = Group(
        *(peer(name, weight=rnd.choice([1, 5000]), max_conns=rnd.choice([0, 0, 2])) for name in "abc"),
        workers=3,
        spare=rnd.choice([3, 10, 100]),
    )
    table, now, under_way = group.table, 1000.0, list[tuple[int, Peer]]()

    def members() -> tuple[Member, ...]:
        return group.membership.members("u")

    for _ in range(300):
        now += rnd.choice([0.0, 0.5, 3.0])
        worker = rnd.randrange(3)
        what = rnd.choice([*["pick"] * 9, *["release"] * 6, "join", "join", "leave", "weight", "toggle", "die", "look"])
        if what == "pick":
            found = group.workers[worker].pick((), now)
            if found is not None:
                assert not found.gone
                assert found.key in [member.key for member in members()]
                under_way.append((worker, found))
        elif what == "release" and under_way:
            number, one = under_way.pop(rnd.randrange(len(under_way)))
            group.workers[number].release(one, now, rnd.random() < 0.15)
        elif what == "join":
            with contextlib.suppress(NoRoom):
                member = group.join(peer(f"n{rnd.randrange(6)}", weight=rnd.choice([1, 2, 5000])))
                assert table.counts(member.row).requests == table.counts(member.row).connections == 0
        elif what == "leave" and len(members()) > 1:
            group.leave(rnd.choice(members()).key)
        elif what == "weight":
            group.membership.change(rnd.choice(members()).key, weight=rnd.choice([1, 3, 6000]))
            table.publish()
        elif what == "toggle":
            table.set_admin(rnd.choice(members()).row, rnd.choice([ADMIN_DOWN, ADMIN_UP]))
            table.publish()
        elif what == "die":
            under_way = [(number, one) for number, one in under_way if number != worker]
            table.vacate(worker)
            group.workers[worker] = Upstream(group.spec, table, worker)
            forget_others(table, worker, (group.workers[worker],))
        elif what == "look":
            group.publish(worker)
            assert [one.key for one in group.workers[worker].peers] == [member.key for member in members()]
            for one in group.workers[worker].peers:
                counts = table.counts(one.row, worker)
                assert counts.connections == one.connections == [other for _, other in under_way].count(one)
                assert counts.requests == one.requests
    for number, one in under_way:
        group.workers[number].release(one, now, failed=False)
    for number in range(3):
        group.publish(number)
    rows = {member.row for member in members()}
    for row in range(table.rows_used):
        if row != table.row(PeerKey("v", "primary", "z", 0)):
            assert [table.holds(row, number) for number in range(3)] == [row in rows] * 3
            assert table.counts(row).connections == 0
