"""Phrases: sentences that one process writes and all read, in memory shared over the fork. Knows no check and no peer.

A reference is a number that never comes again; its slot is its remainder. Sentences that nobody refers to any more are
written over: a peer that always finds new words takes as many slots as its record has room for, and wipes out nobody
else's. Only when all are in use do the oldest go; who asks for one of them later is told so, and never gets another's.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

_SLOTS: Final = 4096
_ROOM: Final = _SLOTS // 4  # slots that are made free at once, at least: it takes a look at all records
_BYTES: Final = 256  # of a slot: reference (8), length (2), text
_TEXT: Final = _BYTES - 10

FORGOTTEN: Final = "(no longer known)"


class Phrases:
    """Made before the fork. Only the checker calls `keep`; references of one that died stay good."""

    __slots__ = ("_free", "_known", "_memory")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, (_SLOTS + 1) * _BYTES)  # the last slot: how many were kept ever
        self._known: OrderedDict[str, int] = OrderedDict()  # the one used last is last
        self._free: list[int] = []

    def __repr__(self) -> str:
        return f"<Phrases {self._count}>"

    def close(self) -> None:
        self._memory.close()

    def adopt(self, old: Phrases) -> None:
        """Carry all over, references included (a reload)."""
        self._memory[:] = old._memory[:]

    def keep(self, text: str, in_use: Callable[[], Iterable[int]] = tuple) -> int:
        """The reference of `text` (cut off where it is too long), 0 for an empty one. The caller writes it down before
        it keeps another; `in_use` gives all references that are written down anywhere."""
        if not text:
            return 0
        memory = self._memory
        reference = self._known.get(text, 0)
        if reference:
            at = reference % _SLOTS * _BYTES
            if memory[at : at + 8] == reference.to_bytes(8, "little"):
                self._known.move_to_end(text)
                return reference
        if not self._free:
            self._make_room(in_use())
        count = self._count + 1
        slot = self._free.pop()
        reference = count * _SLOTS + slot
        content = text.encode("utf-8", "replace")[:_TEXT]
        at = slot * _BYTES
        memory[at : at + 8] = bytes(8)  # nobody reads half a sentence
        memory[at + 8 : at + 10] = len(content).to_bytes(2, "little")
        memory[at + 10 : at + 10 + len(content)] = content
        memory[at : at + 8] = reference.to_bytes(8, "little")
        memory[_SLOTS * _BYTES : _SLOTS * _BYTES + 8] = count.to_bytes(8, "little")
        self._known.pop(text, None)
        self._known[text] = reference
        return reference

    def _make_room(self, in_use: Iterable[int]) -> None:
        """Find slots to write to: those that nobody refers to, and then those used longest ago."""
        memory = self._memory
        there = (int.from_bytes(memory[at : at + 8], "little") for at in range(0, _SLOTS * _BYTES, _BYTES))
        held = {reference for reference in there if reference}
        held.intersection_update(in_use)
        recent = {reference: place for place, reference in enumerate(self._known.values(), 1)}
        order = sorted(held, key=lambda reference: (recent.get(reference, 0), reference))
        kept = set(order[max(len(order) + _ROOM - _SLOTS, 0) :])
        self._known = OrderedDict((text, reference) for text, reference in self._known.items() if reference in kept)
        slots = {reference % _SLOTS for reference in kept}
        self._free = [slot for slot in range(_SLOTS) if slot not in slots]

    def read(self, reference: int) -> str:
        """The sentence behind `reference`, FORGOTTEN when it was written over; "" for 0."""
        if reference <= 0:
            return ""
        at = reference % _SLOTS * _BYTES
        memory = self._memory
        wanted = reference.to_bytes(8, "little")
        if memory[at : at + 8] != wanted:
            return FORGOTTEN
        length = int.from_bytes(memory[at + 8 : at + 10], "little")
        content = memory[at + 10 : at + 10 + min(length, _TEXT)]
        if memory[at : at + 8] != wanted:
            return FORGOTTEN
        return content.decode("utf-8", "replace")

    @property
    def _count(self) -> int:
        """How many were ever kept: a part of each reference, so that none comes again."""
        return int.from_bytes(self._memory[_SLOTS * _BYTES : _SLOTS * _BYTES + 8], "little")
