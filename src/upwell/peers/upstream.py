"""An upstream in one worker: which peer gets the next request, and what a request's end says of its peer.

It knows peers, a balancer for each role and the zone (what the checker and the operator said). It does not know how a
peer is reached, nor what a request is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from upwell.log import ErrorLog
from upwell.peers.balancers import BALANCERS
from upwell.peers.balancers.balancer import Balancer, Chance
from upwell.peers.balancers.slow_start import SlowStart
from upwell.peers.live import Peer
from upwell.peers.panic import FAIL, Standing, in_force, may_count
from upwell.peers.passive import failed as count_failure
from upwell.peers.passive import forgotten
from upwell.peers.passive import passed as count_success
from upwell.peers.peer import Method, UpstreamSpec, peer_keys
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

    `table` must have a row for each peer of `spec` (KeyError otherwise); `worker` is this process's number in the zone.
    With `log`, the warning about a peer that used up `max_fails` is written there; a caller that wants nginx's tail
    with client and request passes none and logs it when `release` returns true. `suspect` is told (upstream, whether it
    is a backup, id) of each such peer that is actively checked, so that it is probed soon. `chance` is for a balancer
    that leaves something to it.
    """

    __slots__ = (
        "_backup",
        "_backup_balancer",
        "_counted",
        "_generation",
        "_local",
        "_log",
        "_places",
        "_primary",
        "_primary_balancer",
        "_slowly",
        "_suspect",
        "_table",
        "_words",
        "_worker",
        "name",
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
        suspect: Callable[[str, bool, int], None] | None = None,
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
        self._local: dict[Peer, tuple[int, int]] = {}
        number = {"primary": 0, "backup": 0}
        peers = []
        for peer_spec, key in zip(spec.peers, peer_keys(spec), strict=True):
            peer = Peer(peer_spec, number[peer_spec.role], table.row(key))
            peer.cleared = table.cleared(peer.row)
            peers.append(peer)
            number[peer_spec.role] += 1
        self.peers = tuple(peers)
        """All peers in configuration order; their `current_weight` is true after `primary` or `backup` was read."""
        self._places = [table.layout.row(peer.row) for peer in peers]
        self._primary = tuple(peer for peer in peers if not peer.spec.backup)
        self._backup = tuple(peer for peer in peers if peer.spec.backup)
        self.single = len(peers) == 1 and not self._backup
        """One peer and no backup: nginx never counts its failures, as there is nobody else to turn to."""
        self.tries = sum(not peer.spec.down for peer in peers)
        """How many peers one request may try at most (nginx: peer.tries); a single peer is tried once."""
        self._slowly = any(peer.slow_start for peer in spec.peers) and not self.single
        balancer: Callable[[Method, Chance], Balancer] = BALANCERS[spec.method.name]
        if self._slowly and spec.method.name == "round_robin":
            balancer = SlowStart
        self._primary_balancer = balancer(spec.method, chance)
        self._backup_balancer = balancer(spec.method, chance)
        self.watches = self._primary_balancer.watches
        """Whether `answered` wants to be told how long answers took."""
        self._resume_counts()
        self.panics = False
        """Whether all peers that count get requests now, whatever their checks say (peers/panic.py)."""
        self._generation = -1
        self.refresh()
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

    def release(self, peer: Peer, now: float, failed: bool) -> bool:
        """The try at `peer` ended; `failed` as `proxy_next_upstream` counts it (nginx: NGX_PEER_FAILED).

        True when the peer is now out of use for its `fail_timeout`.
        """
        peer.connections -= 1
        if peer.everywhere is not None:
            peer.everywhere[self._worker] = peer.connections
        if self.watches:
            (self._backup_balancer if peer.spec.backup else self._primary_balancer).released(peer)
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
            (self._backup_balancer if peer.spec.backup else self._primary_balancer).settle()
        disabled = count_failure(peer, now)
        if disabled:
            peer.relapsed = peer.relieved > 0 and now - peer.relieved <= peer.fail_timeout
            if self._counted:
                self._table.set_suspended(peer.row, self._worker, int((now + peer.fail_timeout) * 1000))
        if disabled and self._log is not None:
            self._log.warn("upstream server temporarily disabled")
        if disabled and self._suspect is not None and self._table.summary(peer.row) != CHECKS_NONE:
            self._suspect(self.name, peer.spec.backup, peer.id)
        return disabled

    def answered(self, peer: Peer, header: float, last: float, now: float, well: bool) -> None:
        """The answer of `peer` is over: its head came `header` seconds after the request was sent, its last byte `last`
        seconds after it. Not `well`: it failed then, or was a 5xx. For an upstream that `watches`, before `release`."""
        (self._backup_balancer if peer.spec.backup else self._primary_balancer).answered(peer, header, last, now, well)

    def refresh(self) -> None:
        """Read again from the zone which peers are up. `pick` calls it when the zone's generation has changed."""
        # Before the rows: what changes while they are read comes with another generation.
        self._generation = self._words[GENERATION]
        table = self._table
        words = self._words
        changed = False
        policy = self.spec.all_down != FAIL
        counted: list[Peer] = []
        for peer, at in zip(self.peers, self._places, strict=True):
            admin = words[at + PEER_ADMIN]
            if self._local:
                admin = self._local_admin(peer, admin)
            summary = words[at + PEER_CHECKS]
            up = may_serve(admin & 3, summary, peer.spec.down)
            if up != peer.healthy:
                peer.healthy = up
                changed = True
                if up and summary == CHECKS_UP:
                    self._forget(peer)
            if policy and may_count(table, peer.row, admin & 3, peer.spec.down):
                counted.append(peer)
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
            if self._slowly and words[at + PEER_STARTED] / 1000 > peer.started:
                self._start(peer, words[at + PEER_STARTED] / 1000)
        if policy:
            self._choose(counted)
        elif changed:
            for peer in self.peers:
                peer.up = peer.healthy
            self._rebuild()

    def set_local_down(self, backup: bool, number: int, value: bool) -> None:
        """Let this worker see its own `set_peer_down` at once, until the zone has it (or a later one) too.

        `number` is the peer's id within its role. Raises IndexError for an id that is not there.
        """
        peers = self._backup if backup else self._primary
        if not 0 <= number < len(peers):
            raise IndexError(number)
        peer = peers[number]
        self._local[peer] = (self._table.admin(peer.row), ADMIN_DOWN if value else ADMIN_UP)
        self.refresh()

    def publish(self) -> None:
        """Write this worker's counters into the zone. Meant for once a second, not for each request.

        Raises IndexError when the zone was made for fewer workers.
        """
        for peer in self.peers:
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

    def _pick_again(self, peer: Peer, tried: Collection[Peer], now: float, key: bytes | None) -> Peer | None:
        """Another worker took the last of the `max_conns` of `peer` at the same moment: both give it back."""
        peer.requests -= 1
        peer.connections -= 1
        if peer.everywhere is not None:
            peer.everywhere[self._worker] = peer.connections
        if self.watches:
            (self._backup_balancer if peer.spec.backup else self._primary_balancer).released(peer)
        return self.pick(tried, now, key)

    def _forget(self, peer: Peer) -> None:
        """What requests held against the peer is over before its time."""
        if peer.fails and self._counted:
            self._table.set_suspended(peer.row, self._worker, 0)
        forgotten(peer)

    def _start(self, peer: Peer, now: float) -> None:
        """The peer begins anew."""
        peer.started = now
        for balancer in (self._primary_balancer, self._backup_balancer):
            balancer.settle()
            if isinstance(balancer, SlowStart):
                balancer.begin(peer)

    def _choose(self, counted: list[Peer]) -> None:
        """Decide who may get requests under a policy for when too few are up; `counted` are those that count."""
        before = [peer.up for peer in self.peers]
        self.panics = in_force(self.spec, Standing(sum(peer.healthy for peer in self.peers), len(counted)))
        chosen = set(counted) if self.panics else ()
        for peer in self.peers:
            peer.up = peer.healthy or peer in chosen
        if before != [peer.up for peer in self.peers]:
            self._rebuild()

    def _resume_counts(self) -> None:
        """Go on from the counters of the worker that had this number before and died."""
        if not self._counted:
            return
        for peer in self.peers:
            self._table.set_suspended(peer.row, self._worker, 0)
            everywhere = self._table.everywhere(peer.row)
            everywhere[self._worker] = 0
            if self._table.workers > 1 and (peer.max_conns or self.spec.method.compares):
                peer.everywhere = everywhere
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
        self._primary_balancer.settle()
        self._backup_balancer.settle()

    def _rebuild(self) -> None:
        self._primary_balancer.rebuild(self._primary, [peer for peer in self._primary if peer.up])
        self._backup_balancer.rebuild(self._backup, [peer for peer in self._backup if peer.up])
