"""What is kept of each check beyond its state: last failure, answer times, transitions. Words in, words out; no clock.

The checker writes a record, whoever makes a page reads it; a reader may meet one verdict half written, which no page
can tell from having come a moment earlier.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from struct import Struct
from sys import byteorder
from typing import Final, NamedTuple

from upwell.zone.layout import (
    BUCKETS,
    CHECK_AT,
    CHECK_LATENCY,
    CHECK_PASSES,
    CHECK_RECENT,
    HISTORY,
    RECENT_SHIFT,
    RECORD_AVERAGE,
    RECORD_BUCKETS,
    RECORD_CHANGES,
    RECORD_FAILED_AT,
    RECORD_HISTORY,
    RECORD_KIND,
    RECORD_KINDS,
    RECORD_NEXT,
    RECORD_PERIOD,
    RECORD_STREAK,
    RECORD_TIME,
    RECORD_TIMED,
    RECORD_TIMES,
    RECORD_VOID_AT,
    RECORD_VOID_WHY,
    RECORD_WHY,
    SETTLING,
    TIMES,
    WORD_BYTES,
)
from upwell.zone.phrases import Phrases

_SLOT: Final = Struct(f"@{CHECK_RECENT + 1}q").unpack_from
_HEAD: Final = Struct(f"@{RECORD_TIMES}q").unpack_from
_TIMES: Final = Struct(f"@{TIMES}I").unpack
_ONES: Final = sum([1 << 32 * place for place in range(TIMES)])
_TOPS: Final = _ONES << 31
_GUESSES: Final = (8, 5, 14)  # quarters of the average: for p99s of twice it, of little more, of far more
_FEW: Final = 10
_MARK: Final = 0x80  # the byte of a number's top bit, the others of it being 0
LONGEST: Final = (1 << 32) - 1
"""Microseconds that a word of the last times can hold."""
_TRIES: Final = 64  # to read what is not being settled meanwhile; a checker that was killed then never ends it


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
        return _second(self.ring, self.average)


def _second(ring: bytes, average: int) -> int:
    """The largest but one of TIMES numbers of 4 bytes. To sort them was a third of a page's time: those above some
    threshold, of which there are to be a few, are found by taking it from all of them at once, as one long number."""
    if average >> 29 == 0:
        whole = int.from_bytes(ring, byteorder)
        if not whole & _TOPS:
            for quarters in _GUESSES:
                above = (whole | _TOPS) - _ONES * (average * quarters >> 2) & _TOPS
                if 2 <= above.bit_count() <= _FEW:
                    first = second = 0
                    marks = above.to_bytes(len(ring), byteorder)
                    numbers = memoryview(ring).cast("I")
                    at = marks.find(_MARK)
                    while at >= 0:
                        time = numbers[at >> 2]
                        if time > first:
                            first, second = time, first
                        elif time > second:
                            second = time
                        at = marks.find(_MARK, at + 1)
                    return second
    times: tuple[int, ...] = _TIMES(ring)
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


def note_usual(words: memoryview, halves: memoryview, slot: int, at: int, recent: int, turn: int, elapsed: int) -> None:
    """One more pass that changes nothing, of the check whose slot is at word `slot` and whose record is at word `at`:
    it took `elapsed` microseconds, LONGEST at most, and that is to be the one at place `turn` of the last times.
    `recent` is what CHECK_RECENT shall say."""
    halves[(at + RECORD_TIMES) * 2 + turn] = elapsed
    words[slot + CHECK_RECENT] = recent


def settle(words: memoryview, halves: memoryview, slot: int, at: int) -> None:
    """Write of the recent passes what `PeerTable.set_check`, `note_pass` and `note_time` would have."""
    recent = words[slot + CHECK_RECENT]
    count = recent & SETTLING
    if not count:
        return
    since = recent >> RECENT_SHIFT
    if count == SETTLING:
        # The checker before was killed in the middle of it: how much of it is written, nobody knows.
        words[slot + CHECK_AT] = since
        words[slot + CHECK_RECENT] = recent - count
        return
    # All is worked out before the first word is written, so that readers need not wait.
    _, streak, average, timed, total = words[at : at + RECORD_TIMED + 2].tolist()
    first = (at + RECORD_TIMES) * 2 + timed % TIMES
    times = halves[first : first + count].tolist()
    streak = streak + count if streak > 0 else count
    average = _averaged(average, timed, times)
    total += sum(times)
    following = words[at + RECORD_NEXT] + count * words[at + RECORD_PERIOD] // 1000
    passes = words[slot + CHECK_PASSES] + count
    counted = [
        (at + RECORD_BUCKETS + place, words[at + RECORD_BUCKETS + place] + more) for place, more in _counted(times)
    ]
    words[slot + CHECK_RECENT] = recent | SETTLING
    words[slot + CHECK_AT] = since
    words[slot + CHECK_LATENCY] = times[-1]
    words[slot + CHECK_PASSES] = passes
    words[at + RECORD_NEXT] = following
    words[at + RECORD_STREAK] = streak
    words[at + RECORD_AVERAGE] = average
    words[at + RECORD_TIME] = total
    words[at + RECORD_TIMED] = timed + count
    for word, number in counted:
        words[word] = number
    words[slot + CHECK_RECENT] = recent - count


def _averaged(average: int, timed: int, times: list[int]) -> int:
    for elapsed in times:
        average = average + ((elapsed - average) >> 3) if timed else elapsed
        timed = 1
    return average


def _counted(times: list[int]) -> list[tuple[int, int]]:
    """Which buckets they are for, and how many."""
    ordered = sorted(times)
    count = len(ordered)
    found = []
    before = 0
    for place, bound in enumerate(BUCKETS):
        upto = bisect_right(ordered, bound, before)
        if upto > before:
            found.append((place, upto - before))
            before = upto
        if upto == count:
            return found
    found.append((len(BUCKETS), count - before))
    return found


def note_time(words: memoryview, halves: memoryview, at: int, elapsed: int) -> None:
    """One more answer took `elapsed` microseconds; `halves` is the same memory in words of 4 bytes."""
    timed = words[at + RECORD_TIMED]
    average = words[at + RECORD_AVERAGE]
    words[at + RECORD_AVERAGE] = average + ((elapsed - average) >> 3) if timed else elapsed
    words[at + RECORD_TIME] += elapsed
    words[at + RECORD_BUCKETS + bisect_left(BUCKETS, elapsed)] += 1
    halves[(at + RECORD_TIMES) * 2 + timed % TIMES] = elapsed if elapsed < LONGEST else LONGEST
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


def read_check(words: memoryview, slot: int, at: int, tries: int = _TRIES) -> tuple[int, ...]:
    """The words of the check slot at word `slot` up to CHECK_SINCE, the recent passes included; the record is at word
    `at`. Without those passes where they were being settled at each of so many tries."""
    for _ in range(tries):
        recent = words[slot + CHECK_RECENT]
        found: tuple[int, ...] = _SLOT(words, slot * WORD_BYTES)
        count = recent & SETTLING
        if not count:
            if found[CHECK_RECENT] == recent:
                return found[:CHECK_RECENT]
        elif count != SETTLING:
            timed = words[at + RECORD_TIMED] + count - 1
            ring = words[at + RECORD_TIMES : at + RECORD_CHANGES].tobytes()
            if words[slot + CHECK_RECENT] == recent:
                identity, rise, health, _, status, _, passes, fails, since, _ = found
                latency = _TIMES(ring)[timed % TIMES]
                return (identity, rise, health, recent >> RECENT_SHIFT, status, latency, passes + count, fails, since)
    return _SLOT(words, slot * WORD_BYTES)[:CHECK_RECENT]


def read_record(words: memoryview, phrases: Phrases, slot: int, at: int, tries: int = _TRIES) -> Record:
    """The record at word `at`, with the recent passes of the check slot at word `slot`."""
    for _ in range(tries):
        recent = words[slot + CHECK_RECENT]
        head = _HEAD(words, at * WORD_BYTES)
        ring = words[at + RECORD_TIMES : at + RECORD_CHANGES].tobytes()
        if recent & SETTLING != SETTLING and words[slot + CHECK_RECENT] == recent:
            break
    count = recent & SETTLING
    following, streak, average = head[RECORD_NEXT], head[RECORD_STREAK], head[RECORD_AVERAGE]
    timed, time, buckets = head[RECORD_TIMED], head[RECORD_TIME], head[RECORD_BUCKETS:]
    if 0 < count < SETTLING:
        first = timed % TIMES
        times = list(_TIMES(ring)[first : first + count])
        following += count * head[RECORD_PERIOD] // 1000
        streak = streak + count if streak > 0 else count
        average = _averaged(average, timed, times)
        timed += count
        time += sum(times)
        more = list(buckets)
        for place, number in _counted(times):
            more[place] += number
        buckets = tuple(more)
    changes = words[at + RECORD_CHANGES]
    return Record(
        following,
        streak,
        average,
        timed,
        time,
        head[RECORD_KIND] - 1,
        phrases.read(head[RECORD_WHY]) if head[RECORD_WHY] else "",
        head[RECORD_FAILED_AT],
        head[RECORD_VOID_AT],
        phrases.read(head[RECORD_VOID_WHY]) if head[RECORD_VOID_WHY] else "",
        head[RECORD_KINDS:RECORD_BUCKETS],
        buckets,
        ring,
        changes,
        _history(words, phrases, at, changes) if changes else (),
    )


def _history(words: memoryview, phrases: Phrases, at: int, changes: int) -> tuple[Change, ...]:
    start = at + RECORD_HISTORY
    places = [start + number % HISTORY * 2 for number in range(max(changes - HISTORY, 0), changes)]
    return tuple(Change(words[place] >> 1, bool(words[place] & 1), phrases.read(words[place + 1])) for place in places)
