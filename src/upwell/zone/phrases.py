"""Phrases: sentences that one process writes and all read, in memory shared over the fork. Knows no check and no peer.

A reference is a number that never comes again; its slot is its remainder. Old sentences are written over in time: who
asks for one of them later is told so, and never gets another's words.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from typing import Final

_SLOTS: Final = 4096
_BYTES: Final = 256  # of a slot: reference (8), length (2), text
_TEXT: Final = _BYTES - 10

FORGOTTEN: Final = "(no longer known)"


class Phrases:
    """Made before the fork. Only the checker calls `keep`; references of one that died stay good."""

    __slots__ = ("_known", "_memory")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, (_SLOTS + 1) * _BYTES)  # the last slot holds the next reference
        self._known: OrderedDict[str, int] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Phrases {self._next - 1}>"

    def close(self) -> None:
        self._memory.close()

    def adopt(self, old: Phrases) -> None:
        """Carry all over, references included (a reload)."""
        self._memory[:] = old._memory[:]

    def keep(self, text: str) -> int:
        """The reference of `text` (cut off where it is too long), 0 for an empty one."""
        if not text:
            return 0
        known = self._known
        reference = known.get(text, 0)
        if reference and self._next - reference <= _SLOTS // 2:
            return reference
        reference = self._next
        content = text.encode("utf-8", "replace")[:_TEXT]
        at = reference % _SLOTS * _BYTES
        memory = self._memory
        memory[at : at + 8] = bytes(8)  # nobody reads half a sentence
        memory[at + 8 : at + 10] = len(content).to_bytes(2, "little")
        memory[at + 10 : at + 10 + len(content)] = content
        memory[at : at + 8] = reference.to_bytes(8, "little")
        memory[_SLOTS * _BYTES : _SLOTS * _BYTES + 8] = (reference + 1).to_bytes(8, "little")
        known.pop(text, None)
        known[text] = reference
        if len(known) > _SLOTS // 2:
            known.popitem(last=False)
        return reference

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
    def _next(self) -> int:
        return int.from_bytes(self._memory[_SLOTS * _BYTES : _SLOTS * _BYTES + 8], "little") or 1
