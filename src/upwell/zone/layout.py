"""Whose word is where: the offsets, in 8-byte words, of everything in the shared peer table. Pure numbers, no memory.

The table is: header, the ring of changes, one block per worker, one block per upstream, one block per peer (row), the
records of checks, and the descriptions of peers that joined at run time. A row holds the peer's own words, its check
slots, and one block of counters for each worker. Each word has one writing process; it is named here.

Rows after those of the configuration are spare: for peers that join. Nobody reads or writes them before, so they cost
no memory.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = 0  # master, before the fork: the layout's own number
GENERATION: Final = 1  # checker: goes up by one after each change that a worker must see
ROWS: Final = 2  # master, then checker: rows that are or were in use, the spare ones behind them left out
UPSTREAMS: Final = 3  # master
WORKERS: Final = 4  # master
CHECKER_PID: Final = 5  # checker
CHECKER_HEARTBEAT: Final = 6  # checker: its clock in milliseconds
CHECKER_EPOCH: Final = 7  # checker: one more at each start, so that workers send their checks again
CHECKER_LATENESS: Final = (
    8  # checker: how late the last probe began, or for how long one waits for others, microseconds
)
CONFIGURATIONS: Final = 9  # master: how many configurations were in use, this one included
CHANGES: Final = 10  # checker: how many entries the ring of changes has had
MEMBERS: Final = 11  # checker (before the fork: master): how often a peer joined, left or was changed
CHECKER_VOIDS: Final = 12  # checker: how many probes got no verdict, for trouble of this machine's own
CHECKER_VOID_AT: Final = 13  # checker: when the last one did, milliseconds
CHECKER_VOID_WHY: Final = 14  # checker: and why (zone/phrases.py)
HEADER_WORDS: Final = 16

LAYOUT_VERSION: Final = 8

RING: Final = HEADER_WORDS  # checker: the rows that changed last, entry n at n % RING_WORDS; -1 - row: as a member
RING_WORDS: Final = 4096

# One block per worker, written by that worker.
WORKER_READY: Final = 0  # pid of the worker that serves, 0 before
WORKER_HEARTBEAT: Final = 1  # its clock in milliseconds
WORKER_SEEN: Final = 2  # 1 + of how many changes it knows in all its upstreams; 0: nobody has the number (then: master)
WORKER_WORDS: Final = 4

# One block per upstream, written by the checker (UPSTREAM_KEPT also by the master, each holding a lock on the file).
UPSTREAM_VERSION: Final = 0  # the peers version that lua-resty publishes under "v:<upstream>"
UPSTREAM_LISTED: Final = 1  # how often the list of peers was changed, where a file keeps it
UPSTREAM_KEPT: Final = 2  # which of these changes that file has
UPSTREAM_WORDS: Final = 3

# One block per peer, written by the checker.
PEER_ADMIN = 0  # serial << 2 | state, see ADMIN_*
PEER_CHECKS: Final = 1  # the sum of its checks, see CHECKS_*
PEER_SINCE: Final = 2  # when PEER_CHECKS last changed, milliseconds
PEER_CHANGES: Final = 3  # how often it changed between up and down
PEER_CLEARED: Final = 4  # when an active pass last ended what requests held against the peer, milliseconds
PEER_STARTED: Final = 5  # when it last became fit for traffic again, or a reload added it, milliseconds, 0: never
PEER_SERIAL: Final = 6  # how often the row got a description at run time (its member's words), 0: never
PEER_TENANT: Final = 7  # how often the row was made clean for another peer
PEER_WORDS: Final = 8

ADMIN_UNSET: Final = 0
ADMIN_DOWN: Final = 1
ADMIN_UP: Final = 2
"""What an operator said last: nothing, down, or up (which also lifts a configured `down`)."""
CHECKS_NONE: Final = 0
CHECKS_UP: Final = 1
CHECKS_DOWN: Final = 2
"""What the active checks say together: there are none, all are up, or at least one is down."""

# One block per check slot of a peer, written by the checker.
CHECKS_PER_PEER: Final = 8
CHECK_IDENTITY: Final = 0  # CheckSpec.identity, 0: the slot is free
CHECK_RISE: Final = 1
CHECK_HEALTH: Final = 2  # 0 .. rise + fall - 1, up while >= rise
CHECK_AT: Final = 3  # when the last verdict came, milliseconds, 0: none yet
CHECK_STATUS: Final = 4  # HTTP status of the last verdict, 0: none
CHECK_LATENCY: Final = 5  # how long the last probe took, microseconds
CHECK_PASSES: Final = 6
CHECK_FAILS: Final = 7
CHECK_SINCE: Final = 8  # when it last turned up or down, milliseconds
CHECK_RECENT: Final = 9  # the passes that are noted here and in RECORD_TIMES only: see RECENT_*
CHECK_WORDS: Final = 10

# A probe that passes as the ones before writes two words: how long it took into the ring of the last times, and into
# CHECK_RECENT when the verdict came (milliseconds) << RECENT_SHIFT | how many such passes there are. Now and then their
# sum goes into all other words (zone/records.py: `settle`); whoever reads adds it. While that is done they number
# SETTLING. It is another word after each of them, so that a reader sees by it whether what it read belongs together.
RECENT_SHIFT: Final = 8
RECENT_MOST: Final = 25
SETTLING: Final = (1 << RECENT_SHIFT) - 1

# One record per check in use, written by the checker: what pages tell of it beyond its state (zone/records.py).
RECORD_NEXT: Final = 0  # when the next probe is due, milliseconds, 0: not known
RECORD_STREAK: Final = 1  # passes in a row, or failures in a row as a negative number
RECORD_AVERAGE: Final = 2  # moving average of the answer time, microseconds
RECORD_TIMED: Final = 3  # how many answers were timed
RECORD_TIME: Final = 4  # the sum of their times, microseconds
RECORD_KIND: Final = 5  # 1 + the kind of the last failure, 0: there was none
RECORD_WHY: Final = 6  # its words (zone/phrases.py)
RECORD_FAILED_AT: Final = 7  # when it was, milliseconds
RECORD_VOID_AT: Final = 8  # when a probe last got no verdict, milliseconds, 0: never
RECORD_VOID_WHY: Final = 9  # and why (zone/phrases.py)
RECORD_PERIOD: Final = 10  # from the time when a probe that passes as usual is due to that of the next, microseconds
RECORD_KINDS: Final = 11  # failures of each kind
KINDS_COUNTED: Final = 12
RECORD_BUCKETS: Final = RECORD_KINDS + KINDS_COUNTED  # answer times up to each of BUCKETS, the last: above all
BUCKETS: Final = (1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000)
"""Upper bounds of the histogram of answer times, microseconds (Prometheus' usual ones, from 1 ms)."""
RECORD_TIMES: Final = RECORD_BUCKETS + len(BUCKETS) + 1  # the last TIMES answer times, 4 bytes each, microseconds
TIMES: Final = 100
RECORD_CHANGES: Final = RECORD_TIMES + TIMES // 2  # how many transitions there were
RECORD_HISTORY: Final = RECORD_CHANGES + 1  # the last HISTORY ones: milliseconds << 1 | up, and its words
HISTORY: Final = 20
RECORD_WORDS: Final = RECORD_HISTORY + 2 * HISTORY

# One block of counters per peer and worker, written by that worker; one more of the same shape, written by the master,
# holds what the workers of other generations count (process/tallies.py), COUNT_HELD there for which PEER_TENANT.
COUNT_CONNECTIONS: Final = 0  # in use now
COUNT_REQUESTS: Final = 1
COUNT_FAILS: Final = 2
COUNT_1XX: Final = 3  # 4..7: 2xx to 5xx
COUNT_SENT: Final = 8
COUNT_RECEIVED: Final = 9
COUNT_SUSPENDED: Final = 10  # until when requests keep the peer out of use there, milliseconds; never carried over
COUNT_HELD: Final = 11  # 1 + the serial of the member that the worker counts for here, 0: nobody; never carried over
COUNT_WORDS: Final = 12

# One block per row, for a peer that joined at run time or was changed then, written by the checker (before the fork:
# master). Two sides in turn: that of serial n is n % 2, so what is read is never half written.
SIDE_OF: Final = 0  # 1 + the number of its upstream, 0: nobody has the row
SIDE_LENGTH: Final = 1  # bytes of the text
SIDE_TEXT: Final = 2
SIDE_WORDS: Final = 124
MEMBER_WORDS: Final = 2 * SIDE_WORDS

WORD_BYTES: Final = 8

ROOM_OF_MEMBER: Final = (SIDE_WORDS - SIDE_TEXT) * WORD_BYTES
"""The longest text that says what a member is, in bytes."""


class Layout:
    """The offsets for one number of rows (spare ones included), upstreams and workers."""

    __slots__ = (
        "counts",
        "members",
        "records",
        "row_count",
        "row_words",
        "rows",
        "size",
        "upstreams",
        "worker_count",
        "workers",
    )

    def __init__(self, rows: int, upstreams: int, workers: int) -> None:
        self.worker_count = workers
        self.workers = RING + RING_WORDS
        self.upstreams = self.workers + workers * WORKER_WORDS
        self.rows = self.upstreams + upstreams * UPSTREAM_WORDS
        self.counts = PEER_WORDS + CHECKS_PER_PEER * CHECK_WORDS
        self.row_words = self.counts + (workers + 1) * COUNT_WORDS
        self.records = self.rows + rows * self.row_words
        self.row_count = rows
        self.members = self.records + rows * CHECKS_PER_PEER * RECORD_WORDS
        self.size = self.members + rows * MEMBER_WORDS

    def worker(self, worker: int) -> int:
        """First word of the block of `worker` (0 .. workers-1). Raises IndexError for any other number."""
        if not 0 <= worker < self.worker_count:
            raise IndexError(f"no worker {worker}")
        return self.workers + worker * WORKER_WORDS

    def upstream(self, upstream: int) -> int:
        return self.upstreams + upstream * UPSTREAM_WORDS

    def row(self, row: int) -> int:
        return self.rows + row * self.row_words

    def check(self, row: int, slot: int) -> int:
        return self.rows + row * self.row_words + PEER_WORDS + slot * CHECK_WORDS

    def record(self, row: int, slot: int) -> int:
        """First word of the record of a check. Those of one slot lie together: unused slots cost no memory."""
        return self.records + (slot * self.row_count + row) * RECORD_WORDS

    def member(self, row: int) -> int:
        """First word of the description of a peer that joined or was changed at run time."""
        return self.members + row * MEMBER_WORDS

    def count(self, row: int, worker: int) -> int:
        """First counter of `worker` for the peer at `row`; worker -1 is what other generations count."""
        return self.rows + row * self.row_words + self.counts + (worker + 1) * COUNT_WORDS
