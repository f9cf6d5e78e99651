"""Lua source that can be stopped: whoever never returns goes round a loop or calls itself, and each turn is counted.

LuaJIT does not look for hooks in code that it has compiled, so the look is put into the source, where code could go on
without end: at each turn of a loop, before `goto` and before `return f(...)`. Lines stay where they were. Knows Lua's
tokens, not its grammar: what a rare use of words makes of it does not compile, and is then run as it was.
"""

from __future__ import annotations

import re

TURN = "_TURN"
"""The local function (core.lua) that counted source calls."""

_NAME = r"[A-Za-z_\x80-\U0010ffff][0-9A-Za-z_\x80-\U0010ffff]*"
_TOKEN = re.compile(
    rf"""
    --\[(?P<c>=*)\[ .*? \](?P=c)\]  |  --[^\n]*
    | \[(?P<s>=*)\[ .*? \](?P=s)\]
    | "(?: \\z\s* | \\. | [^"\\] )*"  |  '(?: \\z\s* | \\. | [^'\\] )*'
    | \.?[0-9][0-9A-Za-z_.]*
    | (?P<after> (?:do|repeat) (?![0-9A-Za-z_\x80-\U0010ffff]) )
    | (?P<before> goto (?=\s+{_NAME})
        | return (?=\s+ (?!function\b|not\b) {_NAME} (?:\s*[.:]\s*{_NAME})* \s*(?:[("'{{]|\[=*\[)) )
    | {_NAME}
    """,
    re.VERBOSE | re.DOTALL,
)


def counted(source: str) -> str:
    """`source` with a call of TURN at each turn."""
    return _TOKEN.sub(_with_turn, source)


def _with_turn(match: re.Match[str]) -> str:
    if match["after"] is not None:
        return f"{match[0]} {TURN}();"
    if match["before"] is not None:
        return f"{TURN}();{match[0]}"
    return match[0]
