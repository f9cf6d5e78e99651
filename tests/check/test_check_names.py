"""Peers that are known by name: what a real DNS server's answers make of an upstream's members, in a real checker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.resolve.dns_server import DnsServer, fails, silent
from tests.resolve.resolving import Clock, Lines
from upwell.check.checker import Checker
from upwell.check.named import NamedPeers
from upwell.check.names import Names, peers_of
from upwell.check.spec import PLUS, CheckSpec
from upwell.peers.membership import carry
from upwell.peers.peer import PeerKey, PeerSpec, UpstreamSpec
from upwell.peers.upstream import Upstream
from upwell.process.parts import table_of
from upwell.resolve.spec import Found, Question, ResolverSpec
from upwell.zone.resolvers import ResolverTable
from upwell.zone.table import PeerTable


def line(server: DnsServer | None, text: str = "a.example", service: str = "", **settings: object) -> NamedPeers:
    name = f"{text} service={service}" if service else text
    template = PeerSpec(text, ("", 0), server=name, **settings)  # type: ignore[arg-type]  # tests say them as they are
    address = ("127.0.0.1", 1) if server is None else server.address
    return NamedPeers("u", template, Question(text, service), 80, ResolverSpec((address,), ipv6=False, name="dns"))


class Named:
    """A checker of upstream "u", whose peers are `peers` and those of `lines`."""

    def __init__(self, *lines: NamedPeers, peers: tuple[PeerSpec, ...] = (), before: Named | None = None) -> None:
        self.lines = lines
        self.spec = UpstreamSpec("u", peers, lines=tuple(one.template for one in lines))
        self.table: PeerTable = table_of([self.spec], 1)
        if before is not None:
            carry(self.table, [self.spec], before.table, [before.spec])
            self.table.adopt(before.table)
        self.clock = Clock()
        self.log = Lines()
        self.lookups = ResolverTable(["dns"], 1)
        self.begin()
        self.worker = Upstream(self.spec, self.table)

    def begin(self) -> None:
        self.checker = Checker(self.table, [self.spec], self.log, self.clock)
        names = Names(self.lines, self.checker, self.log, lambda name: self.lookups.counts(name, 1), self.clock)
        self.checker.name(names)

    def until(self, over: Callable[[], object], passing: float = 0.0) -> None:
        """Go round until `over`; `passing` seconds go by in each round."""
        end = time.monotonic() + 40
        while not over():
            assert time.monotonic() < end, self.members()
            self.checker.step(0.05)
            self.clock.added += passing

    def members(self) -> list[str]:
        return [member.spec.name for member in self.checker.members("u")]

    def await_members(self, *names: str) -> None:
        self.until(lambda: sorted(self.members()) == sorted(names))

    def key(self, name: str) -> PeerKey:
        return next(member.key for member in self.checker.members("u") if member.spec.name == name)


@pytest.fixture
def server() -> Iterator[DnsServer]:
    with DnsServer() as one:
        one.set("a.example", "A", "10.0.0.1", "10.0.0.2", ttl=30)
        yield one


@pytest.fixture
def named(server: DnsServer) -> Iterator[Named]:
    one = Named(line(server, weight=3, max_fails=2), peers=(PeerSpec("10.9.9.9:80", ("10.9.9.9", 80)),))
    one.await_members("10.9.9.9:80", "10.0.0.1:80", "10.0.0.2:80")
    yield one
    one.checker.close()


def test_addresses_are_peers_as_their_line_says(named: Named) -> None:
    first, one, two = named.checker.members("u")
    assert (one.spec.name, two.spec.name) == ("10.0.0.1:80", "10.0.0.2:80")  # in one order, however servers mix them
    assert (one.spec.weight, one.spec.max_fails, one.spec.server) == (3, 2, "a.example")
    assert first.spec.weight == 1
    assert sum(named.worker.pick((), 1.0) is not None for _ in range(3)) == 3
    assert named.log.lines == ['a.example in upstream "u": 2 joined']


def test_one_that_stays_is_the_same_peer(server: DnsServer, named: Named) -> None:
    kept = named.key("10.0.0.2:80")
    named.checker.set_down(kept, True)
    row, admin = named.table.row(kept), named.table.admin(named.table.row(kept))
    server.set("a.example", "A", "10.0.0.2", "10.0.0.3", ttl=30)
    named.clock.added += 31
    named.await_members("10.9.9.9:80", "10.0.0.2:80", "10.0.0.3:80")
    assert named.key("10.0.0.2:80") == kept
    assert named.table.row(kept) == row
    assert named.table.admin(row) == admin
    assert named.log.lines[-1] == 'a.example in upstream "u": 1 joined, 1 left'


def test_servers_that_fail_change_nothing_and_a_name_that_is_gone_does(server: DnsServer, named: Named) -> None:
    before = named.members()
    server.rule("a.example", fails())
    named.clock.added += 31
    named.until(lambda: server.asked["a.example", "A"] == 4, passing=0.3)
    assert named.members() == before
    server.rule("a.example", silent)
    named.until(lambda: server.asked["a.example", "A"] == 12, passing=0.3)
    assert named.members() == before
    assert [text for text in named.log.lines if "could not be resolved" in text] == [
        "a.example could not be resolved (2: Server failure), 2 known address(es) stay in use"
    ]
    server.follow("a.example")
    server.remove("a.example")
    named.until(lambda: named.members() == ["10.9.9.9:80"], passing=0.3)


def test_a_name_that_is_not_there_yet(server: DnsServer) -> None:
    named = Named(line(server, "late.example"))
    named.until(lambda: named.log.lines)
    assert named.log.lines == ["late.example could not be resolved (3: Host not found)"]
    assert named.worker.pick((), 1.0) is None
    server.set("late.example", "A", "10.0.0.7")
    named.clock.added += 6
    named.await_members("10.0.0.7:80")
    picked = named.worker.pick((), 1.0)
    assert picked is not None
    assert named.log.lines[1:] == [
        "late.example is resolved again: 1 address(es)",
        'late.example in upstream "u": 1 joined',
    ]
    named.checker.close()


def test_lines_of_one_name_have_peers_of_their_own(server: DnsServer) -> None:
    server.set("a.example", "A", "10.0.0.1")
    named = Named(line(server), line(server), line(server, backup=True), line(server, "b.example"))
    server.set("b.example", "A", "10.0.0.1")
    named.await_members(*["10.0.0.1:80"] * 4)
    assert sorted(member.key.role for member in named.checker.members("u")) == ["backup"] + ["primary"] * 3
    assert server.asked["a.example", "A"] == 1
    named.checker.close()


def test_services(server: DnsServer) -> None:
    server.set("_http._tcp.shop", "SRV", "1 5 81 a.example.", "2 7 82 b.example.", ttl=30)
    server.set("a.example", "A", "10.0.0.1", ttl=30)
    server.set("b.example", "A", "10.0.0.5", ttl=30)
    named = Named(line(server, "shop", "http"))
    named.await_members("10.0.0.1:81", "10.0.0.5:82")
    first, second = (member.spec for member in named.checker.members("u"))
    assert (first.weight, first.backup) == (5, False)
    assert (second.weight, second.backup) == (7, True)
    kept = named.key("10.0.0.1:81")
    server.set("_http._tcp.shop", "SRV", "1 9 81 a.example.", "1 0 82 b.example.", ttl=30)
    named.clock.added += 31
    named.until(lambda: {member.spec.weight for member in named.checker.members("u")} == {9, 1})
    named.until(lambda: len(named.members()) == 2)
    assert named.key("10.0.0.1:81") == kept
    assert not any(member.spec.backup for member in named.checker.members("u"))
    named.checker.close()


def test_what_peers_of_services_are() -> None:
    found = (Found("10.0.0.1", 81, 2, 0), Found("::1", 82, 3, 4))
    specs = peers_of(line(None, "shop", "http"), found)
    assert [(spec.name, spec.weight, spec.backup) for spec in specs] == [
        ("10.0.0.1:81", 1, False),
        ("[::1]:82", 4, True),
    ]
    specs = peers_of(line(None, "shop", "http", weight=6, backup=True), found)
    assert [(spec.weight, spec.backup) for spec in specs] == [(6, True), (6, True)]


def test_a_checker_after_this_one_goes_on_with_the_members(server: DnsServer, named: Named) -> None:
    kept = named.key("10.0.0.1:80")
    named.checker.close()
    server.rule("a.example", silent)
    named.begin()
    assert len(named.members()) == 3
    server.follow("a.example")
    server.set("a.example", "A", "10.0.0.1", "10.0.0.8", ttl=30)
    named.clock.added += 31
    named.await_members("10.9.9.9:80", "10.0.0.1:80", "10.0.0.8:80")
    assert named.key("10.0.0.1:80") == kept


def test_a_reload_keeps_them_without_asking(server: DnsServer, named: Named) -> None:
    server.rule("a.example", silent)
    named.checker.set_down(named.key("10.0.0.1:80"), True)
    other = Named(line(server, weight=7), before=named)
    assert other.members() == ["10.0.0.1:80", "10.0.0.2:80"]
    assert {member.spec.weight for member in other.checker.members("u")} == {7}
    key = other.key("10.0.0.1:80")
    assert other.table.admin(other.table.row(key)) == named.table.admin(named.table.row(key))
    gone = Named(line(server, "b.example"), before=named)
    assert gone.members() == []
    other.checker.close()
    gone.checker.close()


def test_a_reload_keeps_services_as_they_were_told(server: DnsServer) -> None:
    server.set("_http._tcp.shop", "SRV", "1 5 81 a.example.", "2 7 82 b.example.")
    server.set("a.example", "A", "10.0.0.1")
    server.set("b.example", "A", "10.0.0.5")
    named = Named(line(server, "shop", "http"))
    named.await_members("10.0.0.1:81", "10.0.0.5:82")
    server.rule("_http._tcp.shop", silent)
    other = Named(line(server, "shop", "http"), before=named)
    assert [(one.spec.name, one.spec.weight, one.spec.backup) for one in other.checker.members("u")] == [
        ("10.0.0.1:81", 5, False),
        ("10.0.0.5:82", 7, True),
    ]
    named.checker.close()
    other.checker.close()


def test_new_peers_are_checked_and_old_ones_keep_what_is_known(server: DnsServer, named: Named) -> None:
    check = CheckSpec(
        "u", type="tcp", interval=5.0, timeout=1.0, fall=1, rise=1, concurrency=0, dialect=PLUS, initial="checking"
    )
    named.checker.add(check)
    row = named.table.row(named.key("10.0.0.2:80"))
    server.set("a.example", "A", "10.0.0.2", "10.0.0.3", ttl=30)
    named.clock.added += 31
    named.await_members("10.9.9.9:80", "10.0.0.2:80", "10.0.0.3:80")
    [state] = named.table.checks(named.table.row(named.key("10.0.0.3:80")))
    assert state.identity == check.identity
    assert named.table.row(named.key("10.0.0.2:80")) == row


def test_many_addresses_join_a_few_at_a_time(server: DnsServer) -> None:
    server.set("many.example", "A", *(f"10.1.{n // 250}.{n % 250 + 1}" for n in range(900)))
    named = Named(line(server, "many.example"))
    sizes = {0}

    def all_there() -> bool:
        sizes.add(len(named.members()))
        return 900 in sizes

    named.until(all_there)
    assert max(after - before for before, after in pairwise(sorted(sizes))) <= 16
    named.checker.close()


def test_no_room_is_said_and_ends_nothing(server: DnsServer) -> None:
    server.set("many.example", "A", *(f"10.1.{n // 250}.{n % 250 + 1}" for n in range(30)))
    named = Named(line(server, "many.example"))
    named.checker.close()
    named.table = PeerTable.create([], 1, 10, ["u"])
    named.begin()
    named.until(lambda: any("no room" in text for text in named.log.lines))
    assert len(named.members()) == 10
    named.checker.step(0.0)
    named.checker.close()


def test_others_come_little_by_little_where_there_is_no_room_for_both(server: DnsServer) -> None:
    server.set("all.example", "A", *(f"10.1.0.{n}" for n in range(1, 11)), ttl=30)
    named = Named(line(server, "all.example"))
    named.checker.close()
    named.table = PeerTable.create([], 1, 12, ["u"])
    named.begin()
    named.until(lambda: len(named.members()) == 10)
    server.set("all.example", "A", *(f"10.2.0.{n}" for n in range(1, 11)), ttl=3000)
    named.clock.added += 31
    sizes = set()

    def all_new() -> bool:
        members = named.members()
        sizes.add(len(members))
        return len(members) == 10 and all(name.startswith("10.2.") for name in members)

    named.until(all_new, 0.1)
    assert min(sizes) >= 5
    assert sum("no room" in text for text in named.log.lines) == 1
    named.checker.close()


def test_what_an_operator_changed_stays(server: DnsServer, named: Named) -> None:
    named.checker.change_peer(named.key("10.0.0.1:80"), weight=9)
    server.set("a.example", "A", "10.0.0.1", "10.0.0.3", ttl=30)
    named.clock.added += 31
    named.await_members("10.9.9.9:80", "10.0.0.1:80", "10.0.0.3:80")
    assert named.checker.members("u")[1].spec.weight == 9


def test_one_of_another_line_is_left_alone(server: DnsServer, named: Named) -> None:
    named.checker.add_peer("u", replace(named.spec.peers[0], name="10.0.0.77:80", address=("10.0.0.77", 80)))
    server.remove("a.example")
    named.clock.added += 31
    named.await_members("10.9.9.9:80", "10.0.0.77:80")
