"""Byte ranges: which parts of a content a Range field asks for (RFC 9110, 14; nginx's rules). Knows no content."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_RANGE: Final = re.compile(rb" *(?:([0-9]+) *- *([0-9]+)?|-([0-9]+)) *(?=,|\Z)")
_MOST: Final = (1 << 63) - 1
_MOST_DIGITS: Final = 40  # before Python is asked to make a number of them
_PART: Final = 256  # what a part costs besides its bytes, and how much of that is too little to tell, as nginx counts
_SPARE: Final = 4096

NONE: Final[tuple[tuple[int, int], ...]] = ()


def is_of_bytes(field: bytes) -> bool:
    """Whether a Range field is one to obey: those of other units are not."""
    return len(field) >= 7 and field[:6].lower() == b"bytes="


def parse_ranges(field: bytes, length: int, most: int) -> Sequence[tuple[int, int]] | None:
    """The ranges of a field that `is_of_bytes`, each from its first byte to behind its last one, out of `length`.

    None: all of it is to be sent, for there are more than `most`, or they are, with what stands between them, much more
    than the whole. Empty: none can be (416).
    """
    found: list[tuple[int, int]] = []
    at = 6
    total = 0
    while True:
        match = _RANGE.match(field, at)
        if match is None:
            return NONE
        first, last, suffix = match.groups()
        if len(first or b"") > _MOST_DIGITS or len(last or suffix or b"") > _MOST_DIGITS:
            return NONE
        if suffix is not None:
            wanted = int(suffix)
            if wanted > _MOST:
                return NONE
            start = max(length - wanted, 0)
            end = length
        else:
            start = int(first)
            end = length if last is None else min(int(last) + 1, length)
            if start > _MOST or (last is not None and int(last) > _MOST):
                return NONE
        if start < end:
            found.append((start, end))
            total += end - start
            if len(found) > most:
                return None
        elif start == 0:
            return None
        at = match.end()
        if at >= len(field):
            break
        at += 1
    if not found:
        return NONE
    if total > length or total + _PART * len(found) > length + _SPARE:
        return None
    return found


def part_head(boundary: bytes, media: bytes | None, start: int, end: int, length: int) -> bytes:
    """What stands before one range among several (multipart/byteranges)."""
    kind = b"" if media is None else b"Content-Type: %b\r\n" % media
    return b"\r\n--%b\r\n%bContent-Range: bytes %d-%d/%d\r\n\r\n" % (boundary, kind, start, end - 1, length)


def parts_end(boundary: bytes) -> bytes:
    return b"\r\n--%b--\r\n" % boundary
