"""PCRE patterns for Python's `re` over bytes: a translator, with a clear refusal of what `re` lacks.

It knows the two dialects, not who uses them (the configuration's expressions and Lua's ngx.re). Same in both and left
alone: quantifiers, lazy or possessive or neither, groups, atomic groups, lookaround, back references, \\d \\w \\s \\b.

Also what `re` lacks altogether: a bound on the time of one match (PCRE has its match limit), in `search` and `bounded`.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterator
from re import _parser  # type: ignore[attr-defined]  # typeshed lacks it; how else to see what a pattern repeats?
from typing import Any, Final

_POSIX: Final[dict[bytes, bytes]] = {
    b"alnum": rb"A-Za-z0-9",
    b"alpha": rb"A-Za-z",
    b"ascii": rb"\x00-\x7f",
    b"blank": rb" \t",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9",
    b"graph": rb"\x21-\x7e",
    b"lower": rb"a-z",
    b"print": rb"\x20-\x7e",
    b"punct": rb"!-/:-@\[-`{-~",
    b"space": rb"\s",
    b"upper": rb"A-Z",
    b"word": rb"\w",
    b"xdigit": rb"0-9A-Fa-f",
}
# What an escape means outside a class; inside one, the brackets are taken off.
_SETS: Final[dict[int, bytes]] = {
    ord("h"): rb"[ \t\xa0]",
    ord("H"): rb"[^ \t\xa0]",
    ord("v"): rb"[\n\x0b\x0c\r\x85]",
    ord("V"): rb"[^\n\x0b\x0c\r\x85]",
    ord("N"): rb"[^\n]",
}
_SIMPLE: Final[dict[int, bytes]] = {ord("e"): rb"\x1b", ord("a"): rb"\x07"}
_OUTSIDE: Final[dict[int, bytes]] = {
    ord("z"): rb"\Z",
    ord("Z"): rb"(?=\n?\Z)",
    ord("R"): rb"(?>\r\n|[\n\x0b\x0c\r\x85])",
}
_REFUSED: Final[dict[int, str]] = {
    ord("K"): r"\K",
    ord("G"): r"\G",
    ord("X"): r"\X",
    ord("p"): r"\p",
    ord("P"): r"\P",
    ord("C"): r"\C",
}
_LONGEST: Final = 65_535  # as in PCRE with its usual link size; Python takes seconds for a pattern of a megabyte
_NAME: Final = rb"[A-Za-z_][A-Za-z0-9_]*"
_GROUP_NAME = re.compile(rb"\(\?(?:P?<(" + _NAME + rb")>|'(" + _NAME + rb")')")
_REFERENCE: Final = re.compile(
    rb"\\(?:k(?:<("
    + _NAME
    + rb")>|'("
    + _NAME
    + rb")'|\{("
    + _NAME
    + rb")\})|g(?:(\d+)|\{(-?\d+)\}|\{("
    + _NAME
    + rb")\}))"
)
_FLAGS: Final = re.compile(rb"\(\?([imsx]*)(?:-([imsx]+))?([:)])")
_QUANTIFIER: Final = re.compile(rb"\{\d+(?:,\d*)?\}")
_HEX = re.compile(rb"\\x(?:\{([0-9A-Fa-f]*)\}|([0-9A-Fa-f]{0,2}))")
_OCTAL = re.compile(rb"\\(?:o\{([0-7]+)\}|(0[0-7]{0,2}))")


class PatternError(Exception):
    """A pattern that is wrong, or uses what upwell's engine lacks."""


class _Translator:
    """One pass over one pattern."""

    __slots__ = ("closes", "groups", "out", "pattern", "place")

    def __init__(self, pattern: bytes) -> None:
        self.pattern = pattern
        self.place = 0
        self.out: list[bytes] = []
        self.groups = 0
        # How many extra ")" the end of each open group needs, for flags set in the middle of it.
        self.closes = [0]

    def take(self, match: re.Match[bytes], text: bytes) -> None:
        self.out.append(text)
        self.place = match.end()

    def run(self) -> bytes:
        pattern = self.pattern
        while self.place < len(pattern):
            char = pattern[self.place : self.place + 1]
            if char == b"\\":
                self.escape()
            elif char == b"[":
                self.character_class()
            elif char == b"(":
                self.group()
            elif char == b")":
                if len(self.closes) > 1:
                    self.out.append(b")" * self.closes.pop())
                self.out.append(b")")
                self.place += 1
            elif char == b"{" and not _QUANTIFIER.match(pattern, self.place):
                self.out.append(rb"\{")
                self.place += 1
            else:
                self.out.append(char)
                self.place += 1
        self.out.append(b")" * self.closes[0])
        return b"".join(self.out)

    def escape(self) -> None:
        pattern, place = self.pattern, self.place
        if place + 1 >= len(pattern):
            raise PatternError("\\ at end of pattern")
        code = pattern[place + 1]
        if code == ord("Q"):
            end = pattern.find(b"\\E", place + 2)
            literal = pattern[place + 2 : end if end >= 0 else len(pattern)]
            self.out.append(re.escape(literal))
            self.place = end + 2 if end >= 0 else len(pattern)
            return
        if code == ord("E"):
            self.place += 2
            return
        reference = _REFERENCE.match(pattern, place)
        if reference is not None:
            self.reference(reference)
            return
        if code in _OUTSIDE:
            self.out.append(_OUTSIDE[code])
            self.place += 2
        elif code in _SETS:
            self.out.append(_SETS[code])
            self.place += 2
        else:
            self.out.append(self.character())

    def reference(self, match: re.Match[bytes]) -> None:
        name = match[1] or match[2] or match[3] or match[6]
        if name is not None:
            self.take(match, b"(?P=" + name + b")")
            return
        number = int(match[4] or match[5])
        if number < 0:
            number += self.groups + 1
        self.take(match, b"(?:\\%d)" % number)

    def character(self) -> bytes:
        """An escape that is one character (or a class such as \\d) in Python's spelling; moves past it."""
        pattern, place = self.pattern, self.place
        code = pattern[place + 1]
        if code in _REFUSED:
            raise PatternError(f"{_REFUSED[code]} is not supported by upwell's regex engine")
        match = _HEX.match(pattern, place)
        if match is not None:
            value = int(match[1] or match[2] or b"0", 16)
            if value > 255:
                raise PatternError("character code point value in \\x{} or \\o{} is too large")
            self.place = match.end()
            return b"\\x%02x" % value
        match = _OCTAL.match(pattern, place)
        if match is not None:
            self.place = match.end()
            return b"\\x%02x" % (int(match[1] or match[2], 8) & 255)
        self.place += 2
        if code == ord("c") and self.place < len(pattern):
            self.place += 1
            return b"\\x%02x" % (pattern[self.place - 1] & 0xDF ^ 0x40)
        if code in _SIMPLE:
            return _SIMPLE[code]
        char = pattern[place + 1 : place + 2]
        if char.isalnum():
            return b"\\" + char
        return re.escape(char)

    def character_class(self) -> None:
        pattern = self.pattern
        out = [b"["]
        self.place += 1
        if pattern[self.place : self.place + 1] == b"^":
            out.append(b"^")
            self.place += 1
        first = True
        while True:
            if self.place >= len(pattern):
                raise PatternError("missing terminating ] for character class")
            char = pattern[self.place : self.place + 1]
            if char == b"]" and not first:
                break
            first = False
            if char == b"\\":
                out.append(self.class_escape())
            elif char == b"[" and pattern[self.place + 1 : self.place + 2] in (b":", b".", b"="):
                end = pattern.find(b":]", self.place + 2)
                name = pattern[self.place + 2 : end] if end >= 0 else b""
                negated = name.startswith(b"^")
                if name.lstrip(b"^") in _POSIX and pattern[self.place + 1 : self.place + 2] == b":":
                    if negated:
                        raise PatternError("[:^name:] is not supported by upwell's regex engine")
                    out.append(_POSIX[name])
                    self.place = end + 2
                elif end >= 0 and name.isalpha():
                    raise PatternError("unknown POSIX class name")
                else:
                    out.append(rb"\[")
                    self.place += 1
            else:
                # Characters that Python reserves inside a class for set operations.
                out.append(b"\\" + char if char in b"[]&~|" else char)
                self.place += 1
        self.place += 1
        self.out.append(b"".join(out).replace(b"--", b"-\\-") + b"]")

    def class_escape(self) -> bytes:
        pattern, place = self.pattern, self.place
        if place + 1 >= len(pattern):
            raise PatternError("\\ at end of pattern")
        code = pattern[place + 1]
        if code in _SETS:
            text = _SETS[code]
            if text.startswith(b"[^"):
                raise PatternError(f"\\{chr(code)} in a class is not supported by upwell's regex engine")
            self.place += 2
            return text[1:-1]
        if code == ord("b"):
            self.place += 2
            return rb"\x08"
        if ord("1") <= code <= ord("7"):
            match = re.compile(rb"\\([0-7]{1,3})").match(pattern, place)
            assert match is not None
            self.place = match.end()
            return b"\\x%02x" % (int(match[1], 8) & 255)
        return self.character()

    def group(self) -> None:
        pattern, place = self.pattern, self.place
        if pattern[place + 1 : place + 2] == b"*":
            raise PatternError("verbs such as (*UTF8) are not supported by upwell's regex engine")
        if pattern[place + 1 : place + 2] != b"?":
            self.groups += 1
            self.open(b"(", 1)
            return
        if pattern.startswith(b"(?#", place):
            end = pattern.find(b")", place)
            if end < 0:
                raise PatternError("missing ) after (?# comment")
            self.place = end + 1
            return
        name = _GROUP_NAME.match(pattern, place)
        if name is not None:
            self.groups += 1
            self.closes.append(0)
            self.take(name, b"(?P<" + (name[1] or name[2]) + b">")
            return
        flags = _FLAGS.match(pattern, place)
        if flags is not None:
            self.flags(flags)
            return
        for start in (b"(?=", b"(?!", b"(?<=", b"(?<!", b"(?>", b"(?(", b"(?P="):
            if pattern.startswith(start, place):
                self.open(start, len(start))
                return
        for start, what in (
            (b"(?|", "branch reset"),
            (b"(?R", "recursion"),
            (b"(?&", "recursion"),
            (b"(?P>", "recursion"),
        ):
            if pattern.startswith(start, place):
                raise PatternError(f"{what} is not supported by upwell's regex engine")
        if re.compile(rb"\(\?[-+]?\d").match(pattern, place):
            raise PatternError("recursion is not supported by upwell's regex engine")
        raise PatternError("unrecognized character after (? or (?-")

    def open(self, text: bytes, length: int) -> None:
        self.closes.append(0)
        self.out.append(text)
        self.place += length

    def flags(self, match: re.Match[bytes]) -> None:
        on, off, end = match[1], match[2], match[3]
        if off and (b"x" in off or b"m" in off or b"s" in off or b"i" in off) and not (set(off) <= set(b"imsx")):
            raise PatternError("unrecognized character after (? or (?-")
        spelled = on + (b"-" + off if off else b"")
        if end == b":":
            self.closes.append(0)
            self.take(match, b"(?" + spelled + b":")
            return
        # Flags from here to the end of the enclosing group: Python has them for groups only.
        if spelled:
            self.closes[-1] += 1
            self.take(match, b"(?" + spelled + b":")
        else:
            self.take(match, b"")


def translate(pattern: bytes) -> bytes:
    """`pattern` in the syntax of Python's `re`. Raises PatternError."""
    return _Translator(pattern).run()


def compile_pattern(pattern: bytes, flags: int) -> re.Pattern[bytes]:
    """Compile a PCRE pattern; `flags` are Python's. Raises PatternError with PCRE's manner of message."""
    if len(pattern) > _LONGEST:
        raise PatternError("regular expression is too large")
    try:
        translated = translate(pattern)
        regex = re.compile(translated, flags)
        if _repeats_repeats(_parser.parse(translated.decode("latin-1"), regex.flags & ~re.UNICODE | re.ASCII)):
            _wild.add(id(regex))
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(str(error)) from None
    return regex


def _repeats_repeats(pattern: Any, inside: bool = False) -> bool:
    """Whether a part that may repeat has such parts in it, as in `(a+)+`, or there are many of them: then even a short
    subject can take longer than anybody waits. `pattern` is what Python's own parser made of it."""
    repeats = 0
    for operation, operand in pattern:
        if operation in _REPEATS and operand[1] > 1:
            repeats += 1
            if inside or repeats > _MOST_REPEATS or _repeats_repeats(operand[2], inside=True):
                return True
        else:
            for part in _parts(operand):
                if _repeats_repeats(part, inside):
                    return True
    return False


def _parts(operand: Any) -> Iterator[Any]:
    """The patterns within an operand."""
    if isinstance(operand, _parser.SubPattern):
        yield operand
    elif isinstance(operand, tuple | list):
        for one in operand:
            yield from _parts(one)


# The bound on a match: `re` looks for signals every few thousand steps, so a handler that raises ends it. The timer is
# that of the process's own CPU time: it does not run while a busy machine keeps the process waiting.

_SHORT: Final = 20
"""Bytes: a subject this short ends soon unless the pattern is `_wild`, and arming the timer would cost the most."""
_MOST_REPEATS: Final = 4
_REPEATS: Final = frozenset((_parser.MAX_REPEAT, _parser.MIN_REPEAT, _parser.POSSESSIVE_REPEAT))

_wild: set[int] = set()  # the identities of patterns that are never let off; a dead one's successor is not either
_LONGEST_MATCH: Final = 0.1  # seconds
_PER_BYTE: Final = (
    0.2e-6  # seconds more for each byte of the subject: a long one takes its time under a good pattern as well
)

_LONG: Final = 0.01  # seconds


class Spent:
    """`seconds` of processor that matches took which took long; who reads it sets it back."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0


SPENT: Final = Spent()

_armed = False
_main_thread = 0  # the identity of the thread that gets the signals; 0: the handler is not installed


class PatternTimeout(Exception):
    """A match took too long (PCRE: "match limit exceeded")."""


def search(regex: re.Pattern[bytes], text: bytes) -> re.Match[bytes] | None:
    """`regex.search(text)`, bounded. Raises PatternTimeout."""
    if len(text) <= _SHORT and id(regex) not in _wild:
        return regex.search(text)
    return bounded(regex.search, text)


def bounded(find: Callable[..., re.Match[bytes] | None], text: bytes, place: int = 0) -> re.Match[bytes] | None:
    """`find(text, place)`, where `find` is a pattern's `match` or `search`. Raises PatternTimeout.

    The bound is about 0.1 s of CPU time, more for very long texts. There is none outside of the main thread, as only
    that one gets signals.
    """
    global _armed
    short = len(text) - place <= _SHORT and id(getattr(find, "__self__", None)) not in _wild
    if short or threading.get_ident() != (_main_thread or _install()):
        return find(text, place)
    longest = _LONGEST_MATCH + len(text) * _PER_BYTE
    try:
        _armed = True
        signal.setitimer(signal.ITIMER_VIRTUAL, longest)
        return find(text, place)
    finally:
        # In this order: from here on an alarm that has just gone off finds nothing to end.
        _armed = False
        took = longest - signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)[0]
        if took > _LONG:
            SPENT.seconds += took


def _install() -> int:
    """Install the handler if this is the main thread; returns that thread's identity, 0 from others."""
    global _main_thread
    if threading.current_thread() is not threading.main_thread():
        return 0
    signal.signal(signal.SIGVTALRM, _on_alarm)
    _main_thread = threading.get_ident()
    return _main_thread


def _on_alarm(number: int, frame: Any) -> None:
    # A timer that still runs belongs to this match, so the alarm was a late one of a match before.
    if _armed and signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0.0:
        raise PatternTimeout("match limit exceeded")
