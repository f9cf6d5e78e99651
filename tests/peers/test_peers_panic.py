"""all_down: who gets requests when the checks find too few peers up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upwell.peers.panic import Standing, ignores_health, in_force, standing_of
from upwell.peers.peer import PeerSpec, UpstreamSpec, peer_keys
from upwell.peers.roster import Member, Roster
from upwell.peers.upstream import Upstream
from upwell.zone.layout import ADMIN_DOWN, ADMIN_UP
from upwell.zone.table import PeerTable


class Group:
    """An upstream with a check of each peer (rise 1, fall 1), and one worker's view of it."""

    def __init__(self, names: str, all_down: str = "fail", panic: int = 0, health: int = 1, tried: bool = True) -> None:
        """Upper-case letters are backups; "-" behind a letter: configured down."""
        peers = [
            PeerSpec(name, (name, 80), backup=name.isupper(), down=names[at + 1 : at + 2] == "-")
            for at, name in enumerate(names)
            if name != "-"
        ]
        self.spec = UpstreamSpec("u", tuple(peers), all_down=all_down, panic=panic)
        self.table = PeerTable.create(peer_keys(self.spec), 1)
        for row in range(len(peers)):
            self.table.add_check(row, 7, 1, health)
            if tried:
                self.verdict(row, health)
            self.table.summarise(row, 1)
        self.worker = Upstream(self.spec, self.table)

    def verdict(self, row: int, health: int) -> None:
        self.table.set_check(self.table.layout.check(row, 0), health, 5, 0, 0, bool(health))
        self.table.summarise(row, 5)
        self.table.touch(row)
        self.table.publish()

    def turn(self, names: str, health: int) -> None:
        for name in names:
            self.verdict(next(row for row, peer in enumerate(self.spec.peers) if peer.name == name), health)

    @property
    def members(self) -> tuple[Member, ...]:
        return Roster(self.spec, self.table).members

    def admin(self, name: str, state: int) -> None:
        self.table.set_admin(next(row for row, peer in enumerate(self.spec.peers) if peer.name == name), state)
        self.table.publish()

    @property
    def served(self) -> str:
        """Who gets the next requests."""
        picked = [self.worker.pick((), 100.0) for _ in range(20)]
        return "".join(sorted({peer.name for peer in picked if peer is not None}))


def test_fail_is_the_default() -> None:
    group = Group("ab")
    group.turn("ab", 0)
    assert group.served == ""
    assert not group.worker.panics
    assert not ignores_health(group.spec, group.members, group.table)


def test_serve_all_begins_with_the_last_one_down_and_ends_with_the_first_one_up() -> None:
    group = Group("abc", "serve_all")
    group.turn("ab", 0)
    assert (group.served, group.worker.panics) == ("c", False)
    group.turn("c", 0)
    assert (group.served, group.worker.panics) == ("abc", True)
    assert ignores_health(group.spec, group.members, group.table)
    assert [peer.down for peer in group.worker.peers] == [True, True, True]  # what pages tell
    group.turn("b", 1)
    assert (group.served, group.worker.panics) == ("b", False)
    assert not ignores_health(group.spec, group.members, group.table)


def test_panic_is_below_the_share_not_at_it() -> None:
    group = Group("abcd", "panic", 50)
    group.turn("ab", 0)
    assert group.served == "cd"
    group.turn("c", 0)
    assert group.served == "abcd"
    group.turn("d", 0)
    assert group.served == "abcd"
    group.turn("ab", 1)
    assert group.served == "ab"


def test_primaries_and_backups_are_one_group() -> None:
    group = Group("abXY", "serve_all")
    group.turn("ab", 0)
    assert group.served == "XY"
    group.turn("XY", 0)
    assert group.served == "ab"  # primaries first, as ever
    group = Group("abXY", "panic", 75)
    group.turn("a", 0)
    assert group.served == "b"
    group.turn("X", 0)
    assert group.served == "ab"


@pytest.mark.parametrize("state", ["operator", "configuration"])
def test_who_is_switched_off_stays_off(state: str) -> None:
    group = Group("abc" if state == "operator" else "abc-", "serve_all")
    if state == "operator":
        group.admin("c", ADMIN_DOWN)
    else:
        group.turn("c", 0)
    group.turn("ab", 0)
    assert standing_of(group.members, group.table) == Standing(0, 2)
    assert group.served == "ab"
    group.admin("c", ADMIN_UP)
    assert group.served == ("c" if state == "operator" else "abc")


def test_nobody_left_is_no_panic() -> None:
    group = Group("a", "serve_all")
    group.admin("a", ADMIN_DOWN)
    assert group.served == ""
    assert not group.worker.panics


def test_a_peer_without_a_verdict_gets_nothing_under_any_policy() -> None:
    for policy, percent in (("serve_all", 0), ("panic", 100)):
        group = Group("abc", policy, percent, health=0, tried=False)
        assert group.served == ""
        group.turn("a", 0)
        assert group.served == "a"  # known to be down, which is more than nothing
        group.turn("b", 1)
        assert group.served == ("b" if policy == "serve_all" else "ab")


def test_suspensions_by_requests_hold_in_panic() -> None:
    group = Group("ab", "serve_all")
    group.turn("ab", 0)
    a = group.worker.peers[0]
    assert group.served == "ab"
    group.worker.release(a, 100.0, failed=True)
    assert group.served == "b"


def test_what_happened_in_panic_is_forgotten_when_a_check_passes() -> None:
    group = Group("ab", "serve_all")
    group.turn("ab", 0)
    a = group.worker.peers[0]
    assert group.served == "ab"
    group.worker.release(a, 100.0, failed=True)
    assert a.fails == 1
    group.turn("a", 1)
    assert group.served == "a"
    assert a.fails == 0


def test_an_upstream_without_checks_never_panics() -> None:
    spec = UpstreamSpec("u", (PeerSpec("a", ("a", 80)), PeerSpec("b", ("b", 80))), all_down="panic", panic=100)
    table = PeerTable.create(peer_keys(spec), 1)
    assert not ignores_health(spec, Roster(spec, table).members, table)
    assert not Upstream(spec, table).panics


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 100))
def test_panic_is_a_share(up: int, more: int, percent: int) -> None:
    spec = UpstreamSpec("u", (), all_down="panic", panic=percent)
    counted = up + more
    assert in_force(spec, Standing(up, counted)) is (counted > 0 and up / counted * 100 < percent - 1e-9)
