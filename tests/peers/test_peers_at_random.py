"""Every method with everything at once: who may get a request is worked out a second time, and nobody else ever does.

Peers join, leave and change; checks and operators turn them up and down; sessions, tiers, backups, limits, failures and
workers that die. What is random comes from a seed.
"""

from __future__ import annotations

import contextlib
from random import Random
from typing import Any

import pytest

from tests.peers.test_peers_bound import METHODS
from upwell.peers.balancers.balancer import unfit
from upwell.peers.live import Peer
from upwell.peers.membership import Membership, NoRoom
from upwell.peers.peer import Method, PeerSpec, UpstreamSpec, peer_keys
from upwell.peers.routes import route_of
from upwell.peers.tiers import last_in_use
from upwell.peers.upstream import Upstream, forget_others, publish_all
from upwell.zone.layout import ADMIN_DOWN, ADMIN_UP, CHECKS_DOWN, CHECKS_NONE, CHECKS_UP, PEER_CHECKS, PEER_STARTED
from upwell.zone.table import PeerTable, may_serve

_STEPS = 250
_WHAT = [
    *["pick"] * 10,
    *["release"] * 7,
    *("join", "join", "leave", "change", "operator", "checks", "cleared", "worker", "owner", "publish"),
]


class World:
    """One upstream, its workers, its list's owner, and the requests under way with their workers."""

    def __init__(self, method: Method, seed: int) -> None:
        self.chance = chance = Random(seed)
        self._hashes = method.name in ("hash", "ip_hash", "random")
        self._tiers = chance.random() < 0.5
        self._limits = chance.random() < 0.6
        self._weights = chance.choice(([1], [1, 2, 5], [1, 7, 50], [1, 50 if self._hashes else 5000]))
        policy: dict[str, Any] = chance.choice(({}, {}, {"all_down": "serve_all"}, {"all_down": "panic", "panic": 60}))
        peers = tuple(self.peer(number, number == 0) for number in range(chance.choice((1, 2, 3, 6))))
        self.spec = UpstreamSpec("u", peers, method, tier_threshold=chance.choice((1, 50, 100)), **policy)
        self.table = PeerTable.create(peer_keys(self.spec), chance.choice((1, 2, 3)), chance.choice((3, 10, 100)))
        self.owner = Membership(self.table, (self.spec,))
        self.workers = [self._worker(number) for number in range(self.table.workers)]
        self.under_way: list[tuple[int, Peer, float]] = []
        self.now = 1000.0

    def _worker(self, number: int) -> Upstream:
        return Upstream(self.spec, self.table, number, chance=self.chance.random)

    def peer(self, number: int, first: bool) -> PeerSpec:
        chance = self.chance
        backup = not first and not self._hashes and chance.random() < 0.2
        return PeerSpec(
            f"10.0.0.{number}:80",
            (f"10.0.0.{number}", 80),
            server=chance.choice(("a", "b", f"10.0.0.{number}:80")),
            weight=chance.choice(self._weights),
            max_fails=chance.choice((0, 1, 1, 2)),
            fail_timeout=chance.choice((1.0, 10.0)),
            max_conns=chance.choice((0, 0, 1, 3)) if self._limits else 0,
            backup=backup,
            down=chance.random() < 0.1,
            slow_start=chance.choice((3.0, 20.0)) if not self._hashes and chance.random() < 0.2 else 0.0,
            drain=chance.random() < 0.15,
            route=chance.choice(("", "", "r0", "r1", "r2")),
            tier=chance.choice((0, 0, 1, 2)) if self._tiers and not backup else 0,
        )

    def fit_for(self, worker: Upstream, tried: set[Peer], route: bytes) -> set[Peer | None]:
        """Who may get a request now."""
        primary, backup = worker.primary, worker.backup  # brought up to date by being read
        for peer, member in zip(worker.peers, self.owner.members("u"), strict=True):
            assert (peer.key, peer.spec) == (member.key, member.spec)
            admin, checks = self.table.admin(member.row) & 3, self.table.summary(member.row)
            assert peer.healthy is may_serve(admin, checks, member.spec.down)
            assert peer.up is peer.healthy or worker.panics
        last = last_in_use(
            [(peer.spec.tier, peer.healthy and not peer.spec.drain) for peer in primary], self.spec.tier_threshold
        )
        behind = sorted({peer.spec.tier for peer in primary if peer.spec.tier > last})
        asked = [[peer for peer in primary if peer.spec.tier <= last]]
        asked += [[peer for peer in primary if peer.spec.tier == tier] for tier in behind]
        for group in (*asked, backup):
            called = [peer for peer in group if route and route_of(peer.spec) == route][:1]
            fit = [peer for peer in group if peer.up and peer not in tried and not unfit(peer, self.now)]
            found = [peer for peer in called if peer in fit] or [peer for peer in fit if not peer.spec.drain]
            if found:
                return set(found)
        return {None}

    def pick(self, number: int) -> None:
        chance, worker = self.chance, self.workers[number]
        worker.primary  # noqa: B018  # brought up to date by being read
        routes = [b"", b"", b"r0", b"r1", *(route_of(peer.spec) for peer in worker.peers)]
        route = chance.choice(routes)
        share = chance.choice((0, 0, 0.3))
        tried = {peer for peer in worker.peers if chance.random() < share}
        key = chance.choice((b"", b"%d" % chance.randrange(1000), chance.randbytes(3), chance.randbytes(16)))
        may = self.fit_for(worker, tried, route)
        chosen = worker.pick_bound(route, tried, self.now, key) if route else worker.pick(tried, self.now, key)
        assert chosen in may
        if chosen is not None:
            self.under_way.append((number, chosen, self.now))

    def release(self) -> None:
        number, peer, begun = self.under_way.pop(self.chance.randrange(len(self.under_way)))
        worker, took, well = self.workers[number], self.now - begun, self.chance.random() > 0.2
        if worker.watches and self.chance.random() < 0.9:
            worker.answered(peer, took / 2, took, self.now, well)
        worker.release(peer, self.now, not well)

    def change_list(self, what: str) -> None:
        chance, table, members = self.chance, self.table, self.owner.members("u")
        if what == "join":
            spec = self.peer(chance.randrange(8), False)
            with contextlib.suppress(NoRoom):
                member = self.owner.join(self.owner.key_for("u", spec), spec, self.owner.row_for("u"))
                if chance.random() < 0.5:
                    table.start(member.row, int(self.now * 1000))
                assert table.counts(member.row).requests == table.counts(member.row).connections == 0
        elif what == "leave" and members:
            self.owner.leave(chance.choice(members).key)
        elif what == "change" and members:
            member, other = chance.choice(members), self.peer(0, True)
            names = ["weight", "max_conns", "max_fails", "fail_timeout", "down", "drain", "route", "slow_start"]
            names += [] if member.spec.backup else ["tier"]
            changed = {name: getattr(other, name) for name in chance.sample(names, 3)}
            self.owner.change(member.key, **changed)
        table.publish()

    def change_health(self, what: str) -> None:
        chance, table, members = self.chance, self.table, self.owner.members("u")
        if not members:
            return
        row = chance.choice(members).row
        at = table.layout.row(row)
        if what == "operator":
            state = chance.choice((ADMIN_DOWN, ADMIN_UP))
            table.set_admin(row, state)
            if state == ADMIN_UP:
                table.start(row, int(self.now * 1000))
        elif what == "cleared":
            table.clear(row, int(self.now * 1000))
        else:
            before = table.words[at + PEER_CHECKS]
            now = table.words[at + PEER_CHECKS] = chance.choice((CHECKS_UP, CHECKS_UP, CHECKS_DOWN, CHECKS_NONE))
            if (before, now) == (CHECKS_DOWN, CHECKS_UP):
                table.words[at + PEER_STARTED] = int(self.now * 1000)
            table.touch(row)
        table.publish()

    def begin_anew(self, number: int) -> None:
        """A worker dies and has a successor."""
        self.under_way = [one for one in self.under_way if one[0] != number]
        self.table.vacate(number)
        self.workers[number] = self._worker(number)
        forget_others(self.table, number, (self.workers[number],))

    def publish(self, number: int) -> None:
        for worker in self.workers:
            worker.primary  # noqa: B018  # brought up to date by being read
        publish_all(self.table, number, (self.workers[number],))
        for peer in self.workers[number].peers:
            assert peer.connections == [one for _, one, _ in self.under_way].count(peer)
            counts = self.table.counts(peer.row, number)
            assert (counts.connections, counts.requests) == (peer.connections, peer.requests)
            if peer.everywhere is not None:
                assert sum(peer.everywhere) == [one.key for _, one, _ in self.under_way if not one.gone].count(peer.key)

    def step(self) -> None:
        self.now += self.chance.choice((0.0, 0.0, 0.1, 0.5, 3.0))
        number = self.chance.randrange(len(self.workers))
        what = self.chance.choice(_WHAT)
        if what == "pick":
            self.pick(number)
        elif what == "release" and self.under_way:
            self.release()
        elif what in ("join", "leave", "change"):
            self.change_list(what)
        elif what in ("operator", "checks", "cleared"):
            self.change_health(what)
        elif what == "worker" and self.chance.random() < 0.4:
            self.begin_anew(number)
        elif what == "owner" and self.chance.random() < 0.4:
            self.owner = Membership(self.table, (self.spec,))
        elif what == "publish":
            self.publish(number)

    def end(self) -> None:
        while self.under_way:
            self.release()
        for number in range(len(self.workers)):
            self.publish(number)
        rows = {member.row for member in self.owner.members("u")}
        for row in range(self.table.rows_used):
            holders = [self.table.holds(row, number) for number in range(len(self.workers))]
            assert holders == [row in rows] * len(self.workers)
            assert self.table.counts(row).connections == 0


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_only_who_may_have_a_request_gets_it_whatever_happens(method: Method, seed: int) -> None:
    world = World(method, seed)
    for _ in range(_STEPS):
        world.step()
    world.end()
