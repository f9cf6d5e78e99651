"""The checker: runs all checks in one thread, on one epoll, and is the only writer of health.

Which target is probed when is its course's business: lua-resty's cycles (`cycle.py`), or the rota of all other checks
(`rota.py`). All that outlives this process (state, streaks, history, published versions) is in the zone, so a successor
continues where it stopped. What is logged is in `events.py`.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import ceil
from random import Random
from typing import TYPE_CHECKING, Final

from upwell.check.course import Course
from upwell.check.crowding import Crowding
from upwell.check.cycle import Cycle
from upwell.check.events import Events
from upwell.check.gate import Gate
from upwell.check.initial import initial
from upwell.check.listener import GRACE, Listener, Turn
from upwell.check.probe import KINDS, Verdict
from upwell.check.probes import AT_ONCE, KIND_NUMBERS, TARGETS
from upwell.check.rota import Rota
from upwell.check.schedule import Schedule
from upwell.check.spec import RESTY, CheckSpec
from upwell.check.target import CONNECTING, LINGERING, MOST_KEPT, RESTING, Loop, NoSocket, Place, Target
from upwell.check.trouble import Trouble
from upwell.check.wholes import Wholes
from upwell.log import DEBUG, ErrorLog
from upwell.pcre import SPENT
from upwell.peers.health import Thresholds, Transition
from upwell.peers.membership import Membership
from upwell.peers.peer import PeerKey, PeerSpec, UpstreamSpec
from upwell.peers.roster import Member
from upwell.zone.layout import (
    ADMIN_DOWN,
    ADMIN_UP,
    CHECK_AT,
    CHECK_HEALTH,
    CHECK_IDENTITY,
    CHECK_RISE,
    CHECK_SINCE,
    CHECKER_HEARTBEAT,
    CHECKER_LATENESS,
    RECENT_MOST,
    RECENT_SHIFT,
    RECORD_FAILED_AT,
    RECORD_KIND,
    RECORD_NEXT,
    RECORD_PERIOD,
    RECORD_TIMED,
    RECORD_WHY,
    TIMES,
)
from upwell.zone.records import LONGEST, note_change, note_failure, note_pass, note_time, note_usual
from upwell.zone.table import CheckState, PeerTable

if TYPE_CHECKING:
    from upwell.check.names import Names

_EVENTS: Final = 1024  # taken from epoll at once
_STARTS: Final = 64  # probes begun in one round at most: a burst delays no answer that is there
_EXPIRIES: Final = 512  # time-outs looked at in one round at most, for the same reason
_OVERS: Final = (
    256  # ends of probes seen to in one round if there are no more at its start: each lets another one begin
)
_LATE: Final = 0.05  # seconds; a checker that is less late than this has no part in a time-out
_PATIENCE: Final = 0.05  # seconds between two looks whether a peer that is due has ended its last answer
_LAG: Final = "the checker was late"
_SPARED: Final = float("inf")
_FAR: Final = 1e9  # seconds, an interval whose microseconds fit into a word however many of them there are
_DEAR: Final = 5.0  # of the time that long matches take, so many times as much is left to all other probes and more
_DEADLINES: Final = 1024.0  # how many different ones there are in a second
_GRACE: Final = 5.0  # seconds after all workers are ready before checks that nobody asked for are forgotten
MOST_AT_ONCE: Final = 8192
"""Probes at once of all checks together, unless the caller has descriptors for fewer."""


class Checker:
    """All checks of all upstreams. `clock` gives seconds and never goes back; its milliseconds go into the zone.

    `checks` are those that the configuration names; workers may send more. `most` bounds the probes at once, but for
    lua-resty's, which bound themselves, `kept` the connections kept between probes. `listeners` are told of
    transitions, and closed with the checker. Starting a checker announces a new epoch in the zone, which makes workers
    send their checks (again). Raises ValueError for a check that cannot be.
    """

    __slots__ = (
        "_clock",
        "_continue",
        "_courses",
        "_crowding",
        "_deadlines",
        "_dear_until",
        "_due",
        "_events",
        "_gate",
        "_gates",
        "_lagged",
        "_left",
        "_listeners",
        "_log",
        "_loop",
        "_membership",
        "_most",
        "_names",
        "_on_row",
        "_own_gates",
        "_pruning",
        "_random",
        "_recalled",
        "_seen",
        "_specs",
        "_table",
        "_trouble",
        "_watchers",
        "_wholes",
    )

    def __init__(
        self,
        table: PeerTable,
        upstreams: Sequence[UpstreamSpec],
        log: ErrorLog,
        clock: Callable[[], float] = time.monotonic,
        checks: Iterable[CheckSpec] = (),
        most: int = MOST_AT_ONCE,
        listeners: Sequence[Listener] = (),
        kept: int = MOST_KEPT,
    ) -> None:
        self._table = table
        self._clock = clock
        self._log = log
        self._events = Events(log)
        self._specs = {spec.name: spec for spec in upstreams}
        self._membership = Membership(table, upstreams)
        self._wholes = Wholes(self._specs, self._membership.members, table, self._events)
        self._courses: dict[int, Course] = {}
        self._gate = Gate(most)
        self._gates = [self._gate]
        self._own_gates: dict[Course, Gate] = {}
        self._most = most  # places in it, while it is not needed; then 0
        self._on_row: dict[int, list[Target]] = {}
        self._due: Schedule[Target | Cycle] = Schedule()
        self._deadlines: Schedule[Target] = Schedule()
        self._continue: deque[tuple[Course, Target]] = deque()
        self._loop = Loop(lambda row: table.counts(row).connections, kept)
        self._watchers: dict[int, Callable[[], object]] = {}
        self._listeners = listeners
        for listener in listeners:
            self.watch(listener.fileno(), listener.tell)
            self._loop.spawns |= listener.spawns
        self._pruning: float | None = None
        self._recalled: list[int] = []  # rows of which a listener knew something, in `add`
        self._trouble = Trouble()
        self._crowding = Crowding()
        self._seen = clock()  # when the last round's waiting was over
        self._left = self._seen  # and when the round was
        self._lagged = 0.0  # how much later than it should this process came to look, in all its rounds
        self._dear_until = 0.0  # how far times are given away to probes whose answers take long to match
        self._random = Random()  # for the spread of times, no secret
        for check in checks:
            self.add(check)
        self._names: Names | None = None
        for name in self._specs:
            self._moved(name)
        table.start_checker(os.getpid())

    def __repr__(self) -> str:
        return f"<Checker {len(self._courses)} checks>"

    # Orders

    def add(self, spec: CheckSpec) -> None:
        """Begin a check, its first probes at once; one that is there already (same identity) is left alone.

        A peer's state and streak are those found in the zone under this identity. A new check of a peer that other
        settings found down begins with it down. Raises ValueError for an unknown upstream or type.
        """
        identity = spec.identity
        if identity in self._courses:
            return
        if spec.upstream not in self._specs:
            raise ValueError(f'no upstream "{spec.upstream}"')
        if spec.type not in TARGETS:
            raise ValueError(f'no check of type "{spec.type}"')
        thresholds = Thresholds(spec.rise, spec.fall)
        roles: tuple[list[Target], list[Target]] = ([], [])
        for member in self._membership.members(spec.upstream):
            target = self._target_of(spec, thresholds, member)
            if target is not None:
                roles[member.spec.backup].append(target)
        course: Course
        if spec.dialect == RESTY:
            course = Cycle(spec, *roles, self, self._due.add, self._clock, self._events, self._table)
        else:
            course = Rota(spec, [*roles[0], *roles[1]], self._timetable, self._random)
        self._courses[identity] = course
        now = self._clock()
        self._take_in(course, course.targets, now)
        course.begin(now)

    def _take_in(self, course: Course, targets: Sequence[Target], now: float) -> None:
        """Targets that are new in `course`."""
        for target in targets:
            self._on_row.setdefault(target.place.row, []).append(target)
        self._bound(course)
        rows = [target.place.row for target in targets]
        if self._summarise(rows, now):
            self._table.publish()
        for row in self._recalled:
            self._table.recalled(row)
        self._recalled.clear()
        self._wholes.watch(course.spec.upstream, rows)

    def _bound(self, course: Course) -> None:
        """Have the targets of `course` pass a gate of their own if they could be too many at once, and all targets that
        of all checks; but for lua-resty's."""
        if course.spec.dialect == RESTY:
            return
        most = course.spec.concurrency or AT_ONCE.get(course.spec.type, 0)
        if 0 < most < len(course.targets):
            own = self._own_gates.get(course)
            if own is None:
                own = self._own_gates[course] = Gate(most)
                self._gates.append(own)
            for target in course.targets:
                self._through(target, own)
        bounded = [
            target for course in self._courses.values() if course.spec.dialect != RESTY for target in course.targets
        ]
        if len(bounded) <= self._most:
            return
        self._most = 0
        for target in bounded:
            self._through(target, self._gate)

    def _through(self, target: Target, gate: Gate) -> None:
        """From now on `target` needs a place of `gate`."""
        target.well = False
        if gate not in target.gates:
            target.gates = (*target.gates, gate)
            if target.probing:
                gate.hold(target)

    def set_down(self, key: PeerKey, value: bool) -> None:
        """An operator switches a peer off, or on again (ngx.upstream.set_peer_down).

        Raises ValueError for a peer that is not there.
        """
        row = self._membership.find(key).row
        if not value and self._table.admin(row) & 3 == ADMIN_DOWN:
            self._table.start(row, int(self._clock() * 1000))
        self._table.set_admin(row, ADMIN_DOWN if value else ADMIN_UP)
        self._table.publish()
        self._wholes.changed(key.upstream)

    def suspect(self, key: PeerKey) -> None:
        """Requests at a peer failed so often that a worker sends it none for a while: have the others know, and probe
        it soon, but for lua-resty's checks. When it passes, the workers forget the failures. Raises ValueError like
        `set_down`.
        """
        now = self._clock()
        self._table.touch(self._membership.find(key).row)
        self._table.publish()
        for target in self._on_row.get(self._membership.find(key).row, ()):
            if target.course.spec.dialect != RESTY:
                target.suspected = now
                target.well = False
                target.course.suspect(target, now)

    # Members

    def members(self, upstream: str) -> tuple[Member, ...]:
        """Who belongs to `upstream` now. Raises ValueError for one that is not there."""
        return self._membership.members(upstream)

    def has_peer(self, key: PeerKey) -> bool:
        """Whether the peer belongs to its upstream now; no upstream of that name has none."""
        roster = self._membership.rosters.get(key.upstream)
        return roster is not None and roster.find(key) is not None

    def add_peer(self, upstream: str, spec: PeerSpec) -> Member:
        """A peer joins `upstream`: it begins in the initial state of its checks, which probe it at once, and slowly if
        it has a `slow_start`. Raises ValueError for an upstream that is not there, or when no more peers can join."""
        now = self._clock()
        row = self._membership.row_for(upstream)
        key = self._membership.key_for(upstream, spec)
        self._table.know(row, key)
        coming = Member(spec, key, row)
        joined: list[tuple[Course, Target]] = []
        for course in self._courses.values():
            if course.spec.upstream == upstream:
                target = self._target_of(course.spec, course.thresholds, coming)
                if target is not None:
                    joined.append((course, target))
        self._table.start(row, int(now * 1000))
        self._summarise((row,), now)
        # Last: from here on workers may see it.
        member = self._membership.join(key, spec, row)
        for course, target in joined:
            course.join(target, spec.backup, now)
            self._take_in(course, (target,), now)
        self._wholes.changed(upstream)
        self._table.publish()
        self._moved(upstream)
        return member

    def remove_peer(self, key: PeerKey) -> None:
        """A peer leaves its upstream: no new request gets to it, and nothing is probed there any more. Raises
        ValueError for one that is not there."""
        member = self._membership.leave(key)
        self._wholes.left(key.upstream, member.row)
        for target in self._on_row.pop(member.row, ()):
            target.gone = True
            target.at = -1.0
            target.close()
            target.course.leave(target)
            self._continue.append((target.course, target))
        self._table.publish()
        self._moved(key.upstream)

    def change_peer(self, key: PeerKey, **fields: object) -> Member:
        """A peer that stays gets other settings: fields of PeerSpec, but for its name, address and role. Raises
        ValueError for one that is not there, and for what cannot be."""
        before = self._membership.find(key)
        member = self._membership.change(key, **fields)
        if member.spec.down != before.spec.down:
            for course in self._courses.values():
                self._recheck(course, member)
        self._wholes.changed(key.upstream)
        self._table.publish()
        self._moved(key.upstream)
        return member

    def _moved(self, upstream: str) -> None:
        for listener in self._listeners:
            listener.moved(upstream, self._membership.members(upstream))

    def _recheck(self, course: Course, member: Member) -> None:
        """A peer's `down` is changed: checks that leave such ones alone begin or end to probe it."""
        if course.spec.upstream != member.key.upstream or course.spec.revives_down:
            return
        now = self._clock()
        if not member.spec.down:
            target = self._target_of(course.spec, course.thresholds, member)
            if target is not None:
                course.join(target, member.spec.backup, now)
                self._take_in(course, (target,), now)
            return
        targets = self._on_row.get(member.row, [])
        for target in [target for target in targets if target.course is course]:
            targets.remove(target)
            target.gone = True
            target.at = -1.0
            target.close()
            course.leave(target)
            self._table.words[target.place.at + CHECK_IDENTITY] = 0
            self._summarise((member.row,), now)
            self._continue.append((course, target))

    # The loop

    def fileno(self) -> int:
        """A descriptor that is readable when `step(0)` has something to do (but for what is only due by time)."""
        return self._loop.epoll.fileno()

    def next_due(self) -> float | None:
        """The time by `clock` at which `step` must be called even if nothing is readable; None: never."""
        if self._continue:
            return self._clock()
        dues = [due for due in (self._due.next_due(), self._deadlines.next_due()) if due is not None]
        if self._names is not None:
            due = self._names.next_due()
            if due is not None:
                dues.append(due)
        return min(dues, default=None)

    def name(self, names: Names) -> None:
        """Have peers that are known by name looked up."""
        self._names = names
        self.watch(names.fileno(), names.ready)

    def watch(self, fd: int, callback: Callable[[], object]) -> None:
        """Have `callback` called from `step` whenever `fd` is readable."""
        self._watchers[fd] = callback
        self._loop.epoll.register(fd, 1)

    def step(self, max_wait: float) -> None:
        """One round: wait for sockets at most `max_wait` seconds, then run what is ready and what is due."""
        began = self._clock()
        due = self.next_due()
        late = self._left - self._seen
        if due is not None:
            max_wait = min(max_wait, max(due - began, 0.0))
            late = max(late, began - due)
        ready = self._loop.epoll.poll(max_wait, _EVENTS)
        now = self._clock()
        late = min(late + max(now - began - max_wait, 0.0), now - self._seen)
        self._seen = now
        if late > _LATE:
            self._lagged += late
            if not ready:
                # A process that was stopped comes back from its waiting without having looked.
                ready = self._loop.epoll.poll(0.0, _EVENTS)
        table = self._table
        words = table.words
        halves = table.halves
        millis = int(now * 1000)
        moment = millis << RECENT_SHIFT
        words[CHECKER_HEARTBEAT] = millis
        targets = self._loop.targets
        SPENT.seconds = 0.0
        for fd, events in ready:
            target = targets.get(fd)
            if target is not None:
                # One target's trouble is its own: whatever a probe raises says that the probe failed.
                try:
                    verdict = target.ready(fd, events, now)
                except NoSocket as error:
                    self._no_verdict(target, f"failed to {error.doing}: {error.word}", now)
                    self._continue.append((target.course, target))
                    continue
                except Exception as raised:
                    verdict = target.broken(raised, now)
                if SPENT.seconds:
                    self._space(target, now)
                if verdict is None:
                    continue
                following = target.at
                if target.well and verdict.passed and following > now:
                    place = target.place
                    elapsed = int((now - target.started) * 1e6)
                    if verdict.status == place.status and elapsed <= LONGEST:
                        target.due = following
                        turn = place.turn
                        count = place.recent + 1
                        note_usual(words, halves, place.at, place.record, moment + count, turn, elapsed)
                        place.turn = turn + 1
                        place.recent = count
                        if count == RECENT_MOST or turn == TIMES - 1:
                            self._settle(target)
                        continue
                self._observe(target, verdict, now)
                self._continue.append((target.course, target))
            elif fd in self._watchers:
                self._watchers[fd]()
        if len(ready) < _EVENTS:
            # Else answers are still waiting to be read, and a time-out would be unjust.
            self._expire(now)
        self._begin(now)
        for _ in range(max(len(self._continue), _OVERS)):
            if not self._continue:
                break
            course, target = self._continue.popleft()
            self._over(course, target, now)
        if self._names is not None:
            due = self._names.next_due()
            if due is not None and due <= self._clock():
                self._names.step()
        self._wholes.settle(now)
        for said in self._trouble.settle(now):
            self._events.trouble(said)
        if now >= self._crowding.due:
            self._look_at_queues(now)
        if self._pruning is None or now >= self._pruning:
            self._prune(now)
        self._left = self._clock()

    def close(self) -> None:
        """Close all sockets, and end all commands. What is in the zone stays for the successor."""
        for course in self._courses.values():
            for target in course.targets:
                target.close()
        deadline = time.monotonic() + GRACE
        while self._loop.targets and time.monotonic() < deadline:
            for fd, events in self._loop.epoll.poll(_LATE):
                dying = self._loop.targets.get(fd)
                if dying is not None:
                    dying.ready(fd, events, self._clock())
        self._loop.epoll.close()
        if self._names is not None:
            self._names.close()
        deadline = time.monotonic() + GRACE
        for listener in self._listeners:
            listener.end(deadline)
        for listener in self._listeners:
            listener.close()

    # Courses

    def _space(self, target: Target, now: float) -> None:
        """The peer's answer took long to match (a peer can see to it that it does): it is probed in its turn among all
        such peers, so that they have a bounded part of this processor together, however many they are."""
        if not target.not_before:
            self._events.dear(target.name, SPENT.seconds)
        self._dear_until = max(self._dear_until, now) + SPENT.seconds * _DEAR
        SPENT.seconds = 0.0
        target.not_before = self._dear_until
        target.well = False

    def _timetable(self, due: float, target: Target) -> None:
        if due < target.not_before:
            target.due = due = target.not_before
        if target.place.recent:
            self._settle(target)
        self._table.words[target.place.record + RECORD_NEXT] = int(due * 1000)
        if due != target.at:
            target.at = due
            self._due.add(due, target)

    def _hear_resting(self, now: float) -> None:
        """What came over a resting connection while others were read from answers nothing, least of all what is asked
        there next. The others' turn comes."""
        targets = self._loop.targets
        for fd, events in self._loop.epoll.poll(0.0, _EVENTS):
            target = targets.get(fd)
            if target is not None and target.stage == RESTING:
                try:
                    target.ready(fd, events, now)
                except Exception:
                    target.close()

    def _begin(self, now: float) -> None:
        words = self._table.words
        room = _STARTS
        while room > 0:
            batch = self._due.take(now, room)
            if batch is None:
                return
            due, items = batch
            room -= len(items)
            if self._loop.kept:
                self._hear_resting(now)
            began = now
            course: Course | None = None
            following = 0.0
            again: list[Target | Cycle] = []
            deadlines: list[Target] = []
            for what in items:
                if isinstance(what, Cycle):
                    what.run()
                    continue
                target: Target = what
                if target.at != due:
                    continue
                if target.course is not course:
                    # All of one check that are due together will be due again and run out of time together.
                    course = target.course
                    began = self._clock()
                    following = course.following(due)
                    if following <= now:
                        following = 0.0
                    else:
                        again = self._due.at(following)
                    deadlines = self._deadlines.at(_deadline(began + target.timeout))
                target.at = 0.0
                if target.waiting or target.stage >= CONNECTING:
                    continue
                if target.stage == LINGERING and target.hears(now):
                    # To close a connection on a peer that is still sending would be a reset.
                    target.at = _deadline(min(now + _PATIENCE, target.deadline))
                    self._due.add(target.at, target)
                    continue
                if target.gates:
                    if self._admit(target):
                        self._launch(target)
                        began = target.started
                    continue
                began = self._clock()
                target.lagged = self._lagged
                try:
                    verdict = target.start(began)
                except NoSocket as error:
                    self._no_verdict(target, f"failed to {error.doing}: {error.word}", began)
                    self._continue.append((course, target))
                    continue
                except Exception as raised:
                    verdict = target.broken(raised, began)
                    if verdict is None:
                        self._not_begun(target, raised, began)
                        self._continue.append((course, target))
                        continue
                if verdict is not None:
                    self._observe(target, verdict, began)
                    self._continue.append((course, target))
                    continue
                if not target.queued:
                    target.queued = True
                    deadlines.append(target)
                if following:
                    target.at = following
                    again.append(target)
            words[CHECKER_LATENESS] = int(max(began - due, self._crowding.wait) * 1e6)

    def _admit(self, target: Target) -> bool:
        for gate in target.gates:
            if not gate.enter(target):
                target.waiting = True
                return False
        target.waiting = False
        return True

    def _look_at_queues(self, now: float) -> None:
        for words in self._crowding.settle(self._gates, now):
            self._events.crowded(words)
        if self._crowding.wait:
            # Where all wait none begins, and says how late it is.
            late = int(self._crowding.wait * 1e6)
            self._table.words[CHECKER_LATENESS] = max(self._table.words[CHECKER_LATENESS], late)

    def _launch(self, target: Target) -> None:
        if target.gone or not self.start(target):
            self._continue.append((target.course, target))

    def _over(self, course: Course, target: Target, now: float) -> None:
        for gate in reversed(target.gates):
            following = gate.leave(target)
            if following is not None and self._admit(following):
                self._launch(following)
        if target.gone:
            course.left(target)
            return
        course.over(target, self._table.words[target.place.at + CHECK_HEALTH], now)

    # Probes

    def start(self, target: Target) -> bool:
        """Begin one probe; false when it is already over."""
        now = self._clock()
        target.lagged = self._lagged
        try:
            verdict = target.start(now)
        except NoSocket as error:
            self._no_verdict(target, f"failed to {error.doing}: {error.word}", now)
            return False
        except Exception as raised:
            verdict = target.broken(raised, now)
            if verdict is None:
                self._not_begun(target, raised, now)
                return False
        if verdict is not None:
            self._observe(target, verdict, now)
            return False
        if not target.queued:
            self._queue(target)
        return True

    def _queue(self, target: Target) -> None:
        # One entry for a target, however often its deadline moves: an early one is put back when it comes up. Many have
        # one time, if a little late: fewer times are faster to keep in order.
        target.queued = True
        self._deadlines.add(_deadline(target.deadline), target)

    def _expire(self, now: float) -> None:
        room = _EXPIRIES
        while room > 0:
            batch = self._deadlines.take(now, room)
            if batch is None:
                return
            room -= len(batch[1])
            self._expire_all(batch[1], now)

    def _expire_all(self, targets: Sequence[Target], now: float) -> None:
        for target in targets:
            target.queued = False
            if target.stage < LINGERING:
                continue
            late = now - target.deadline
            if late < 0:
                self._queue(target)
                continue
            if target.probing and late > max(target.timeout, _LATE):
                # Not again at once: that would be a flood as long as the lag lasts. Its course comes back to it.
                target.close()
                self._no_verdict(target, _LAG, now, late)
                self._events.void(target.name, late)
                self._continue.append((target.course, target))
                continue
            if target.probing and self._lagged > target.lagged:
                # What the peer did in time this process neither saw nor answered: the peer gets that time again, once.
                target.deadline = now + min(self._lagged - target.lagged, target.timeout)
                target.lagged = _SPARED
                self._queue(target)
                continue
            try:
                verdict = target.expire(now)
            except NoSocket as error:
                self._no_verdict(target, f"failed to {error.doing}: {error.word}", now)
                self._continue.append((target.course, target))
                continue
            if verdict is not None:
                self._observe(target, verdict, now)
                self._continue.append((target.course, target))
            elif target.probing:
                self._queue(target)  # it has more time

    def _not_begun(self, target: Target, raised: Exception, now: float) -> None:
        """Something went wrong before the peer was asked anything. It is asked again in its time."""
        self._no_verdict(target, f"failed to begin a probe: {str(raised).lower() or type(raised).__name__}", now)

    def _no_verdict(self, target: Target, why: str, now: float, late: float = 0.0) -> None:
        """A probe is over without a verdict, for trouble of this machine's own."""
        self._table.note_void(int(now * 1000), why, target.place.record)
        if self._trouble.met(why, now):
            if late:
                self._events.late(late)
            else:
                self._events.trouble(why)

    def _settle(self, target: Target) -> None:
        """Write out what was noted in short."""
        place = target.place
        self._table.settle(place.at, place.record)
        self._table.words[place.record + RECORD_NEXT] = int(target.due * 1000)
        place.recent = 0
        place.turn %= TIMES

    def _observe(self, target: Target, verdict: Verdict, now: float) -> None:
        """Count one verdict. The zone comes first, so that workers know before the log does."""
        table = self._table
        words = table.words
        course = target.course
        thresholds = course.thresholds
        at, record = target.place.at, target.place.record
        if target.place.recent:
            self._settle(target)
        before = words[at + CHECK_HEALTH]
        passed = verdict.passed
        millis = int(now * 1000)
        elapsed = int((now - target.started) * 1e6)
        if passed and before == thresholds.top and not target.suspected:
            # Nothing new.
            table.set_check(at, before, millis, verdict.status, elapsed, True)
            target.slow = False
            note_pass(words, record)
            note_time(words, table.halves, record, elapsed)
            if self._log.level >= DEBUG:
                self._events.passed(target.name)
            else:
                target.well = not target.gates and not target.not_before
                target.place.status = verdict.status
                target.place.turn = words[record + RECORD_TIMED] % TIMES
            return
        target.well = False
        health, transition = thresholds.observe(before, passed)
        # The first verdict tells more than the initial state does, even if it does not change it (peers/panic.py).
        publish = not words[at + CHECK_AT] and not thresholds.is_up(health)
        table.set_check(at, health, millis, verdict.status, elapsed, passed)
        target.slow = verdict.kind == "timeout"
        why = 0
        if passed:
            note_pass(words, record)
        else:
            why = table.keep(verdict.why)
            note_failure(words, record, KIND_NUMBERS.get(verdict.kind, _OTHER), why, millis)
        if passed or verdict.status:
            # How long a refusal took says nothing about how fast the peer answers.
            note_time(words, table.halves, record, elapsed)
        since = 0
        if transition is not None:
            course.changed = True
            since = words[at + CHECK_SINCE]
            words[at + CHECK_SINCE] = millis
            note_change(words, record, millis, transition is Transition.UP, why)
            if table.summarise(target.place.row, millis):
                publish = True
                self._wholes.turned(course.spec.upstream, target.place.row, verdict.why, course.period, now)
        elif publish:
            table.touch(target.place.row)
            self._wholes.changed(course.spec.upstream)
        if passed and target.suspected and target.started >= target.suspected:
            target.suspected = 0.0
            # One check has no say for the others, and a pass from before the requests failed none at all.
            if not any(other.suspected for other in self._on_row[target.place.row]):
                table.clear(target.place.row, millis)
                publish = True
        if publish:
            table.publish()
        if not passed:
            self._events.failed(course.spec, target.name, verdict, was_up=thresholds.is_up(before))
        elif self._log.level >= DEBUG:
            self._events.passed(target.name)
        if transition is not None:
            up = transition is Transition.UP
            self._events.turned(course.spec, thresholds, target.name, up, verdict)
            if self._listeners:
                key, identity = table.keys[target.place.row], words[at + CHECK_IDENTITY]
                turn = Turn(key, course.spec, identity, up, verdict.kind, verdict.why, millis, since)
                for listener in self._listeners:
                    listener.turned(turn)

    # The zone

    def _target_of(self, spec: CheckSpec, thresholds: Thresholds, member: Member) -> Target | None:
        """The target of one peer, unless the check leaves it alone or there is no slot for it (which is logged)."""
        if member.spec.down and not spec.revives_down:
            return None
        try:
            return self._target(spec, spec.identity, thresholds, member.spec, member.key, member.row)
        except LookupError as error:
            self._events.refused(f"peer {member.spec.name} is not checked: {error.args[0]}")
            return None

    def _target(
        self, spec: CheckSpec, identity: int, thresholds: Thresholds, peer: PeerSpec, key: PeerKey, row: int
    ) -> Target:
        """The target of one peer, its slot in the zone found or taken. Raises LookupError without a free slot."""
        table = self._table
        slot = table.find_check(row, identity)
        known: list[CheckState] = []
        if slot < 0:
            known = [state for state in table.checks(row) if state.identity not in self._courses]
            slot = table.add_check(row, identity, thresholds.rise, initial(spec, thresholds, peer, known))
        elif table.check(row, slot).rise != thresholds.rise or table.check(row, slot).health > thresholds.top:
            # The check asks for other numbers since the reload: its state stays, its streak begins anew.
            up = table.check(row, slot).up
            at = table.layout.check(row, slot)
            table.words[at + CHECK_RISE] = thresholds.rise
            table.words[at + CHECK_HEALTH] = thresholds.initial(up)
        if self._listeners:
            state = table.check(row, slot)
            if not (known or state.at or state.since):
                self._recall(spec, key, thresholds, row, slot)
            self._begun(spec, key, row, slot)
        place = Place(row, table.layout.check(row, slot), table.record_at(row, slot))
        table.settle(place.at, place.record)  # what the checker before this one left
        table.words[place.record + RECORD_PERIOD] = round(min(spec.interval, _FAR) * 1e6)
        return TARGETS[spec.type](spec, peer, place, self._loop)

    def _recall(self, spec: CheckSpec, key: PeerKey, thresholds: Thresholds, row: int, slot: int) -> None:
        """Begin a check, whose slot is new, as a listener knows it from before."""
        words = self._table.words
        identity = self._table.check(row, slot).identity
        at = self._table.layout.check(row, slot)
        for listener in self._listeners:
            found = listener.recall(key, identity)
            # "checking" promises that no peer is used before it has passed, whatever was long ago; unless a pass from
            # then shall do ("persistent").
            if found is None or (found.up and spec.initial == "checking" and not spec.persistent):
                continue
            self._recalled.append(self._table.row(key))
            since = int((self._clock() - found.age) * 1000) or 1
            words[at + CHECK_HEALTH] = thresholds.initial(found.up)
            words[at + CHECK_SINCE] = since
            if not found.up:
                record = self._table.record_at(row, slot)
                words[record + RECORD_KIND] = 1 + KIND_NUMBERS.get(found.kind, _OTHER)
                words[record + RECORD_WHY] = self._table.keep(found.why)
                words[record + RECORD_FAILED_AT] = since

    def _begun(self, spec: CheckSpec, key: PeerKey, row: int, slot: int) -> None:
        """Tell the listeners how a check stands that has turned at some time: its last checker may not have."""
        state = self._table.check(row, slot)
        if not state.since:
            return
        record = self._table.record(row, slot)
        kind = "" if state.up or record.kind < 0 else KINDS[record.kind]
        turn = Turn(key, spec, state.identity, state.up, kind, "" if state.up else record.why, state.since, 0)
        for listener in self._listeners:
            listener.begun(turn, self._clock() - state.since / 1000)

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
                if state.identity not in self._courses:
                    self._table.drop_check(row, state.slot)
                    changed.append(row)
        for listener in self._listeners:
            listener.settle(self._courses.keys())
        if self._summarise(changed, now):
            self._table.publish()
        for row in changed:
            self._wholes.pruned(self._table.keys[row][0], row)


def _deadline(time: float) -> float:
    return ceil(time * _DEADLINES) / _DEADLINES


_OTHER: Final = KIND_NUMBERS["other"]
