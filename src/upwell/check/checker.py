"""The checker: runs the cycles of all checks in one thread, on one epoll, and is the only writer of health.

A cycle is lua-resty's (v0.08): the primaries in `concurrency` slices, then the backups; the next one begins `interval`
after the end of the last. All that outlives this process (state, streaks, published versions) is in the zone, so a
successor continues where it stopped. What is logged is in `events.py`, what is due when in `schedule.py`.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from select import epoll

from upwell.check.events import Events
from upwell.check.probes import PROBES
from upwell.check.probes.probe import Verdict
from upwell.check.schedule import Schedule, slice_words, slices
from upwell.check.spec import DEFAULT_TIMEOUT, CheckSpec
from upwell.check.target import NoSocket, Target
from upwell.log import DEBUG, ErrorLog
from upwell.peers.health import Thresholds, Transition
from upwell.peers.peer import PeerKey, PeerSpec, UpstreamSpec, peer_keys
from upwell.zone.layout import (
    ADMIN_DOWN,
    ADMIN_UP,
    CHECK_HEALTH,
    CHECK_SINCE,
    CHECKER_HEARTBEAT,
    CHECKER_LATENESS,
)
from upwell.zone.table import PeerTable

_EVENTS = 1024  # taken from epoll at once
_LATE = 0.05  # seconds; a checker that is less late than this has no part in a time-out
_GRACE = 5.0  # seconds after all workers are ready before checks that nobody asked for are forgotten


class Slice:
    """Some targets of one role, probed one after the other; `words` is lua-resty's debug line for its start."""

    __slots__ = ("at", "targets", "words")

    def __init__(self, targets: Sequence[Target], words: str) -> None:
        self.targets = targets
        self.words = words
        self.at = 0


class Check:
    """One CheckSpec at work: its slices, and where its cycle stands."""

    __slots__ = ("changed", "open", "roles", "spec", "stage", "thresholds", "version")

    def __init__(self, spec: CheckSpec, roles: tuple[list[Slice], list[Slice]]) -> None:
        self.spec = spec
        self.thresholds = Thresholds(spec.rise, spec.fall)
        self.roles = roles  # primaries, backups
        self.stage = 0  # index of the role that is being probed
        self.open = 0  # its slices that are not through
        self.version = 0  # lua-resty's ctx.version: the last peers version known here
        self.changed = False  # lua-resty's ctx.new_version: a peer turned up or down in this cycle

    def __repr__(self) -> str:
        return f"<Check {self.spec.type} of {self.spec.upstream}>"


class Checker:
    """All checks of all upstreams. `clock` gives seconds and never goes back; its milliseconds go into the zone.

    Starting one announces a new checker epoch in the zone, which makes workers send their checks (again).
    """

    __slots__ = (
        "_checks",
        "_clock",
        "_continue",
        "_deadlines",
        "_due",
        "_epoll",
        "_events",
        "_keys",
        "_log",
        "_places",
        "_pruning",
        "_specs",
        "_table",
        "_targets",
        "_watchers",
    )

    def __init__(
        self,
        table: PeerTable,
        upstreams: Sequence[UpstreamSpec],
        log: ErrorLog,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._clock = clock
        self._log = log
        self._events = Events(log)
        self._specs = {spec.name: spec for spec in upstreams}
        self._keys = {spec.name: peer_keys(spec) for spec in upstreams}
        self._checks: dict[int, Check] = {}
        self._due: Schedule[Check] = Schedule()
        self._deadlines: Schedule[Target] = Schedule()
        self._places: dict[Target, tuple[Check, Slice]] = {}
        self._continue: deque[tuple[Check, Slice]] = deque()
        self._epoll = epoll()
        self._targets: dict[int, Target] = {}
        self._watchers: dict[int, Callable[[], object]] = {}
        self._pruning: float | None = None
        table.start_checker(os.getpid())

    def __repr__(self) -> str:
        return f"<Checker {len(self._checks)} checks>"

    # Orders

    def add(self, spec: CheckSpec) -> None:
        """Begin a check, its first cycle at once; one that is there already (same identity) is left alone.

        A peer's state and streak are those found in the zone under this identity. A new check of a peer that other
        settings found down begins with it down. Raises ValueError for an unknown upstream or type.
        """
        identity = spec.identity
        if identity in self._checks:
            return
        upstream = self._specs.get(spec.upstream)
        if upstream is None:
            raise ValueError(f'no upstream "{spec.upstream}"')
        if spec.type not in PROBES:
            raise ValueError(f'no check of type "{spec.type}"')
        thresholds = Thresholds(spec.rise, spec.fall)
        roles: tuple[list[Target], list[Target]] = ([], [])
        for peer, key in zip(upstream.peers, self._keys[spec.upstream], strict=True):
            if peer.down and not spec.revives_down:
                continue
            try:
                target = self._target(spec, identity, thresholds, peer, key)
            except LookupError as error:
                self._events.refused(f"peer {peer.name} is not checked: {error.args[0]}")
                continue
            roles[peer.backup].append(target)
        parts = [_slices(targets, role, spec) for targets, role in zip(roles, ("primary", "backup"), strict=True)]
        check = self._checks[identity] = Check(spec, (parts[0], parts[1]))
        for part in (*parts[0], *parts[1]):
            self._places.update((target, (check, part)) for target in part.targets)
        now = self._clock()
        if self._summarise([target.row for targets in roles for target in targets], now):
            self._table.publish()
        self._due.add(now, check)

    def set_down(self, upstream: str, backup: bool, index: int, value: bool) -> None:
        """An operator switches a peer off, or on again (ngx.upstream.set_peer_down); `index` counts within its role.

        Raises ValueError for a peer that is not there.
        """
        role = "backup" if backup else "primary"
        keys = [key for key in self._keys.get(upstream, ()) if key.role == role]
        if not 0 <= index < len(keys):
            raise ValueError(f'no {role} peer {index} in upstream "{upstream}"')
        self._table.set_admin(self._table.row(keys[index]), ADMIN_DOWN if value else ADMIN_UP)
        self._table.publish()

    # The loop

    def fileno(self) -> int:
        """A descriptor that is readable when `step(0)` has something to do (but for what is only due by time)."""
        return self._epoll.fileno()

    def next_due(self) -> float | None:
        """The time by `clock` at which `step` must be called even if nothing is readable; None: never."""
        if self._continue:
            return self._clock()
        dues = [due for due in (self._due.next_due(), self._deadlines.next_due()) if due is not None]
        return min(dues, default=None)

    def watch(self, fd: int, callback: Callable[[], object]) -> None:
        """Have `callback` called from `step` whenever `fd` is readable."""
        self._watchers[fd] = callback
        self._epoll.register(fd, 1)

    def step(self, max_wait: float) -> None:
        """One round: wait for sockets at most `max_wait` seconds, then run what is ready and what is due."""
        due = self.next_due()
        if due is not None:
            max_wait = min(max_wait, max(due - self._clock(), 0.0))
        ready = self._epoll.poll(max_wait, _EVENTS)
        now = self._clock()
        self._table.words[CHECKER_HEARTBEAT] = int(now * 1000)
        for fd, events in ready:
            target = self._targets.get(fd)
            if target is not None:
                # One target's trouble is its own: whatever a probe raises says that the probe failed.
                try:
                    verdict = target.ready(events, now)
                except Exception as error:
                    verdict = target.broken(error, now)
                if verdict is not None:
                    self._conclude(target, verdict, now)
            elif fd in self._watchers:
                self._watchers[fd]()
        # Sockets are opened from here on only: a number closed above cannot come back while its events are handled.
        if len(ready) < _EVENTS:
            # Else answers are still waiting to be read, and a time-out would be unjust.
            self._expire(now)
        self._begin(now)
        while self._continue:
            check, part = self._continue.popleft()
            self._advance(check, part)
        if self._pruning is None or now >= self._pruning:
            self._prune(now)

    def close(self) -> None:
        """Close all sockets. What is in the zone stays for the successor."""
        for target in list(self._targets.values()):
            target.close()
        self._epoll.close()

    # Cycles

    def _begin(self, now: float) -> None:
        while (item := self._due.pop(now)) is not None:
            due, check = item
            self._table.words[CHECKER_LATENESS] = int((now - due) * 1e6)
            self._events.cycle()
            published = self._table.upstream_version(check.spec.upstream)
            if check.version < published:
                self._events.upgrading(published)
                check.version = published
            check.stage = -1
            self._next_role(check)

    def _next_role(self, check: Check) -> None:
        check.stage += 1
        if check.stage == len(check.roles):
            self._end(check)
            return
        parts = check.roles[check.stage]
        if not parts:
            self._next_role(check)
            return
        check.open = len(parts)
        for part in parts:
            part.at = 0
            self._events.slice(part.words)
            self._advance(check, part)

    def _advance(self, check: Check, part: Slice) -> None:
        """Probe the next target of a slice, and those after it as long as verdicts come at once."""
        while part.at < len(part.targets):
            target = part.targets[part.at]
            part.at += 1
            if self._start(target, check):
                return
        check.open -= 1
        if check.open == 0:
            self._next_role(check)

    def _end(self, check: Check) -> None:
        if check.changed:
            check.changed = False
            upstream = check.spec.upstream
            self._events.publishing(check.version + 1)
            check.version = self._table.upstream_version(upstream) + 1
            self._table.set_upstream_version(upstream, check.version)
        self._due.add(self._clock() + check.spec.interval, check)

    # Probes

    def _start(self, target: Target, check: Check) -> bool:
        """Begin one probe; false when it is already over."""
        now = self._clock()
        try:
            verdict = target.start(now)
        except NoSocket as error:
            self._events.no_socket(error.word)
            return False
        except Exception as error:
            verdict = target.broken(error, now)
        if verdict is not None:
            self._observe(check, target, verdict, now)
            return False
        if not target.queued:
            self._queue(target)
        return True

    def _queue(self, target: Target) -> None:
        # One entry for a target, however often its deadline moves: an early one is put back when it comes up.
        target.queued = True
        self._deadlines.add(target.deadline, target)

    def _expire(self, now: float) -> None:
        while (item := self._deadlines.pop(now)) is not None:
            target = item[1]
            target.queued = False
            if not target.busy:
                continue
            late = now - target.deadline
            if late < 0:
                self._queue(target)
                continue
            if target.probing and late > max(target.timeout, _LATE):
                # Not again at once: that would be a flood as long as the lag lasts. The next cycle probes it.
                target.close()
                self._events.void(target.name, late)
                self._continue.append(self._places[target])
                continue
            verdict = target.expire(now)
            if verdict is not None:
                self._conclude(target, verdict, now)

    def _conclude(self, target: Target, verdict: Verdict, now: float) -> None:
        place = self._places[target]
        self._observe(place[0], target, verdict, now)
        self._continue.append(place)

    def _observe(self, check: Check, target: Target, verdict: Verdict, now: float) -> None:
        """Count one verdict. The zone comes first, so that workers know before the log does."""
        table = self._table
        thresholds = check.thresholds
        before = table.words[target.at + CHECK_HEALTH]
        health, transition = thresholds.observe(before, verdict.passed)
        millis = int(now * 1000)
        elapsed = int(verdict.elapsed * 1e6)
        table.set_check(target.at, health, millis, verdict.status, elapsed, verdict.passed)
        if transition is not None:
            check.changed = True
            table.words[target.at + CHECK_SINCE] = millis
            if table.summarise(target.row, millis):
                table.publish()
        if not verdict.passed:
            self._events.failed(target.name, verdict.reason, was_up=thresholds.is_up(before))
        elif self._log.level >= DEBUG:
            self._events.passed(target.name)
        if transition is None:
            return
        if transition is Transition.UP:
            self._events.turned_up(target.name, thresholds.rise)
        else:
            self._events.turned_down(target.name, thresholds.fall)

    # The zone

    def _target(self, spec: CheckSpec, identity: int, thresholds: Thresholds, peer: PeerSpec, key: PeerKey) -> Target:
        """The target of one peer, its slot in the zone found or taken. Raises LookupError without a free slot."""
        table = self._table
        row = table.row(key)
        slot = table.find_check(row, identity)
        if slot < 0:
            known = [state for state in table.checks(row) if state.identity not in self._checks]
            up = all(state.up for state in known) if known else not peer.down
            slot = table.add_check(row, identity, thresholds.rise, thresholds.initial(up))
        address = peer.address
        if spec.port and not isinstance(address, str):
            address = (address[0], spec.port)
        probe = PROBES[spec.type](spec, peer.name)
        at = table.layout.check(row, slot)
        timeout = spec.timeout if spec.timeout > 0 else DEFAULT_TIMEOUT
        return Target(peer.name, address, timeout, probe, row, at, self._epoll, self._targets)

    def _summarise(self, rows: Iterable[int], now: float) -> bool:
        millis = int(now * 1000)
        changed = [row for row in rows if self._table.summarise(row, millis)]
        return bool(changed)

    def _prune(self, now: float) -> None:
        """Forget checks that no worker of this generation asked for, some time after all have had their say."""
        if self._pruning is None:
            if self._table.all_ready:
                self._pruning = now + _GRACE
            return
        self._pruning = float("inf")
        changed = []
        for row in range(len(self._table.keys)):
            for state in self._table.checks(row):
                if state.identity not in self._checks:
                    self._table.drop_check(row, state.slot)
                    changed.append(row)
        if self._summarise(changed, now):
            self._table.publish()


def _slices(targets: list[Target], role: str, spec: CheckSpec) -> list[Slice]:
    parts = slices(len(targets), spec.concurrency)
    words = slice_words(parts, role, spec.concurrency)
    return [Slice(targets[part.start : part.stop], line) for part, line in zip(parts, words, strict=True)]
