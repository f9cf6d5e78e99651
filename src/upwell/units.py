"""nginx's sizes and times as text: `1m`, `30s`, `1h30m`. Knows numbers and suffixes, not directives."""

from __future__ import annotations

import re

_SIZE = re.compile(r"([0-9]+)([kKmMgG]?)")
_SIZE_FACTOR = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_MOST = (1 << 63) - 1
_TIME = re.compile(r"([0-9]+)(ms|[yMwdhms]|) *")
_MILLISECONDS = {
    "y": 31_536_000_000,
    "M": 2_592_000_000,
    "w": 604_800_000,
    "d": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1000,
    "ms": 1,
}


def parse_size(text: str) -> int:
    """Bytes of `8k`, `1m` or `512` (nginx's syntax page). Raises ValueError for anything else."""
    if text[-1:] in ("g", "G"):
        raise ValueError(text)
    return parse_offset(text)


def parse_offset(text: str) -> int:
    """As parse_size, of what nginx counts as offsets in files: gigabytes (`1g`) are known too."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    size = int(match[1]) * _SIZE_FACTOR[match[2].lower()]
    if size > _MOST:
        raise ValueError(text)
    return size


def parse_time(text: str) -> float:
    """Seconds of `60`, `500ms`, `1h30m`, `1d 12h` (nginx's syntax page). Raises ValueError for anything else.

    Units go from the largest to the smallest, each once; a number without a unit means seconds and comes last. As with
    nginx, where milliseconds are known, months and years are not.
    """
    total = _milliseconds(text, ("w", "d", "h", "m", "s", "ms"))
    if total > _MOST:
        raise ValueError(text)
    return total / 1000


def parse_seconds(text: str) -> float:
    """As parse_time, of the times that nginx counts in seconds: months and years are known, milliseconds are not."""
    total = _milliseconds(text, ("y", "M", "w", "d", "h", "m", "s"))
    if total > _MOST * 1000:
        raise ValueError(text)
    return total / 1000


def _milliseconds(text: str, units: tuple[str, ...]) -> int:
    total = at = 0
    while at < len(text):
        match = _TIME.match(text, at)
        if match is None:
            raise ValueError(text)
        unit, at = match[2], match.end()
        if not unit:
            if at < len(text):
                raise ValueError(text)
            unit = "s"
        elif unit not in units:
            raise ValueError(text)
        else:
            units = units[units.index(unit) + 1 :]
        total += int(match[1]) * _MILLISECONDS[unit]
    if not text:
        raise ValueError(text)
    return total
