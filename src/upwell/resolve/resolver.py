"""What is known of names, and the look-ups under way: answers are kept as long as they count, one look-up serves all
who ask, and what is known outlives servers that fail. No I/O: `Wire` sends, and says what came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final, Protocol

from upwell.log import ErrorLog
from upwell.resolve.lookup import Lookup
from upwell.resolve.message import Malformed, Reading, parse_name
from upwell.resolve.query import Query
from upwell.resolve.spec import (
    FOUND,
    NOT_FOUND,
    SERVER_FAILURE,
    TIMED_OUT,
    Answer,
    Question,
    ResolverSpec,
)
from upwell.zone.resolvers import (
    COUNT_AT,
    COUNT_CODES,
    COUNT_FAILING,
    COUNT_JUNK,
    COUNT_LOOKUPS,
    COUNT_QUERIES,
    COUNT_WORDS,
    Words,
    place_of,
)

_AT_ONCE: Final = 64  # queries under way at once; others wait for their turn
_PATIENCE: Final = 1.8  # seconds after which what was known before has to do (RFC 8767, 5: client response timer)
_FIRST_REST: Final = 1.0  # seconds before a name that failed is asked for again (RFC 9520: at least 1)
_LONGEST_REST: Final = 30.0
_SLICE: Final = 0.002  # seconds that reading answers may take of one step, and sending queries, but for the last one

Done = Callable[[Answer], None]


class Wire(Protocol):
    """What sends. It calls `Resolver.received` and `Resolver.broken` until a query is closed."""

    def open(self, query: Query) -> bool:
        """Send what `query` has to send, and listen for the answer; false where that cannot be. Never raises."""

    def close(self, query: Query) -> None:
        """Neither listen nor send any more, if it does."""


class _Entry:
    """What is known of one name, and who waits for it."""

    __slots__ = ("answer", "asked", "lookup", "patience", "question", "rest", "waiting")

    def __init__(self, question: Question) -> None:
        self.question = question
        self.answer: Answer | None = None
        self.lookup: Lookup | None = None
        self.asked = 0.0
        self.rest = 0.0
        self.waiting: list[Done] = []
        self.patience = float("inf")


class Resolver:
    """The names of one `resolver` directive in one process. `number` gives unpredictable numbers below 65536. `counts`
    are this process's COUNT_WORDS of zone/resolvers.py. In the `log` is said when a name begins to fail, and when that
    is over. Of the names that are asked for, `most` are remembered and as many looked up at once; others get
    SERVER_FAILURE meanwhile.
    """

    __slots__ = (
        "_active",
        "_counts",
        "_entries",
        "_log",
        "_most",
        "_number",
        "_order",
        "_queue",
        "_readings",
        "_rotation",
        "_waits",
        "clock",
        "spec",
        "wire",
    )

    def __init__(
        self,
        spec: ResolverSpec,
        wire: Wire,
        clock: Callable[[], float],
        number: Callable[[], int],
        log: ErrorLog | None = None,
        counts: Words | None = None,
        most: int = 1000,
    ) -> None:
        self.spec = spec
        self.wire = wire
        self.clock = clock
        self._number = number
        self._log = log
        self._counts: Words = [0] * COUNT_WORDS if counts is None else counts
        self._most = most
        self._entries: dict[Question, _Entry] = {}
        self._queue: deque[tuple[_Entry, Query]] = deque()
        self._active: dict[Query, _Entry] = {}
        self._readings: deque[tuple[Query, Reading]] = deque()
        self._waits: list[tuple[float, int, _Entry]] = []  # a heap: until when somebody waits
        self._order = 0
        self._rotation = 0
        self._counts[COUNT_FAILING] = 0

    def __repr__(self) -> str:
        return f"<Resolver {self.spec.servers} {len(self._entries)} names, {len(self._active)} queries>"

    def known(self, question: Question) -> Answer | None:
        """What is known and still counts."""
        entry = self._entries.get(question)
        if entry is None or entry.answer is None or self.clock() >= entry.answer.expires:
            return None
        return entry.answer

    def ask(self, question: Question, done: Done) -> None:
        """Have `done` called with the answer: at once if it is known, else from `step`. After that, see `next_due`."""
        answer = self.known(question)
        if answer is not None:
            done(answer)
            return
        now = self.clock()
        entry = self._entries.get(question)
        if entry is None:
            try:
                parse_name(question.owner)
            except ValueError:
                done(Answer(NOT_FOUND, (), now + _LONGEST_REST))
                return
            if len(self._entries) >= self._most and not self._forget():
                done(Answer(SERVER_FAILURE, (), now))
                return
            entry = self._entries[question] = _Entry(question)
        if entry.lookup is None:
            self._begin(entry, now)
        entry.waiting.append(done)
        patience = entry.asked + self.spec.timeout
        if entry.answer is not None and entry.answer.found:
            patience = min(patience, entry.asked + _PATIENCE)
        if patience != entry.patience:
            entry.patience = patience
            self._order += 1
            heappush(self._waits, (patience, self._order, entry))

    def cancel(self, question: Question, done: Done) -> None:
        """Nobody wants to know any more."""
        entry = self._entries.get(question)
        if entry is not None and done in entry.waiting:
            entry.waiting.remove(done)

    def next_due(self) -> float | None:
        """When `step` has something to do."""
        if self._readings or (self._queue and len(self._active) < _AT_ONCE):
            return self.clock()
        waits = self._waits
        while waits and waits[0][0] != waits[0][2].patience:
            heappop(waits)  # nobody waits there any more
        due = min([query.due for query in self._active], default=None)
        if waits and (due is None or waits[0][0] < due):
            return waits[0][0]
        return due

    def step(self) -> None:
        """Do what is due, a bounded amount of it."""
        began = now = self.clock()
        while self._readings and now - began < _SLICE:
            self._read(now)
            now = self.clock()
        for query in [query for query in self._active if now >= query.due]:
            if any(query is reading for reading, _ in self._readings):
                continue
            query.expired(now)
            self._go_on(query, now)
        began = self.clock()
        while self._queue and len(self._active) < _AT_ONCE and self.clock() - began < _SLICE:
            entry, query = self._queue.popleft()
            self._active[query] = entry
            query.begin(now, self.spec.timeout)
            self._send(query, now)
        while self._waits and self._waits[0][0] <= now:
            patience, _, entry = heappop(self._waits)
            if patience == entry.patience:
                self._give(entry, Answer(TIMED_OUT, entry.answer.found if entry.answer is not None else (), now))

    def received(self, query: Query, wire: bytes) -> None:
        """A message came for `query`, maybe its answer."""
        if query not in self._active:
            return
        junk = query.junk
        try:
            reading = query.read(wire)
        except Malformed:
            self._counts[COUNT_JUNK] += 1
            self.broken(query)
            return
        self._counts[COUNT_JUNK] += query.junk - junk
        if reading is not None:
            self.wire.close(query)
            self._readings.append((query, reading))

    def broken(self, query: Query) -> None:
        """The server of `query` could not be asked, or cannot answer any more."""
        if query in self._active:
            now = self.clock()
            query.failed(now)
            self._go_on(query, now)

    def close(self) -> None:
        for query in list(self._active):
            self.wire.close(query)
        self._active.clear()
        self._queue.clear()
        self._readings.clear()
        self._waits.clear()
        self._entries.clear()

    def _begin(self, entry: _Entry, now: float) -> None:
        servers = self.spec.servers
        start = self._rotation % len(servers)
        self._rotation += 1
        before = entry.answer.found if entry.answer is not None else ()
        lookup = Lookup(self.spec, entry.question, servers[start:] + servers[:start], self._number, before)
        entry.lookup = lookup
        entry.asked = now
        self._counts[COUNT_LOOKUPS] += 1
        self._queue.extend((entry, query) for query in lookup.begin())

    def _read(self, now: float) -> None:
        query, reading = self._readings[0]
        if query not in self._active:
            self._readings.popleft()
            return
        try:
            if not reading.step():
                return
            query.replied(reading.reply, now)
        except Malformed:
            self._counts[COUNT_JUNK] += 1
            query.failed(now)
        self._readings.popleft()
        self._go_on(query, now)

    def _go_on(self, query: Query, now: float) -> None:
        self.wire.close(query)
        if not query.over:
            self._send(query, now)
            if not query.over:
                return
        entry = self._active.pop(query)
        lookup = entry.lookup
        assert lookup is not None
        self._queue.extend((entry, further) for further in lookup.settled(query))
        if not lookup.pending:
            entry.lookup = None
            self._learn(entry, lookup.answer(now), now)

    def _send(self, query: Query, now: float) -> None:
        while query.send is not None:
            self._counts[COUNT_QUERIES] += 1
            if self.wire.open(query):
                return
            query.failed(now)

    def _learn(self, entry: _Entry, answer: Answer, now: float) -> None:
        counts = self._counts
        counts[COUNT_CODES + place_of(answer.code)] += 1
        if answer.code != TIMED_OUT:
            counts[COUNT_AT] = int(now * 1000)
        before, entry.answer = entry.answer, answer
        if answer.code in (FOUND, NOT_FOUND):
            entry.rest = 0.0
        else:
            # Rests differ from nginx, which asks again after the look-up's whole time-out.
            entry.rest = min(max(entry.rest * 2, _FIRST_REST), _LONGEST_REST)
            entry.answer = answer._replace(expires=now + entry.rest)
        failed = before is not None and before.code != FOUND
        if failed != (answer.code != FOUND):
            counts[COUNT_FAILING] += 1 if answer.code != FOUND else -1
        if self._log is None:
            pass
        elif answer.code != FOUND and not failed:
            known = f", {len(answer.found)} known address(es) stay in use" if answer.found else ""
            self._log.error(f"{entry.question} could not be resolved {answer.words}{known}")
        elif answer.code == FOUND and failed:
            self._log.notice(f"{entry.question} is resolved again: {len(answer.found)} address(es)")
        if self._log is not None and answer.left_out and (before is None or not before.left_out):
            self._log.warn(f"{entry.question} has too many addresses, {answer.left_out} of them are left out")
        self._give(entry, entry.answer)

    def _give(self, entry: _Entry, answer: Answer) -> None:
        waiting, entry.waiting = entry.waiting, []
        entry.patience = float("inf")
        for done in waiting:
            done(answer)

    def _forget(self) -> bool:
        """Make room for one name: that of an answer which does not count any more, or the one known for longest."""
        now = self.clock()
        oldest: _Entry | None = None
        for entry in self._entries.values():
            if entry.lookup is not None or entry.answer is None:
                continue
            if now >= entry.answer.expires:
                oldest = entry
                break
            oldest = oldest or entry
        if oldest is None:
            return False
        assert oldest.answer is not None
        if oldest.answer.code != FOUND:
            self._counts[COUNT_FAILING] -= 1
        del self._entries[oldest.question]
        return True
