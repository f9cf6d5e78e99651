"""ngx.re on Python's `re`: options, positions and replacement templates as lua-nginx-module has them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from upwell.lua.bridge import LuaFailure, integer
from upwell.pcre import PatternError, PatternTimeout, bounded, compile_pattern

if TYPE_CHECKING:
    from upwell.lua.vm import Vm

_FLAGS = {"i": re.IGNORECASE, "s": re.DOTALL, "m": re.MULTILINE, "x": re.VERBOSE}
_TIMEOUT = b"pcre_exec() failed: -8"  # PCRE_ERROR_MATCHLIMIT
_TEMPLATE = re.compile(rb"\$(?:(\$)|(\d+)|\{(\d+)\})")


class _Compiled:
    """A compiled pattern with its options: `a` anchors it, `u` counts in characters and must be valid UTF-8."""

    __slots__ = ("find", "groups", "names")

    def __init__(self, pattern: re.Pattern[bytes], anchored: bool) -> None:
        self.find = pattern.match if anchored else pattern.search
        self.groups = pattern.groups
        self.names: list[bytes | int] = []
        for name, number in pattern.groupindex.items():
            self.names += (name.encode(), number)


@lru_cache(maxsize=1024)
def _compiled(pattern: bytes, options: bytes) -> _Compiled | bytes:
    """The compiled pattern, or the error message for it."""
    flags = 0
    letters = options.decode("latin-1")
    for letter in letters:
        if letter in _FLAGS:
            flags |= _FLAGS[letter]
        elif letter == "d":
            raise LuaFailure(b'the regex option "d" (DFA mode) is not supported by upwell')
        elif letter in "DJ":
            raise LuaFailure(f'the regex option "{letter}" is not supported by upwell')
        elif letter not in "ajouU":
            raise LuaFailure(f'unknown flag "{letter}" (flags "{letters}")')
    try:
        made = compile_pattern(_utf8(pattern) if "u" in letters or "U" in letters else pattern, flags)
    except PatternError as error:
        return b'pcre_compile() failed: %b in "%b"' % (str(error).encode(), pattern[:256])
    return _Compiled(made, "a" in letters)


def _utf8(pattern: bytes) -> bytes:
    """Make `.` and literal characters outside ASCII count as whole characters; classes with such are refused."""
    try:
        text = pattern.decode()
    except UnicodeDecodeError:
        raise PatternError("invalid UTF-8 in the pattern") from None
    out: list[str] = []
    inside = False
    escaped = False
    for char in text:
        if escaped:
            escaped = False
            out.append(char)
        elif char == "\\":
            escaped = True
            out.append(char)
        elif inside:
            if char > "\x7f":
                raise PatternError("characters outside ASCII in a class are not supported by upwell's regex engine")
            inside = char != "]"
            out.append(char)
        elif char == "[":
            inside = True
            out.append(char)
        elif char == ".":
            out.append("(?:[\\x00-\\x09\\x0b-\\x7f]|[\\xc2-\\xf4][\\x80-\\xbf]+)")
        elif char > "\x7f":
            out.append(f"(?:{char})")
        else:
            out.append(char)
    return "".join(out).encode()


def functions(vm: Vm) -> Mapping[str, Callable[..., Any]]:
    def search(subject: bytes, pattern: bytes, options: bytes, start: float | None) -> Any:
        """(error, None) or (None, match or None, compiled)."""
        compiled = _compiled(pattern, options)
        if type(compiled) is bytes:
            return compiled, None, None
        assert isinstance(compiled, _Compiled)
        place = 0 if start is None else integer(start, 4, "re") - 1
        if place > len(subject):
            return None, None, compiled
        try:
            return None, bounded(compiled.find, subject, place), compiled
        except PatternTimeout:
            return _TIMEOUT, None, compiled

    def captures(match: re.Match[bytes], compiled: _Compiled) -> list[Any]:
        groups = [False if group is None else group for group in match.groups()]
        return [compiled.groups, match[0], *groups, *compiled.names]

    def re_match(subject: bytes, pattern: bytes, options: bytes, start: float | None = None) -> Any:
        problem, match, compiled = search(subject, pattern, options, start)
        if match is None:
            return problem, None
        return (None, match.end() + 1, *captures(match, compiled))

    def re_find(subject: bytes, pattern: bytes, options: bytes, start: float | None = None, group: Any = None) -> Any:
        problem, match, compiled = search(subject, pattern, options, start)
        if match is None:
            return problem, None
        number = 0 if group is None else integer(group, 5, "find")
        if not 0 <= number <= compiled.groups:
            return (b"nth out of bound",)
        if match.start(number) < 0:
            return None, None, None, match.end() + 1
        return None, match.start(number) + 1, match.end(number), match.end() + 1

    def re_step(subject: bytes, pattern: bytes, options: bytes, start: float) -> Any:
        problem, match, compiled = search(subject, pattern, options, start)
        if match is None:
            return problem, None
        return (None, match.end() + 1, match.end() == match.start(), *captures(match, compiled))

    def re_check(pattern: bytes, options: bytes) -> Any:
        compiled = _compiled(pattern, options)
        return compiled if type(compiled) is bytes else None

    def re_replace(subject: bytes, pattern: bytes, options: bytes, template: bytes, most: int) -> Any:
        compiled = _compiled(pattern, options)
        if type(compiled) is bytes:
            return None, None, compiled
        assert isinstance(compiled, _Compiled)
        pieces = _parse_template(template)
        parts: list[bytes] = []
        place = at = count = 0
        while (most == 0 or count < most) and at <= len(subject):
            try:
                match = bounded(compiled.find, subject, at)
            except PatternTimeout:
                return None, None, _TIMEOUT
            if match is None:
                break
            parts.append(subject[place : match.start()])
            for piece in pieces:
                if type(piece) is bytes:
                    parts.append(piece)
                elif isinstance(piece, int) and piece <= compiled.groups:
                    parts.append(match[piece] or b"")
            count += 1
            place = match.end()
            at = place + 1 if match.end() == match.start() else place
        if count == 0:
            return subject, 0
        parts.append(subject[place:])
        return b"".join(parts), count

    return {
        "re_match": re_match,
        "re_find": re_find,
        "re_step": re_step,
        "re_check": re_check,
        "re_replace": re_replace,
    }


@lru_cache(maxsize=256)
def _parse_template(template: bytes) -> tuple[bytes | int, ...]:
    """The pieces of a replacement: text, and the numbers of captures ($0, ${1}; $$ is a dollar)."""
    pieces: list[bytes | int] = []
    place = 0
    while (dollar := template.find(b"$", place)) >= 0:
        match = _TEMPLATE.match(template, dollar)
        if match is None:
            raise LuaFailure(b'attempt to use invalid capturing variable in "%b"' % template)
        pieces.append(template[place:dollar])
        pieces.append(b"$" if match[1] else int(match[2] or match[3]))
        place = match.end()
    pieces.append(template[place:])
    return tuple(piece for piece in pieces if piece != b"")
