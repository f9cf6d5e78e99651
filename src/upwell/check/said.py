"""A peer's own words, made fit for a sentence. Pure."""

from __future__ import annotations

import re
from typing import Final

_MOST: Final = 160  # characters; a sentence has 246 bytes in the zone (zone/phrases.py)
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def said(words: bytes) -> str:
    """`words` in one printable line of a bounded length; what is not UTF-8 is shown as \\xNN."""
    text = words[: 4 * _MOST].decode("utf-8", "backslashreplace")
    safe = _CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02X}", text)
    return safe if len(safe) <= _MOST else safe[: _MOST - 3] + "..."
