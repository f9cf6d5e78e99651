"""An upstream in one worker: which peer gets the next request, and what a request's end says of its peer.

It knows peers, a balancer for each role and the zone (what the checker and the operator said). It does not know how a
peer is reached, nor what a request is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from upwell.log import ErrorLog
from upwell.peers.balancers import BALANCERS
from upwell.peers.balancers.balancer import Balancer, Chance, unfit
from upwell.peers.balancers.least import Least
from upwell.peers.balancers.slow_start import SlowStart
from upwell.peers.live import Peer
from upwell.peers.panic import FAIL, Standing, in_force, may_count
from upwell.peers.passive import failed as count_failure
from upwell.peers.passive import forgotten, full, suspended
from upwell.peers.passive import passed as count_success
from upwell.peers.peer import PeerKey, PeerSpec, UpstreamSpec
from upwell.peers.roster import Member, Roster
from upwell.peers.routes import Routes, route_of
from upwell.peers.tiers import choice, split
from upwell.zone.layout import (
    ADMIN_DOWN,
    ADMIN_UP,
    CHECKS_NONE,
    CHECKS_UP,
    GENERATION,
    PEER_ADMIN,
    PEER_CHECKS,
    PEER_CLEARED,
    PEER_STARTED,
)
from upwell.zone.table import Counts, PeerTable, may_serve

__all__ = ["Peer", "Upstream"]


def _no_chance() -> float:
    raise RuntimeError("an upstream whose balancer leaves something to chance needs a source of it")


class Upstream:
    """One `upstream` block as one worker sees it (nginx: ngx_http_upstream_rr_peers_t and its backup group).

    `table` must have a row for each peer of `spec` (KeyError otherwise), and says who joined or left since; `worker` is
    this process's number in the zone. With `log`, the warning about a peer that used up `max_fails` is written there; a
    caller that wants nginx's tail with client and request passes none and logs it when `release` returns true.
    `suspect` is told of each such peer that is actively checked, so that it is probed soon, or that other workers use.
    `chance` is for a balancer that leaves something to it.
    """

    __slots__ = (
        "_backup",
        "_backup_balancer",
        "_backup_routes",
        "_behind",
        "_behind_routes",
        "_by_row",
        "_by_tier",
        "_chance",
        "_counted",
        "_first",
        "_generation",
        "_leaving",
        "_local",
        "_log",
        "_primary",
        "_primary_balancer",
        "_primary_routes",
        "_roster",
        "_seen",
        "_slow_starts",
        "_slowly",
        "_split",
        "_suspect",
        "_table",
        "_tiers",
        "_words",
        "_worker",
        "name",
        "on_leave",
        "panics",
        "peers",
        "single",
        "spec",
        "tries",
        "watches",
    )

    def __init__(
        self,
        spec: UpstreamSpec,
        table: PeerTable,
        worker: int = 0,
        log: ErrorLog | None = None,
        suspect: Callable[[PeerKey], None] | None = None,
        chance: Chance = _no_chance,
    ) -> None:
        self.spec = spec
        self.name = spec.name
        self._table = table
        self._words = table.words
        self._worker = worker
        self._counted = 0 <= worker < table.workers
        self._log = log
        self._suspect = suspect
        self._chance = chance
        self._local: dict[Peer, tuple[int, int]] = {}
        self._leaving: list[Peer] = []
        self.on_leave: Callable[[Peer], object] | None = None
        """Called with each peer that left, whose requests go on to their end."""
        # Before anything is read: what changes while it is comes up again.
        if self._counted:
            table.set_seen(worker, 0)
        self._seen = table.changes
        self._generation = self._words[GENERATION]
        self._roster = Roster(spec, table)
        self.peers: tuple[Peer, ...] = ()
        """All peers in configuration order; their `current_weight` is true after `primary` or `backup` was read."""
        self._by_row: dict[int, Peer] = {}
        self._primary: tuple[Peer, ...] = ()
        self._backup: tuple[Peer, ...] = ()
        self.single = False
        """One peer and no backup: nginx never counts its failures, as there is nobody else to turn to."""
        self.tries = 0
        """How many peers one request may try at most (nginx: peer.tries); a single peer is tried once."""
        self.panics = False
        """Whether all peers that count get requests now, whatever their checks say (peers/panic.py)."""
        self._slowly = False
        self._slow_starts = 0
        self._by_tier: dict[int, int] = {}  # how many primaries there are
        self._first: tuple[Peer, ...] = ()  # the primaries of the tiers in use
        self._split: tuple[Peer, ...] = ()  # what `_first` was taken from
        self._tiers: dict[int, Balancer] = {}  # one for each tier that is not,
        self._behind: dict[int, list[Peer]] = {}  # its peers
        self._behind_routes: dict[int, Routes] = {}  # and what they are called
        self._primary_balancer = self._balancer()
        self._backup_balancer = self._balancer()
        self._primary_routes = Routes()
        self._backup_routes = Routes()
        self.watches = self._primary_balancer.watches
        """Whether `answered` wants to be told how long answers took."""
        self._muster([member.row for member in self._roster.members])
        self._resume_counts()
        if spec.all_down != FAIL:
            self._choose(True)
        else:
            self._rebuild()

    def __repr__(self) -> str:
        return f"<Upstream {self.name} {sum(peer.up for peer in self.peers)}/{len(self.peers)} up>"

    @property
    def primary(self) -> tuple[Peer, ...]:
        """The peers that are not backups, by id, brought up to date with the zone and with nginx's current weights."""
        self._bring_up_to_date()
        return self._primary

    @property
    def backup(self) -> tuple[Peer, ...]:
        """The backup peers by id, brought up to date like `primary`."""
        self._bring_up_to_date()
        return self._backup

    def pick(self, tried: Collection[Peer], now: float, key: bytes | None = None) -> Peer | None:
        """The peer for the next try of a request, or None: "no live upstreams" (nginx answers 502).

        `tried` are the peers that this request tried; `now` is seconds of a clock that never goes back; `key` is for a
        balancer that hashes. Primaries first, then backups. The peer's connection counts as in use until `release`.
        """
        if self._words[GENERATION] != self._generation:
            self.refresh()
        peer = self._primary_balancer.pick(key, tried, now)
        if peer is None:
            if self._tiers:
                peer = self._pick_behind(b"", tried, now, key)
            if peer is None:
                if not self._backup:
                    return None
                peer = self._backup_balancer.pick(key, tried, now)
                if peer is None:
                    return None
        peer.connections += 1
        peer.requests += 1
        everywhere = peer.everywhere
        if everywhere is not None:
            everywhere[self._worker] = peer.connections
            if 0 < peer.max_conns < sum(everywhere):
                return self._pick_again(peer, tried, now, key)
        return peer

    def pick_bound(self, route: bytes, tried: Collection[Peer], now: float, key: bytes | None = None) -> Peer | None:
        """The peer that a session is bound to, by its `route` (peers/routes.py), while it may get requests, as `pick`
        otherwise. A peer that drains may; a backup may not while there is a primary (nginx: get_rr_peer_by_sid)."""
        if self._words[GENERATION] != self._generation:
            self.refresh()
        peer = self._bound(self._first, self._primary_routes, route, tried, now)
        if peer is not None:
            self._primary_balancer.bound(peer, key, tried, now)
        else:
            peer = self._primary_balancer.pick(key, tried, now)
            if peer is None and self._tiers:
                peer = self._pick_behind(route, tried, now, key)
        if peer is None:
            peer = self._bound(self._backup, self._backup_routes, route, tried, now)
            if peer is not None:
                self._backup_balancer.bound(peer, key, tried, now)
            else:
                peer = self._backup_balancer.pick(key, tried, now)
                if peer is None:
                    return None
        peer.connections += 1
        peer.requests += 1
        if peer.everywhere is not None:
            peer.everywhere[self._worker] = peer.connections
            if 0 < peer.max_conns < sum(peer.everywhere):
                return self._pick_again(peer, tried, now, key)
        return peer

    def is_crowded(self, tried: Collection[Peer], now: float, route: bytes = b"") -> bool:
        """Whether somebody could have the request who is only full (`max_conns`). One that drains can have those of its
        sessions, by their `route`."""
        return any(
            peer.max_conns and full(peer) and not suspended(peer, now)
            for peer in self.peers
            if peer.up and peer not in tried and (not peer.spec.drain or route == route_of(peer.spec))
        )

    def release(self, peer: Peer, now: float, failed: bool) -> bool:
        """The try at `peer` ended; `failed` as `proxy_next_upstream` counts it (nginx: NGX_PEER_FAILED).

        True when the peer is now out of use for its `fail_timeout`.
        """
        peer.connections -= 1
        if peer.everywhere is not None:
            peer.everywhere[self._worker] = peer.connections
        if self.watches and not peer.gone:
            self._balancer_of(peer).released(peer)
        if self.single:
            if failed:
                peer.failures += 1
            return False
        if not failed:
            if peer.fails:
                rested = 0 < peer.max_fails <= peer.fails
                count_success(peer)
                if rested and not peer.fails and self._slowly:
                    self._start(peer, now)
            return False
        if not self.watches:
            self._balancer_of(peer).settle()
        disabled = count_failure(peer, now)
        if disabled:
            peer.relapsed = peer.relieved > 0 and now - peer.relieved <= peer.fail_timeout
            if self._counted:
                self._table.set_suspended(peer.row, self._worker, int((now + peer.fail_timeout) * 1000))
        if disabled and self._log is not None:
            self._log.warn("upstream server temporarily disabled")
        others = self._table.workers > 1 or self._table.summary(peer.row) != CHECKS_NONE
        if disabled and self._suspect is not None and others:
            self._suspect(peer.key)
        return disabled

    def answered(self, peer: Peer, header: float, last: float, now: float, well: bool) -> None:
        """The answer of `peer` is over: its head came `header` seconds after the request was sent, its last byte `last`
        seconds after it. Not `well`: it failed then, or was a 5xx. For an upstream that `watches`, before `release`."""
        self._balancer_of(peer).answered(peer, header, last, now, well)

    def refresh(self) -> None:
        """Read again from the zone who belongs here and who is up. `pick` calls it when the zone's generation has
        changed; only what did change is read."""
        # Before the rows: what changes while they are read comes with another generation.
        self._generation = self._words[GENERATION]
        self._seen, entries = self._table.changed_since(self._seen)
        if entries is None:
            rows = self._roster.refresh()
        elif any(entry < 0 for entry in entries):
            rows = self._roster.refresh([-1 - entry for entry in entries if entry < 0])
        else:
            rows = []
        changed = bool(rows)
        if rows:
            self._muster(rows)
        by_row = self._by_row
        known = self.peers if entries is None else [by_row[row] for row in entries if row in by_row]
        if self._read(known):
            changed = True
        if self.spec.all_down != FAIL and (changed or known):
            self._choose(changed)
        elif changed:
            self._rebuild()

    def _read(self, peers: Sequence[Peer]) -> bool:
        """Read how the zone sees `peers`, and do what follows for each; whether one of them turned up or down."""
        words = self._words
        changed = False
        for peer in peers:
            at = peer.at
            admin = words[at + PEER_ADMIN]
            if self._local:
                admin = self._local_admin(peer, admin)
            summary = words[at + PEER_CHECKS]
            up = may_serve(admin & 3, summary, peer.spec.down)
            if up != peer.healthy:
                peer.up = peer.healthy = up
                changed = True
                if up and summary == CHECKS_UP:
                    self._forget(peer)
            cleared = words[at + PEER_CLEARED]
            if cleared != peer.cleared:
                peer.cleared = cleared
                if not 0 < peer.max_fails <= peer.fails:
                    self._forget(peer)
                elif not peer.relapsed:
                    peer.relieved = cleared / 1000
                    if self._slowly:
                        self._start(peer, peer.relieved)
                    self._forget(peer)
            if self._table.workers > 1 and peer.max_fails > 0 and not self.single:
                self._heed_others(peer)
            if self._slowly and words[at + PEER_STARTED] / 1000 > peer.started:
                self._start(peer, words[at + PEER_STARTED] / 1000)
        return changed

    def _muster(self, rows: Collection[int]) -> None:
        """Have the peers of `rows` as the roster has them now. One that stays is the same object, whatever changed of
        it. The caller rebuilds the balancers."""
        by_row = self._by_row
        joining: list[tuple[int, int, Member]] = []
        changing: list[tuple[Peer, Member]] = []
        parted: list[Peer] = []
        for row in rows:
            member, peer = self._roster.get(row), by_row.get(row)
            if peer is not None and (member is None or peer.key != member.key):
                self._part(peer)
                del by_row[row]
                parted.append(peer)
                peer = None
            if member is None:
                continue
            if peer is None:
                joining.append((member.joined, row, member))
            else:
                changing.append((peer, member))
        changed = [peer for peer, _ in changing]
        if changed and not self.watches:
            for balancer in self._balancers():
                balancer.set_aside(changed)
        for peer, member in changing:
            self._note(peer.spec, -1)
            peer.change(member.spec, member.serial)
            self._note(peer.spec, 1)
            if self._counted:
                self._share(peer)
        joined = [self._join(member) for _, _, member in sorted(joining)]
        for peer in joined:
            by_row[peer.row] = peer
        # New objects even if nobody joined or left: balancers keep what they made of the last ones.
        self.peers = (*_without(self.peers, parted), *joined)
        for backup in (False, True):
            mine = [peer for peer in joined if peer.spec.backup is backup]
            others = [peer for peer in parted if peer.spec.backup is backup]
            if backup:
                self._backup = _with(self._backup, mine, others)
            else:
                self._primary = _with(self._primary, mine, others)
        single = self.single
        self.single = len(self.peers) == 1 and not self._backup
        if self.single and not single:
            self._forget(self.peers[0])  # it may be out of use since there were others
        slowly = self._slow_starts > 0 and not self.single
        if slowly != self._slowly:
            self._slowly = slowly
            if self.spec.method.name == "round_robin":
                for balancer in self._balancers():
                    balancer.settle()
                self._primary_balancer = self._balancer()
                self._backup_balancer = self._balancer()
                self._tiers = {}
        self._read([*joined, *changed])

    def _balancer(self) -> Balancer:
        method = self.spec.method
        if self._slowly and method.name == "round_robin":
            return SlowStart(method, self._chance)
        return BALANCERS[method.name](method, self._chance)

    def _note(self, spec: PeerSpec, count: int) -> None:
        """`count` more peers of this kind belong here."""
        self.tries += 0 if spec.down or spec.drain else count
        self._slow_starts += count if spec.slow_start else 0
        if not spec.backup:
            self._by_tier[spec.tier] = self._by_tier.get(spec.tier, 0) + count
            if not self._by_tier[spec.tier]:
                del self._by_tier[spec.tier]

    def _join(self, member: Member) -> Peer:
        table = self._table
        peer = Peer(member.spec, 0, member.row, member.key, member.serial)
        peer.at = table.layout.row(member.row)
        peer.cleared = table.cleared(member.row)
        self._note(member.spec, 1)
        if self._counted:
            table.hold(member.row, self._worker, member.serial)
            self._share(peer)
        return peer

    def _share(self, peer: Peer) -> None:
        """Have other workers see what is under way at the peer, where it decides who gets a request."""
        if self._table.workers > 1 and (peer.max_conns or self.spec.method.compares):
            peer.everywhere = self._table.everywhere(peer.row)
            peer.everywhere[self._worker] = peer.connections
        else:
            peer.everywhere = None

    def _part(self, peer: Peer) -> None:
        self._note(peer.spec, -1)
        peer.gone = True
        peer.up = peer.healthy = False
        self._local.pop(peer, None)
        self._leaving.append(peer)
        if self.on_leave is not None:
            self.on_leave(peer)

    def set_local_down(self, backup: bool, number: int, value: bool) -> None:
        """Let this worker see its own `set_peer_down` at once, until the zone has it (or a later one) too.

        `number` is the peer's id within its role. Raises IndexError for an id that is not there.
        """
        peers = self._backup if backup else self._primary
        if not 0 <= number < len(peers):
            raise IndexError(number)
        peer = peers[number]
        self._local[peer] = (self._table.admin(peer.row), ADMIN_DOWN if value else ADMIN_UP)
        self._bring_up_to_date()
        changed = self._read((peer,))
        if self.spec.all_down != FAIL:
            self._choose(changed)
        elif changed:
            self._rebuild()

    def publish(self) -> None:
        """Write this worker's counters into the zone. Meant for once a second, not for each request.

        Raises IndexError when the zone was made for fewer workers.
        """
        if self._words[GENERATION] != self._generation:
            self.refresh()
        for peer in self._leaving:
            # Its row may be somebody else's as soon as no worker holds it.
            if not peer.connections and self._counted:
                self._table.let_go(peer.row, self._worker)
        self._leaving = [peer for peer in self._leaving if peer.connections]
        for peer in (*self.peers, *self._leaving):
            one_xx, two_xx, three_xx, four_xx, five_xx = peer.responses
            counts = Counts(
                peer.connections,
                peer.requests,
                peer.failures,
                (one_xx, two_xx, three_xx, four_xx, five_xx),
                peer.sent,
                peer.received,
            )
            self._table.set_counts(peer.row, self._worker, counts)

    def _pick_behind(self, route: bytes, tried: Collection[Peer], now: float, key: bytes | None) -> Peer | None:
        """A peer of the tiers that are not in use, where those in use have none that could have the request; in each
        the one that a session is bound to by its `route`, before others."""
        for tier, balancer in self._tiers.items():
            if route:
                peer = self._bound(self._behind[tier], self._behind_routes[tier], route, tried, now)
                if peer is not None:
                    balancer.bound(peer, key, tried, now)
                    return peer
            peer = balancer.pick(key, tried, now)
            if peer is not None:
                return peer
        return None

    def _balancer_of(self, peer: Peer) -> Balancer:
        """Whose choice the peer is."""
        if peer.spec.backup:
            return self._backup_balancer
        if self._tiers:
            return self._tiers.get(peer.spec.tier, self._primary_balancer)
        return self._primary_balancer

    def _balancers(self) -> list[Balancer]:
        return [self._primary_balancer, *self._tiers.values(), self._backup_balancer]

    def _bound(
        self, peers: Sequence[Peer], routes: Routes, route: bytes, tried: Collection[Peer], now: float
    ) -> Peer | None:
        """The one of `peers` that is called `route`, if it may get the request."""
        peer = routes.find(peers, route)
        if peer is None or peer in tried or not peer.up or unfit(peer, now):
            return None
        return peer

    def _pick_again(self, peer: Peer, tried: Collection[Peer], now: float, key: bytes | None) -> Peer | None:
        """Another worker took the last of the `max_conns` of `peer` at the same moment: both give it back."""
        peer.requests -= 1
        peer.connections -= 1
        if peer.everywhere is not None:
            peer.everywhere[self._worker] = peer.connections
        if self.watches:
            self._balancer_of(peer).released(peer)
        return self.pick(tried, now, key)

    def _forget(self, peer: Peer) -> None:
        """What requests held against the peer is over before its time."""
        if peer.fails and self._counted:
            self._table.set_suspended(peer.row, self._worker, 0)
        forgotten(peer)

    def _heed_others(self, peer: Peer) -> None:
        """A peer that requests of another worker found at fault is at fault here too (nginx, where there is a zone)."""
        until = self._table.suspended_until(peer.row)
        begun = until / 1000 - peer.fail_timeout
        # One millisecond: the same one again, as rounding has it.
        if begun <= peer.checked + 0.001 or begun <= peer.cleared / 1000:
            return  # its worker has not heard yet that checks ended it
        if peer.fails < peer.max_fails:
            peer.fails = peer.max_fails
        peer.relapsed = peer.relieved > 0 and begun - peer.relieved <= peer.fail_timeout
        peer.accessed = peer.checked = begun
        balancer = self._balancer_of(peer)
        balancer.settle()
        if isinstance(balancer, Least):
            balancer.unsettle(peer)
        if self._counted:
            self._table.set_suspended(peer.row, self._worker, until)

    def _start(self, peer: Peer, now: float) -> None:
        """The peer begins anew."""
        peer.started = now
        for balancer in self._balancers():
            if isinstance(balancer, SlowStart):
                balancer.settle()
                balancer.begin(peer)
            elif isinstance(balancer, Least):
                balancer.unsettle(peer)

    def _choose(self, changed: bool) -> None:
        """Decide who may get requests under a policy for when too few are up; `changed`: the balancers have to know
        something in any case."""
        words = self._words
        counted = [
            peer
            for peer in self.peers
            if may_count(
                self._table, peer.row, self._local_admin(peer, words[peer.at + PEER_ADMIN]) & 3, peer.spec.down
            )
        ]
        before = [peer.up for peer in self.peers]
        self.panics = in_force(self.spec, Standing(sum(peer.healthy for peer in self.peers), len(counted)))
        chosen = set(counted) if self.panics else ()
        for peer in self.peers:
            peer.up = peer.healthy or peer in chosen
        if changed or before != [peer.up for peer in self.peers]:
            self._rebuild()

    def _resume_counts(self) -> None:
        """Go on from the counters of the worker that had this number before and died."""
        if not self._counted:
            return
        for peer in self.peers:
            self._table.set_suspended(peer.row, self._worker, 0)
            self._table.everywhere(peer.row)[self._worker] = 0
            counts = self._table.counts(peer.row, self._worker)
            peer.requests = counts.requests
            peer.failures = counts.fails
            peer.responses = list(counts.responses)
            peer.sent = counts.sent
            peer.received = counts.received

    def _local_admin(self, peer: Peer, admin: int) -> int:
        """The operator's word for `peer`, with this worker's own one on top while the zone's has not moved on."""
        local = self._local.get(peer)
        if local is None:
            return admin
        seen, state = local
        if admin == seen:
            return state
        del self._local[peer]
        return admin

    def _bring_up_to_date(self) -> None:
        if self._words[GENERATION] != self._generation:
            self.refresh()
        for balancer in self._balancers():
            balancer.settle()

    def _rebuild(self) -> None:
        if self._tiers or len(self._by_tier) > 1:
            self._rebuild_tiers()
        else:
            self._first = self._primary
        self._primary_balancer.rebuild(self._first, choice(self._first))
        self._backup_balancer.rebuild(self._backup, choice(self._backup))

    def _rebuild_tiers(self) -> None:
        """Have the first balancer choose among the peers of all tiers in use, and others among those of each tier
        behind them: they are asked when nobody of those in use can have a request."""
        last, behind = split(self._primary, self.spec.tier_threshold)
        self._behind = behind
        self._behind_routes = {tier: Routes() for tier in behind}
        before = self._tiers
        for balancer in before.values():
            balancer.rebuild((), ())  # first: what it knows of its peers is written into them
        self._tiers = {}
        for tier, peers in behind.items():
            balancer = before[tier] if tier in before else self._balancer()
            balancer.rebuild(peers, choice(peers))
            self._tiers[tier] = balancer
        first = tuple([peer for peer in self._primary if peer.spec.tier <= last])
        if first != self._first or self._primary is not self._split:
            # Else it must be the same object: balancers keep what they made of it.
            self._first = first
            self._split = self._primary


def _without(peers: tuple[Peer, ...], parted: Sequence[Peer]) -> tuple[Peer, ...]:
    if len(parted) > 1:
        return tuple([peer for peer in peers if not peer.gone])
    for peer in parted:
        at = peers.index(peer)
        return peers[:at] + peers[at + 1 :]
    return peers


def _with(peers: tuple[Peer, ...], joined: Sequence[Peer], parted: Sequence[Peer]) -> tuple[Peer, ...]:
    """A role's peers without those that are gone (`parted`) and with those who joined; their ids."""
    first = len(peers)
    if parted:
        first = min([peer.id for peer in parted])
        peers = _without(peers, parted)
    found = (*peers, *joined)
    for number, peer in enumerate(found[first:], first):
        peer.id = number
    return found


def publish_all(table: PeerTable, worker: int, upstreams: Iterable[Upstream]) -> None:
    """Write what worker `worker` counted into the zone, and that it has heard of all changes so far. `upstreams` are
    all it has. Meant for once a second."""
    seen = table.changes  # before: what comes meanwhile is heard of next time
    for upstream in upstreams:
        upstream.publish()
    table.set_seen(worker, seen)


def forget_others(table: PeerTable, worker: int, upstreams: Iterable[Upstream]) -> None:
    """Worker `worker` begins, with these upstreams: what one before it of the same number counted for peers that have
    left since is over."""
    if not table.members_changed:
        return
    mine = {peer.row for upstream in upstreams for peer in upstream.peers}
    for row in range(table.rows_used):
        if row not in mine and table.holds(row, worker):
            table.let_go(row, worker)
