"""A peer's own words, made fit for a sentence. Pure."""

from __future__ import annotations

from typing import Final

_MOST: Final = 160  # bytes; a sentence has 246 in the zone (zone/phrases.py)


def said(words: bytes) -> str:
    """`words` in one printable line of a bounded length; what is not UTF-8 or would move the cursor is escaped."""
    text = words[:_MOST].decode("utf-8", "backslashreplace")
    if not text.isprintable():
        text = "".join(each if each.isprintable() else _escaped(ord(each)) for each in text)
    return text if len(words) <= _MOST and len(text) <= _MOST else text[: _MOST - 3] + "..."


def _escaped(code: int) -> str:
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}"
