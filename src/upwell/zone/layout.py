"""Whose word is where: the offsets, in 8-byte words, of everything in the shared peer table. Pure numbers, no memory.

The table is: header, one block per worker, one block per upstream, one block per peer (row). A row holds the peer's own
words, its check slots, and one block of counters for each worker. Each word has one writing process; it is named here.
"""

from __future__ import annotations

VERSION = 0  # master, before the fork: the layout's own number
GENERATION = 1  # checker: goes up by one after each change that a worker must see
ROWS = 2  # master
UPSTREAMS = 3  # master
WORKERS = 4  # master
CHECKER_PID = 5  # checker
CHECKER_HEARTBEAT = 6  # checker: its clock in milliseconds
CHECKER_EPOCH = 7  # checker: one more at each start, so that workers send their checks again
CHECKER_LATENESS = 8  # checker: how late its last due work began, in microseconds
HEADER_WORDS = 16

LAYOUT_VERSION = 1

# One block per worker, written by that worker.
WORKER_READY = 0  # pid of the worker that serves, 0 before
WORKER_HEARTBEAT = 1  # its clock in milliseconds
WORKER_WORDS = 4

# One block per upstream, written by the checker.
UPSTREAM_VERSION = 0  # the peers version that lua-resty publishes under "v:<upstream>"
UPSTREAM_WORDS = 2

# One block per peer, written by the checker.
PEER_ADMIN = 0  # serial << 2 | state, see ADMIN_*
PEER_CHECKS = 1  # the sum of its checks, see CHECKS_*
PEER_SINCE = 2  # when PEER_CHECKS last changed, milliseconds
PEER_CHANGES = 3  # how often it changed between up and down
PEER_WORDS = 4

ADMIN_UNSET, ADMIN_DOWN, ADMIN_UP = range(3)
"""What an operator said last: nothing, down, or up (which also lifts a configured `down`)."""
CHECKS_NONE, CHECKS_UP, CHECKS_DOWN = range(3)
"""What the active checks say together: there are none, all are up, or at least one is down."""

# One block per check slot of a peer, written by the checker.
CHECKS_PER_PEER = 8
CHECK_IDENTITY = 0  # CheckSpec.identity, 0: the slot is free
CHECK_RISE = 1
CHECK_HEALTH = 2  # 0 .. rise + fall - 1, up while >= rise
CHECK_AT = 3  # when the last verdict came, milliseconds, 0: none yet
CHECK_STATUS = 4  # HTTP status of the last verdict, 0: none
CHECK_LATENCY = 5  # how long the last probe took, microseconds
CHECK_PASSES = 6
CHECK_FAILS = 7
CHECK_SINCE = 8  # when it last turned up or down, milliseconds
CHECK_WORDS = 10

# One block of counters per peer and worker, written by that worker; one more of the same shape, written by the master
# before the fork, holds what earlier generations counted.
COUNT_CONNECTIONS = 0  # in use now; never carried over
COUNT_REQUESTS = 1
COUNT_FAILS = 2
COUNT_1XX = 3  # 4..7: 2xx to 5xx
COUNT_SENT = 8
COUNT_RECEIVED = 9
COUNT_WORDS = 10

WORD_BYTES = 8


class Layout:
    """The offsets for one number of rows, upstreams and workers."""

    __slots__ = ("counts", "row_words", "rows", "size", "upstreams", "worker_count")

    def __init__(self, rows: int, upstreams: int, workers: int) -> None:
        self.worker_count = workers
        self.upstreams = HEADER_WORDS + workers * WORKER_WORDS
        self.rows = self.upstreams + upstreams * UPSTREAM_WORDS
        self.counts = PEER_WORDS + CHECKS_PER_PEER * CHECK_WORDS
        self.row_words = self.counts + (workers + 1) * COUNT_WORDS
        self.size = self.rows + rows * self.row_words

    def worker(self, worker: int) -> int:
        """First word of the block of `worker` (0 .. workers-1). Raises IndexError for any other number."""
        if not 0 <= worker < self.worker_count:
            raise IndexError(f"no worker {worker}")
        return HEADER_WORDS + worker * WORKER_WORDS

    def upstream(self, upstream: int) -> int:
        return self.upstreams + upstream * UPSTREAM_WORDS

    def row(self, row: int) -> int:
        return self.rows + row * self.row_words

    def check(self, row: int, slot: int) -> int:
        return self.rows + row * self.row_words + PEER_WORDS + slot * CHECK_WORDS

    def count(self, row: int, worker: int) -> int:
        """First counter of `worker` for the peer at `row`; worker -1 is what earlier generations counted."""
        return self.rows + row * self.row_words + self.counts + (worker + 1) * COUNT_WORDS
