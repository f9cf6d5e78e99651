"""PeerTable: what the checker knows of each peer and what each worker counted, in memory shared over the fork.

It knows words and rows, not what a peer, a probe or a directive is. There is no lock: every word has one writing
process (`zone/layout.py` names it), a word is read and written whole, and the checker writes GENERATION last, so
whoever sees a new generation also sees what it stands for.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection, Iterable, Sequence
from struct import Struct
from sys import byteorder
from typing import Final, NamedTuple

from upwell.zone.layout import (
    ADMIN_DOWN,
    ADMIN_UP,
    CHANGES,
    CHECK_AT,
    CHECK_FAILS,
    CHECK_HEALTH,
    CHECK_IDENTITY,
    CHECK_LATENCY,
    CHECK_PASSES,
    CHECK_RECENT,
    CHECK_RISE,
    CHECK_SINCE,
    CHECK_STATUS,
    CHECK_WORDS,
    CHECKER_EPOCH,
    CHECKER_HEARTBEAT,
    CHECKER_LATENESS,
    CHECKER_PID,
    CHECKER_VOID_AT,
    CHECKER_VOID_WHY,
    CHECKER_VOIDS,
    CHECKS_DOWN,
    CHECKS_NONE,
    CHECKS_PER_PEER,
    CHECKS_UP,
    CONFIGURATIONS,
    COUNT_CONNECTIONS,
    COUNT_HELD,
    COUNT_REQUESTS,
    COUNT_SUSPENDED,
    COUNT_WORDS,
    GENERATION,
    LAYOUT_VERSION,
    MEMBERS,
    PEER_ADMIN,
    PEER_CHANGES,
    PEER_CHECKS,
    PEER_CLEARED,
    PEER_SERIAL,
    PEER_SINCE,
    PEER_STARTED,
    PEER_TENANT,
    PEER_WORDS,
    RECORD_VOID_AT,
    RECORD_VOID_WHY,
    RECORD_WORDS,
    RING,
    RING_WORDS,
    ROOM_OF_MEMBER,
    ROWS,
    SETTLING,
    SIDE_LENGTH,
    SIDE_OF,
    SIDE_TEXT,
    SIDE_WORDS,
    UPSTREAM_KEPT,
    UPSTREAM_LISTED,
    UPSTREAM_VERSION,
    UPSTREAMS,
    VERSION,
    WORD_BYTES,
    WORKER_HEARTBEAT,
    WORKER_READY,
    WORKER_SEEN,
    WORKERS,
    Layout,
)
from upwell.zone.phrases import Phrases
from upwell.zone.records import Record, read_check, read_record, references, settle

_NOTHING = memoryview(bytes(RECORD_WORDS * WORD_BYTES)).cast("q")
_COUNTS: Final = Struct(f"@{COUNT_WORDS}q")
_COUNT_BYTES: Final = COUNT_WORDS * WORD_BYTES
_COUNTS_ALL: Final = (1 << 8 * _COUNT_BYTES) - 1

_LATEST: Final = 2**63 - 1
_TRIES: Final = 64  # to carry a check over as it was at one moment
_NOBODY: Final = ("", "", "", 0)

RowKey = tuple[str, str, str, int]
"""(upstream, role, name, ordinal): what `peers.peer.PeerKey` is."""


def may_serve(admin: int, summary: int, configured_down: bool) -> bool:
    """Whether a peer may get traffic: not switched off by an operator (`admin`: ADMIN_*), and its checks up (`summary`:
    CHECKS_*) or, without any, not configured `down`, which an operator's "up" lifts."""
    if admin == ADMIN_DOWN:
        return False
    if summary == CHECKS_NONE:
        return not configured_down or admin == ADMIN_UP
    return summary == CHECKS_UP


class CheckState(NamedTuple):
    """One check slot of one peer. `at` and `since` are milliseconds of the checker's clock, `latency` microseconds."""

    slot: int
    identity: int
    rise: int
    health: int
    at: int
    status: int
    latency: int
    passes: int
    fails: int
    since: int

    @property
    def up(self) -> bool:
        return self.health >= self.rise


class Voids(NamedTuple):
    """How many probes got no verdict because something was wrong with the checker's machine; when (milliseconds of the
    checker's clock) and why the last one."""

    probes: int
    at: int
    why: str


class Counts(NamedTuple):
    """What the workers counted for one peer. `responses` are 1xx to 5xx; `sent` and `received` are bytes.
    `suspended` is until when (milliseconds) workers last kept it out of use for failed requests."""

    connections: int
    requests: int
    fails: int
    responses: tuple[int, int, int, int, int]
    sent: int
    received: int
    suspended: tuple[int, ...] = ()


def _unpacked(counted: int) -> tuple[int, ...]:
    return _COUNTS.unpack((counted & _COUNTS_ALL).to_bytes(_COUNT_BYTES, byteorder))


def growth_of(before: int, now: int) -> tuple[int, ...]:
    """By how much the words before COUNT_SUSPENDED grew between two values of `PeerTable.counted`. Those that are less
    (a worker began anew) did not, but for connections, which may be."""
    was, words = _unpacked(before), _unpacked(now)
    connections = words[COUNT_CONNECTIONS] - was[COUNT_CONNECTIONS]
    return (connections, *[max(0, words[at] - was[at]) for at in range(COUNT_REQUESTS, COUNT_SUSPENDED)])


class MemberText(NamedTuple):
    """What a row says of a peer that joined or was changed at run time: `of` is its upstream's name, "" when nobody has
    the row; `text` is peers/roster.py's. `serial` is another one after each change, 0: as the configuration has it."""

    serial: int
    of: str
    text: bytes


class PeerTable:
    """The shared table. Made by the master before the fork; children inherit the mapping.

    `keys` are those of the rows that this process knows, by row: the configuration's, and what it was told of others
    (`know`).

    `words` is the memory itself, for readers on the hot path: `table.words[layout.GENERATION]`.
    """

    __slots__ = (
        "_memory",
        "_row_of",
        "_rows_at_first",
        "_upstream_of",
        "_upstreams",
        "configured",
        "halves",
        "keys",
        "layout",
        "phrases",
        "words",
        "workers",
    )

    def __init__(self, keys: Sequence[RowKey], workers: int, spare: int = 0, upstreams: Sequence[str] = ()) -> None:
        self._row_of = {key: row for row, key in enumerate(keys)}
        if len(self._row_of) != len(keys):
            raise ValueError("two peers with one key")
        self._rows_at_first = self._row_of
        self._upstream_of = {name: at for at, name in enumerate(dict.fromkeys((*upstreams, *(key[0] for key in keys))))}
        self._upstreams = tuple(self._upstream_of)
        self.keys = list(keys)
        self.configured = len(keys)
        """Rows that the configuration gave; those behind them are for peers that join."""
        self.workers = workers
        self.layout = Layout(len(keys) + spare, len(self._upstream_of), workers)
        self._memory = mmap.mmap(-1, self.layout.size * WORD_BYTES)
        self.words = memoryview(self._memory).cast("q")
        self.halves = memoryview(self._memory).cast("I")
        """The same memory in words of four bytes."""
        self.phrases = Phrases()
        self.words[VERSION] = LAYOUT_VERSION
        self.words[ROWS] = len(keys)
        self.words[UPSTREAMS] = len(self._upstream_of)
        self.words[WORKERS] = workers
        self.words[CONFIGURATIONS] = 1

    @classmethod
    def create(cls, keys: Sequence[RowKey], workers: int, spare: int = 0, upstreams: Sequence[str] = ()) -> PeerTable:
        """A table of zeros with one row per key, and `spare` ones. `upstreams` are those that may have no peer yet.
        Raises ValueError when a key comes twice, OSError without memory."""
        return cls(keys, workers, spare, upstreams)

    def __repr__(self) -> str:
        return f"<PeerTable {len(self.keys)} rows, {self.workers} workers>"

    def close(self) -> None:
        """Give the mapping back; nobody in this process may use the table afterwards."""
        self.words.release()
        self.halves.release()
        self._memory.close()
        self.phrases.close()

    # Rows

    def row(self, key: RowKey) -> int:
        """The row of `key`. Raises KeyError for a peer that is not in the table."""
        return self._row_of[key]

    def row_at_first(self, key: RowKey) -> int:
        """The row that the configuration gave to `key`, whoever has it now. Raises KeyError."""
        return self._rows_at_first[key]

    def know(self, row: int, key: RowKey | None) -> None:
        """This process has learned whose row `row` is; None: nobody's any more."""
        if self._row_of is self._rows_at_first:
            self._row_of = dict(self._rows_at_first)
        while len(self.keys) <= row:
            self.keys.append(_NOBODY)
        before = self.keys[row]
        if self._row_of.get(before) == row:
            del self._row_of[before]
        self.keys[row] = key or _NOBODY
        if key is not None:
            self._row_of[key] = row

    def adopt(self, old: PeerTable, now: int = 0) -> None:
        """Carry over what `old` knows, row by row of the same key (a reload). Called by the master before it forks.

        Carried are administrative state, checks and their streaks, what the workers of other generations than the old
        one counted (what its own did is told by `count_elsewhere`), the published version of each upstream and the
        checker's epoch. A peer that is new in an upstream which is not begins at `now` (milliseconds).
        """
        words, layout = self.words, self.layout
        words[CHECKER_EPOCH] = old.words[CHECKER_EPOCH]
        words[GENERATION] = old.words[GENERATION]
        for word in (CHECKER_VOIDS, CHECKER_VOID_AT, CHECKER_VOID_WHY):
            words[word] = old.words[word]
        words[CONFIGURATIONS] = old.words[CONFIGURATIONS] + 1
        self.phrases.adopt(old.phrases)
        carried = PEER_WORDS + CHECKS_PER_PEER * CHECK_WORDS
        for key, row in self._row_of.items():
            old_row = old._row_of.get(key)
            if old_row is None:
                if key[0] in old._upstream_of:
                    words[layout.row(row) + PEER_STARTED] = now
                continue
            start, old_start = layout.row(row), old.layout.row(old_row)
            serial, tenant = words[start + PEER_SERIAL], words[start + PEER_TENANT]
            words[start : start + carried] = old.words[old_start : old_start + carried]
            words[start + PEER_SERIAL] = serial
            words[start + PEER_TENANT] = tenant
            self._adopt_records(old, row, old_row)
            base = old.layout.count(old_row, -1)
            if old.words[base + COUNT_HELD] == old.tenant(old_row):
                self.count_elsewhere(row, tenant, old.words[base : base + COUNT_SUSPENDED])
        for name, at in self._upstream_of.items():
            old_at = old._upstream_of.get(name)
            if old_at is not None:
                version = old.words[old.layout.upstream(old_at) + UPSTREAM_VERSION]
                words[layout.upstream(at) + UPSTREAM_VERSION] = version

    def _adopt_records(self, old: PeerTable, row: int, old_row: int) -> None:
        for slot in range(CHECKS_PER_PEER):
            at = self.layout.check(row, slot)
            if not self.words[at + CHECK_IDENTITY]:
                continue
            old_at = old.layout.check(old_row, slot)
            source, record = old.layout.record(old_row, slot), self.layout.record(row, slot)
            for _ in range(_TRIES):
                self.words[record : record + RECORD_WORDS] = old.words[source : source + RECORD_WORDS]
                recent = self.words[at + CHECK_RECENT]
                if recent & SETTLING != SETTLING and old.words[old_at + CHECK_RECENT] == recent:
                    break
                # The old checker went on between the two.
                self.words[at : at + CHECK_WORDS] = old.words[old_at : old_at + CHECK_WORDS]

    # Header

    @property
    def generation(self) -> int:
        """Goes up by one after each change of a peer's state; compare it to know whether to read rows again."""
        return self.words[GENERATION]

    def publish(self) -> None:
        """Make the changes so far visible: the next generation. Only the checker may."""
        self.words[GENERATION] += 1

    @property
    def configurations(self) -> int:
        """How many configurations were in use since the start, this one included: one more at each reload."""
        return self.words[CONFIGURATIONS]

    @property
    def checker_epoch(self) -> int:
        """How many checkers have started on this table and those it was adopted from."""
        return self.words[CHECKER_EPOCH]

    @property
    def checker_pid(self) -> int:
        return self.words[CHECKER_PID]

    @property
    def voids(self) -> Voids:
        words = self.words
        return Voids(words[CHECKER_VOIDS], words[CHECKER_VOID_AT], self.phrases.read(words[CHECKER_VOID_WHY]))

    def note_void(self, now: int, why: str, record: int = -1) -> None:
        """One more probe got no verdict: one of the check whose record is at word `record`."""
        words = self.words
        words[CHECKER_VOIDS] += 1
        words[CHECKER_VOID_AT] = now
        words[CHECKER_VOID_WHY] = reference = self.keep(why)
        if record >= 0:
            words[record + RECORD_VOID_AT] = now
            words[record + RECORD_VOID_WHY] = reference

    @property
    def checker_heartbeat(self) -> int:
        """The checker's clock in milliseconds when it last went round its loop; 0 before the first time."""
        return self.words[CHECKER_HEARTBEAT]

    @property
    def checker_lateness(self) -> int:
        """How late the checker's last due work began, in microseconds."""
        return self.words[CHECKER_LATENESS]

    def start_checker(self, pid: int) -> None:
        """Said by a checker when it starts: its pid, and a new epoch, last."""
        self.words[CHECKER_PID] = pid
        self.words[CHECKER_EPOCH] += 1

    def set_ready(self, worker: int, pid: int) -> None:
        """Said by worker `worker` when it serves (`pid` 0: not any more). Raises IndexError for a number too high."""
        self.words[self.layout.worker(worker) + WORKER_READY] = pid

    def ready(self, worker: int) -> int:
        """The pid under which worker `worker` last said it serves, 0: not yet."""
        return self.words[self.layout.worker(worker) + WORKER_READY]

    @property
    def all_ready(self) -> bool:
        """Whether every worker has said that it serves; false for a table without workers."""
        return self.workers > 0 and all(self.ready(worker) for worker in range(self.workers))

    def beat(self, worker: int, now: float) -> None:
        """Worker `worker` went round its loop at `now` (seconds of its monotonic clock)."""
        self.words[self.layout.worker(worker) + WORKER_HEARTBEAT] = int(now * 1000)

    def heartbeat(self, worker: int) -> int:
        """The worker's clock in milliseconds at its last `beat`, 0 before."""
        return self.words[self.layout.worker(worker) + WORKER_HEARTBEAT]

    # Upstreams

    def upstream_version(self, upstream: str) -> int:
        """lua-resty's peers version of `upstream`, 0 until one was published. Raises KeyError."""
        return self.words[self.layout.upstream(self._upstream_of[upstream]) + UPSTREAM_VERSION]

    def set_upstream_version(self, upstream: str, version: int) -> None:
        self.words[self.layout.upstream(self._upstream_of[upstream]) + UPSTREAM_VERSION] = version

    # Changes

    def touch(self, row: int, member: bool = False) -> None:
        """Something that workers read of the peer at `row` is changed, `member`: who it is; the caller publishes."""
        words = self.words
        count = words[CHANGES]
        words[RING + count % RING_WORDS] = -1 - row if member else row
        words[CHANGES] = count + 1

    @property
    def changes(self) -> int:
        """How many changes there were."""
        return self.words[CHANGES]

    def changed_since(self, count: int) -> tuple[int, Collection[int] | None]:
        """How many changes there were, and the entries of those after the first `count`: rows, or -1 - row where the
        member is another one or was changed. None: too many to know which."""
        words = self.words
        last = words[CHANGES]
        if last == count:
            return last, ()
        if last - count > RING_WORDS:
            return last, None
        rows = {words[RING + entry % RING_WORDS] for entry in range(count, last)}
        # An entry is written before it is counted: one more may be under way.
        return (last, None) if words[CHANGES] - count >= RING_WORDS else (last, rows)

    # Members

    @property
    def rows_used(self) -> int:
        """Rows that are or were somebody's: the configuration's, and those up to the last peer that joined."""
        return self.words[ROWS]

    @property
    def members_changed(self) -> int:
        """How often a peer joined, left or was changed."""
        return self.words[MEMBERS]

    def member_serial(self, row: int) -> int:
        """How often the row's member became another one or was changed, 0: it is the configuration's."""
        return self.words[self.layout.row(row) + PEER_SERIAL]

    def member(self, row: int) -> MemberText:
        """Who has the row, unless the configuration says it (serial 0)."""
        words = self.words
        at = self.layout.row(row) + PEER_SERIAL
        while True:
            serial = words[at]
            side = self.layout.member(row) + serial % 2 * SIDE_WORDS
            of = words[side + SIDE_OF]
            text = words[side + SIDE_TEXT : side + SIDE_WORDS].tobytes()[: words[side + SIDE_LENGTH]]
            if words[at] == serial:
                return MemberText(serial, self._upstreams[of - 1] if of else "", text)

    def set_member(self, row: int, of: str, text: bytes) -> None:
        """Write who has the row (`of` "": nobody). Raises ValueError when `text` is too long, KeyError for an upstream
        that is not there."""
        if len(text) > ROOM_OF_MEMBER:
            raise ValueError(f"a peer's description has {len(text)} bytes, {ROOM_OF_MEMBER} are allowed")
        words = self.words
        at = self.layout.row(row) + PEER_SERIAL
        serial = words[at] + 1
        side = self.layout.member(row) + serial % 2 * SIDE_WORDS
        words[side + SIDE_OF] = self._upstream_of[of] + 1 if of else 0
        words[side + SIDE_LENGTH] = len(text)
        for word, (value,) in enumerate(struct.iter_unpack("q", text + bytes(-len(text) % WORD_BYTES))):
            words[side + SIDE_TEXT + word] = value
        if row >= words[ROWS]:
            words[ROWS] = row + 1
        words[at] = serial
        words[MEMBERS] += 1
        self.touch(row, True)

    def note_list(self, upstream: str) -> None:
        """The list of peers of an upstream is about to change, and there is a file that has to say so. Raises KeyError
        like `set_member`."""
        self.words[self.layout.upstream(self._upstream_of[upstream]) + UPSTREAM_LISTED] += 1

    def listed(self, upstream: str) -> int:
        """How often that was; a number for `kept`."""
        return self.words[self.layout.upstream(self._upstream_of[upstream]) + UPSTREAM_LISTED]

    def is_kept(self, upstream: str) -> bool:
        """Whether the file says all that was changed."""
        at = self.layout.upstream(self._upstream_of[upstream])
        return self.words[at + UPSTREAM_LISTED] == self.words[at + UPSTREAM_KEPT]

    def has_kept(self, upstream: str, listed: int) -> bool:
        """Whether the file has the change with this number."""
        return self.words[self.layout.upstream(self._upstream_of[upstream]) + UPSTREAM_KEPT] >= listed

    def kept(self, upstream: str, listed: int) -> None:
        """The file has everything up to the change with this number."""
        self.words[self.layout.upstream(self._upstream_of[upstream]) + UPSTREAM_KEPT] = listed

    def is_held(self, row: int, left: int) -> bool:
        """Whether a worker may still count for the peer that had the row and left with change `left`: it does, or has
        not heard of it yet."""
        words, layout = self.words, self.layout
        return any(
            0 < words[layout.worker(worker) + WORKER_SEEN] <= left or words[layout.count(row, worker) + COUNT_HELD]
            for worker in range(self.workers)
        )

    def set_seen(self, worker: int, changes: int) -> None:
        """Worker `worker` has taken in the first `changes` changes, in all its upstreams. Only it may say so."""
        self.words[self.layout.worker(worker) + WORKER_SEEN] = 1 + changes

    def vacate(self, worker: int) -> None:
        """Worker `worker` has ended and nobody has its number: it has nothing open, and holds no peer."""
        words, layout = self.words, self.layout
        for row in range(self.rows_used):
            at = layout.count(row, worker)
            words[at + COUNT_CONNECTIONS] = 0
            words[at + COUNT_SUSPENDED] = 0
            words[at + COUNT_HELD] = 0
        words[layout.worker(worker) + WORKER_READY] = 0
        words[layout.worker(worker) + WORKER_SEEN] = 0

    def clean_row(self, row: int) -> None:
        """Forget what was known of the peer that had the row."""
        words, layout = self.words, self.layout
        start = layout.row(row)
        serial, tenant = words[start + PEER_SERIAL], words[start + PEER_TENANT]
        # What workers that died counted for it too: whoever follows them holds no peer that has left. What the master
        # wrote there it alone may write; for another tenant it does not count.
        elsewhere = layout.count(row, -1)
        counts = elsewhere + COUNT_WORDS
        for word in (*range(start, elsewhere), *range(counts, counts + self.workers * COUNT_WORDS)):
            words[word] = 0
        words[start + PEER_SERIAL] = serial
        words[start + PEER_TENANT] = tenant + 1

    def hold(self, row: int, worker: int, serial: int) -> None:
        """Worker `worker` counts for the peer that has the row now. Only it may say so."""
        self.words[self.layout.count(row, worker) + COUNT_HELD] = 1 + serial

    def holds(self, row: int, worker: int) -> bool:
        return self.words[self.layout.count(row, worker) + COUNT_HELD] != 0

    def let_go(self, row: int, worker: int) -> None:
        """Worker `worker` counts for nobody at `row` any more, and its counters there are zero again."""
        at = self.layout.count(row, worker)
        for word in range(COUNT_WORDS):
            self.words[at + word] = 0

    # Peers

    def admin(self, row: int) -> int:
        """What was last said by an operator: `serial << 2 | ADMIN_*`; the serial grows with every word of his."""
        return self.words[self.layout.row(row) + PEER_ADMIN]

    def set_admin(self, row: int, state: int) -> None:
        at = self.layout.row(row) + PEER_ADMIN
        self.words[at] = ((self.words[at] >> 2) + 1) << 2 | state
        self.touch(row)

    def summary(self, row: int) -> int:
        """CHECKS_NONE, CHECKS_UP or CHECKS_DOWN."""
        return self.words[self.layout.row(row) + PEER_CHECKS]

    def is_up(self, row: int, configured_down: bool) -> bool:
        """Whether the peer may get traffic, see `may_serve`."""
        start = self.layout.row(row)
        return may_serve(self.words[start + PEER_ADMIN] & 3, self.words[start + PEER_CHECKS], configured_down)

    def untried(self, row: int) -> bool:
        """Whether a check of the peer at `row` holds it back that has had no verdict yet."""
        words = self.words
        first = self.layout.check(row, 0)
        for at in range(first, first + CHECKS_PER_PEER * CHECK_WORDS, CHECK_WORDS):
            held = words[at + CHECK_IDENTITY] and words[at + CHECK_HEALTH] < words[at + CHECK_RISE]
            if held and not words[at + CHECK_AT]:
                return True
        return False

    def summarise(self, row: int, now: int) -> bool:
        """Work out the summary word from the check slots; true when that changed it. `now` is in milliseconds."""
        words = self.words
        summary = CHECKS_NONE
        start = self.layout.row(row)
        for at in range(start + PEER_WORDS, start + PEER_WORDS + CHECKS_PER_PEER * CHECK_WORDS, CHECK_WORDS):
            if words[at + CHECK_IDENTITY] == 0:
                continue
            if words[at + CHECK_HEALTH] < words[at + CHECK_RISE]:
                summary = CHECKS_DOWN
                break
            summary = CHECKS_UP
        if summary == words[start + PEER_CHECKS]:
            return False
        words[start + PEER_SINCE] = now
        words[start + PEER_CHANGES] += 1
        if summary == CHECKS_UP and words[start + PEER_CHECKS] == CHECKS_DOWN:
            words[start + PEER_STARTED] = now
        words[start + PEER_CHECKS] = summary
        self.touch(row)
        return True

    def recalled(self, row: int) -> None:
        """Checks were told how they stood before this table was made: so the peer's state is as old as theirs."""
        words = self.words
        start = self.layout.row(row)
        up: list[int] = []
        down: list[int] = []
        for at in range(start + PEER_WORDS, start + PEER_WORDS + CHECKS_PER_PEER * CHECK_WORDS, CHECK_WORDS):
            if words[at + CHECK_IDENTITY] and words[at + CHECK_SINCE]:
                (up if words[at + CHECK_HEALTH] >= words[at + CHECK_RISE] else down).append(words[at + CHECK_SINCE])
        if words[start + PEER_CHECKS] == CHECKS_DOWN and down:
            words[start + PEER_SINCE] = min(down)
        elif words[start + PEER_CHECKS] == CHECKS_UP and up:
            words[start + PEER_SINCE] = max(up)

    def cleared(self, row: int) -> int:
        """When (milliseconds) an active pass last ended what requests held against the peer; never the same twice."""
        return self.words[self.layout.row(row) + PEER_CLEARED]

    def clear(self, row: int, now: int) -> None:
        """The peer passed an active check after a worker had found fault with it; the caller publishes."""
        at = self.layout.row(row) + PEER_CLEARED
        self.words[at] = max(self.words[at] + 1, now)
        self.touch(row)

    def started(self, row: int) -> int:
        """When (milliseconds) the peer last became fit for traffic again, or was added by a reload; 0: never."""
        return self.words[self.layout.row(row) + PEER_STARTED]

    def start(self, row: int, now: int) -> None:
        """An operator switched the peer on again; the caller publishes."""
        self.words[self.layout.row(row) + PEER_STARTED] = now
        self.touch(row)

    # Checks

    def find_check(self, row: int, identity: int) -> int:
        """The slot of the check `identity` of the peer at `row`, -1 when it has none."""
        at = self.layout.check(row, 0) + CHECK_IDENTITY
        for slot in range(CHECKS_PER_PEER):
            if self.words[at + slot * CHECK_WORDS] == identity:
                return slot
        return -1

    def add_check(self, row: int, identity: int, rise: int, health: int) -> int:
        """Take a free slot for a new check and give its number. Raises LookupError when all are taken."""
        slot = self.find_check(row, 0)
        if slot < 0:
            raise LookupError(f"more than {CHECKS_PER_PEER} checks of one peer")
        at = self.layout.check(row, slot)
        for word in range(CHECK_WORDS):
            self.words[at + word] = 0
        self.words[at + CHECK_RISE] = rise
        self.words[at + CHECK_HEALTH] = health
        record = self.layout.record(row, slot)
        self.words[record : record + RECORD_WORDS] = _NOTHING
        # Last: until it is there, the slot is free for whoever continues after this process was killed.
        self.words[at + CHECK_IDENTITY] = identity
        return slot

    def drop_check(self, row: int, slot: int) -> None:
        """Free a slot; the caller works out the summary again."""
        self.words[self.layout.check(row, slot) + CHECK_IDENTITY] = 0

    def record_at(self, row: int, slot: int) -> int:
        """First word of the record of a check."""
        return self.layout.record(row, slot)

    def record(self, row: int, slot: int) -> Record:
        """What is kept of a check beyond its state."""
        layout = self.layout
        return read_record(self.words, self.phrases, layout.check(row, slot), layout.record(row, slot))

    def keep(self, text: str) -> int:
        """The reference of `text` for a record, which is to be written there before another is kept."""
        return self.phrases.keep(text, self._references)

    def _references(self) -> set[int]:
        """All references to phrases that are anywhere in the table."""
        words, layout = self.words, self.layout
        found = {words[CHECKER_VOID_WHY]}
        for row in range(words[ROWS]):
            at = layout.check(row, 0) + CHECK_IDENTITY
            identities = words[at : at + CHECKS_PER_PEER * CHECK_WORDS : CHECK_WORDS]
            for slot, identity in enumerate(identities):
                if identity:
                    found.update(references(words, layout.record(row, slot)))
        return found

    def check(self, row: int, slot: int) -> CheckState:
        return CheckState(slot, *read_check(self.words, self.layout.check(row, slot), self.layout.record(row, slot)))

    def settle(self, at: int, record: int) -> None:
        """Write out the recent passes of a check, before anything else is written there. Its slot is at word `at`, its
        record at word `record`."""
        settle(self.words, self.halves, at, record)

    def checks(self, row: int) -> list[CheckState]:
        """The checks of the peer at `row`, in the order of their slots."""
        return [state for state in (self.check(row, slot) for slot in range(CHECKS_PER_PEER)) if state.identity]

    def set_check(self, at: int, health: int, now: int, status: int, latency: int, passed: bool) -> None:
        """Write one verdict; `at` is `layout.check(row, slot)`, `now` milliseconds, `latency` microseconds."""
        words = self.words
        words[at + CHECK_HEALTH] = health
        words[at + CHECK_AT] = now
        words[at + CHECK_STATUS] = status
        words[at + CHECK_LATENCY] = latency
        words[at + (CHECK_PASSES if passed else CHECK_FAILS)] += 1

    # Counters

    def counts(self, row: int, worker: int | None = None) -> Counts:
        """What one worker counted, or all of them and those of other generations (None)."""
        if worker is None:
            whole, first = self.counted(row), self.layout.count(row, -1)
            if self.words[first + COUNT_HELD] == self.tenant(row):
                at = first * WORD_BYTES
                whole += int.from_bytes(self._memory[at : at + _COUNT_BYTES], byteorder)
            total = _unpacked(whole)
        else:
            total = _COUNTS.unpack_from(self._memory, self.layout.count(row, worker) * WORD_BYTES)
        connections, requests, fails, one_xx, two_xx, three_xx, four_xx, five_xx, sent, received, suspended, _ = total
        until: tuple[int, ...] = (suspended,) if suspended else ()
        if until and worker is None:
            start = self.layout.count(row, 0) + COUNT_SUSPENDED
            until = tuple(filter(None, self.words[start : start + self.workers * COUNT_WORDS : COUNT_WORDS]))
        responses = (one_xx, two_xx, three_xx, four_xx, five_xx)
        return Counts(connections, requests, fails, responses, sent, received, until)

    def counted(self, row: int) -> int:
        """What the workers of this generation counted for the peer, as one long number: another one if any of it is. As
        no word of it is ever negative, whole blocks can be added."""
        whole, first = 0, self.layout.count(row, 0) * WORD_BYTES
        for at in range(first, first + self.workers * _COUNT_BYTES, _COUNT_BYTES):
            whole += int.from_bytes(self._memory[at : at + _COUNT_BYTES], byteorder)
        return whole

    def tenant(self, row: int) -> int:
        """Another number for each peer that the row is given to."""
        return self.words[self.layout.row(row) + PEER_TENANT]

    def count_elsewhere(self, row: int, tenant: int, growth: Iterable[int]) -> None:
        """Add what workers of other generations counted for the peer that had the row while its `tenant` was this
        (`growth_of`). Only the master may."""
        words = self.words
        at = self.layout.count(row, -1)
        if words[at + COUNT_HELD] != tenant:
            # Somebody else's. Nobody counts it as long as the tenants differ.
            for word in range(COUNT_HELD):
                words[at + word] = 0
        for word, more in enumerate(growth):
            words[at + word] = max(0, words[at + word] + more)
        words[at + COUNT_HELD] = tenant

    def everywhere(self, row: int) -> memoryview[int]:
        """How many requests are under way at the peer, one word for each worker, which it alone may write."""
        start = self.layout.count(row, 0) + COUNT_CONNECTIONS
        return self.words[start : start + self.workers * COUNT_WORDS : COUNT_WORDS]

    def suspended_until(self, row: int) -> int:
        """Until when (milliseconds) workers keep the peer out of use for failed requests, the last of them; 0: none."""
        start = self.layout.count(row, 0) + COUNT_SUSPENDED
        return max(self.words[start : start + self.workers * COUNT_WORDS : COUNT_WORDS])

    def set_suspended(self, row: int, worker: int, until: int) -> None:
        """Say that `worker` keeps the peer out of use till `until` (milliseconds), 0: not any more. Only it may."""
        self.words[self.layout.count(row, worker) + COUNT_SUSPENDED] = min(until, _LATEST)

    def set_counts(self, row: int, worker: int, counts: Counts) -> None:
        """Write a worker's own counters. Only worker `worker` may. Raises IndexError for a worker that is not there."""
        if not 0 <= worker < self.workers:
            raise IndexError(f"no worker {worker}")
        at = self.layout.count(row, worker)
        values = (counts.connections, counts.requests, counts.fails, *counts.responses, counts.sent, counts.received)
        for word, value in enumerate(values):
            self.words[at + word] = value
