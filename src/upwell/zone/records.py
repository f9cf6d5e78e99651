"""What is kept of each check beyond its state: last failure, answer times, transitions. Words in, words out; no clock.

The checker writes a record, whoever makes a page reads it; a reader may meet one verdict half written, which no page
can tell from having come a moment earlier.
"""

from __future__ import annotations

from bisect import bisect_left
from struct import Struct
from typing import Final, NamedTuple

from upwell.zone.layout import (
    BUCKETS,
    CHECK_AT,
    CHECK_LATENCY,
    CHECK_PASSES,
    CHECK_STATUS,
    HISTORY,
    RECORD_AVERAGE,
    RECORD_BUCKETS,
    RECORD_CHANGES,
    RECORD_FAILED_AT,
    RECORD_HISTORY,
    RECORD_KIND,
    RECORD_KINDS,
    RECORD_NEXT,
    RECORD_STREAK,
    RECORD_TIME,
    RECORD_TIMED,
    RECORD_TIMES,
    RECORD_VOID_AT,
    RECORD_VOID_WHY,
    RECORD_WHY,
    TIMES,
    WORD_BYTES,
)
from upwell.zone.phrases import Phrases

_READ: Final = Struct("@4q").unpack_from  # RECORD_STREAK to RECORD_TIME; `pack_into` would write zeros first
_HEAD: Final = Struct(f"@{RECORD_TIMES}q").unpack_from
_TIMES: Final = Struct(f"@{TIMES}I").unpack
_FIRST: Final = BUCKETS[0]
_LONGEST: Final = (1 << 32) - 1  # microseconds that a word of the last times can hold


class Change(NamedTuple):
    """One transition: when (milliseconds of the checker's clock), to which state, and why."""

    at: int
    up: bool
    why: str


class Record(NamedTuple):
    """One record as it is read. Times of day are milliseconds of the checker's clock, durations microseconds.

    `streak` counts passes, negative failures. `kind` is the place of the last failure's kind, -1: there was none.
    `void_at` and `void_why` tell of the last probe without a verdict. `kinds` counts failures by kind, `buckets` answer
    times up to each of layout.BUCKETS and above, not summed up. `ring` holds the last hundred answer times as they lie
    in the zone; `changes` counts transitions, `history` has the last twenty, oldest first.
    """

    next: int
    streak: int
    average: int
    timed: int
    time: int
    kind: int
    why: str
    failed_at: int
    void_at: int
    void_why: str
    kinds: tuple[int, ...]
    buckets: tuple[int, ...]
    ring: bytes
    changes: int
    history: tuple[Change, ...]

    @property
    def times(self) -> tuple[int, ...]:
        """The last hundred answer times, in no order."""
        return tuple(memoryview(self.ring).cast("I")[: self.timed])

    @property
    def p99(self) -> int:
        """The time that 99 of the last hundred answers did not exceed, 0 without any."""
        if self.timed < TIMES:
            # The least number of them that is 99 in a hundred is all of them.
            return max(self.times, default=0)
        times: tuple[int, ...] = _TIMES(self.ring)
        return sorted(times)[-2]


def note_pass(words: memoryview, at: int) -> None:
    """One more pass in the record at word `at`."""
    streak = words[at + RECORD_STREAK]
    words[at + RECORD_STREAK] = streak + 1 if streak > 0 else 1


def note_failure(words: memoryview, at: int, kind: int, why: int, now: int) -> None:
    """One more failure of the kind at place `kind`, its words at reference `why`."""
    streak = words[at + RECORD_STREAK]
    words[at + RECORD_STREAK] = streak - 1 if streak < 0 else -1
    words[at + RECORD_KINDS + kind] += 1
    words[at + RECORD_KIND] = kind + 1
    words[at + RECORD_WHY] = why
    words[at + RECORD_FAILED_AT] = now


def note_usual(
    words: memoryview, halves: memoryview, slot: int, at: int, now: int, status: int, elapsed: int, following: int
) -> None:
    """One more pass that changes nothing, of the check whose slot is at word `slot` and whose record is at word `at`:
    it took `elapsed` microseconds, the next probe is due at `following`. What `set_check`, `note_pass` and `note_time`
    write, in one call, as nearly every probe needs it."""
    words[slot + CHECK_AT] = now
    words[slot + CHECK_STATUS] = status
    words[slot + CHECK_LATENCY] = elapsed
    words[slot + CHECK_PASSES] += 1
    streak, average, timed, total = _READ(words, (at + RECORD_STREAK) * WORD_BYTES)
    words[at + RECORD_NEXT] = following
    words[at + RECORD_STREAK] = streak + 1 if streak > 0 else 1
    words[at + RECORD_AVERAGE] = average + ((elapsed - average) >> 3) if timed else elapsed
    words[at + RECORD_TIME] = total + elapsed
    words[at + RECORD_BUCKETS + (bisect_left(BUCKETS, elapsed) if elapsed > _FIRST else 0)] += 1
    halves[(at + RECORD_TIMES) * 2 + timed % TIMES] = elapsed if elapsed < _LONGEST else _LONGEST
    words[at + RECORD_TIMED] = timed + 1


def note_time(words: memoryview, halves: memoryview, at: int, elapsed: int) -> None:
    """One more answer took `elapsed` microseconds; `halves` is the same memory in words of 4 bytes."""
    timed = words[at + RECORD_TIMED]
    average = words[at + RECORD_AVERAGE]
    words[at + RECORD_AVERAGE] = average + ((elapsed - average) >> 3) if timed else elapsed
    words[at + RECORD_TIME] += elapsed
    words[at + RECORD_BUCKETS + bisect_left(BUCKETS, elapsed)] += 1
    halves[(at + RECORD_TIMES) * 2 + timed % TIMES] = elapsed if elapsed < _LONGEST else _LONGEST
    words[at + RECORD_TIMED] = timed + 1


def note_change(words: memoryview, at: int, now: int, up: bool, why: int) -> None:
    """One more transition."""
    changes = words[at + RECORD_CHANGES]
    place = at + RECORD_HISTORY + changes % HISTORY * 2
    words[place] = now << 1 | up
    words[place + 1] = why
    words[at + RECORD_CHANGES] = changes + 1


def references(words: memoryview, at: int) -> list[int]:
    """The references to phrases in the record at word `at`, 0 among them."""
    changes = words[at + RECORD_CHANGES]
    found = [words[at + RECORD_WHY], words[at + RECORD_VOID_WHY]]
    if changes:
        start = at + RECORD_HISTORY
        found += words[start + 1 : start + 2 * min(changes, HISTORY) : 2].tolist()
    return found


def read_record(words: memoryview, phrases: Phrases, at: int) -> Record:
    """The record at word `at`."""
    head = _HEAD(words, at * WORD_BYTES)
    changes = words[at + RECORD_CHANGES]
    return Record(
        head[RECORD_NEXT],
        head[RECORD_STREAK],
        head[RECORD_AVERAGE],
        head[RECORD_TIMED],
        head[RECORD_TIME],
        head[RECORD_KIND] - 1,
        phrases.read(head[RECORD_WHY]) if head[RECORD_WHY] else "",
        head[RECORD_FAILED_AT],
        head[RECORD_VOID_AT],
        phrases.read(head[RECORD_VOID_WHY]) if head[RECORD_VOID_WHY] else "",
        head[RECORD_KINDS:RECORD_BUCKETS],
        head[RECORD_BUCKETS:],
        words[at + RECORD_TIMES : at + RECORD_CHANGES].tobytes(),
        changes,
        _history(words, phrases, at, changes) if changes else (),
    )


def _history(words: memoryview, phrases: Phrases, at: int, changes: int) -> tuple[Change, ...]:
    start = at + RECORD_HISTORY
    places = [start + number % HISTORY * 2 for number in range(max(changes - HISTORY, 0), changes)]
    return tuple(Change(words[place] >> 1, bool(words[place] & 1), phrases.read(words[place + 1])) for place in places)
