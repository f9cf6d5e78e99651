"""nginx's sizes and times as text: `1m`, `30s`, `1h30m`. Knows numbers and suffixes, not directives."""

from __future__ import annotations

import re

_SIZE = re.compile(r"([0-9]+)([kKmMgG]?)")
_SIZE_FACTOR = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_TIME = re.compile(r"([0-9]+)(ms|[yMwdhms]|)\s*")
_TIME_ORDER = ["y", "M", "w", "d", "h", "m", "s", "ms"]
_TIME_FACTOR = {
    "y": 31_536_000.0,
    "M": 2_592_000.0,
    "w": 604_800.0,
    "d": 86_400.0,
    "h": 3600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 0.001,
}


def parse_size(text: str) -> int:
    """Bytes of `8k`, `1m`, `1g` or `512` (nginx's syntax page). Raises ValueError for anything else."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return int(match[1]) * _SIZE_FACTOR[match[2].lower()]


def parse_time(text: str) -> float:
    """Seconds of `60`, `500ms`, `1h30m`, `1d 12h` (nginx's syntax page). Raises ValueError for anything else.

    Units go from the largest to the smallest, each once; a number without a unit means seconds and comes last.
    """
    seconds = 0.0
    at = 0
    last = -1
    while at < len(text):
        match = _TIME.match(text, at)
        if match is None:
            raise ValueError(text)
        unit = match[2] or "s"
        order = _TIME_ORDER.index(unit)
        if order <= last:
            raise ValueError(text)
        last = order
        seconds += int(match[1]) * _TIME_FACTOR[unit]
        at = match.end()
    if last < 0 or text != text.strip():
        raise ValueError(text)
    return seconds
