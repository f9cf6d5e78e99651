"""What an HTTP answer must look like: a `MatchSpec`, compiled once, and why an answer does not match, in words.

Pure: an answer's parts in, words out. The rules are those of NGINX Plus's `match` block. Where a field comes more than
once its lines are looked at one by one: "=" and "~" want one of them to do, "!=" and "!~" want that none does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from upwell.check.spec import HeaderRule, MatchSpec
from upwell.http1.fields import FieldSection
from upwell.http1.syntax import SECRET_NAME
from upwell.pcre import SPENT, PatternError, PatternTimeout, compile_pattern, search

MOST_CONTENT: Final = 256 * 1024
"""Bytes of the content that `body` looks at (NGINX Plus: "the first 256k")."""

Wrong = tuple[str, str]
"""What is wrong with an answer: a kind of failure (`check.probe.KINDS`), and why in words."""

_DEFAULT: Final = MatchSpec(statuses=((200, 399),))
_MOST_SHOWN: Final = 60  # characters of a name, a value or a pattern in a sentence, so that the sentence fits its place
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\U0010ffff]")
_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))|\$", re.ASCII)
_LITERAL: Final = re.compile(r"(?:[A-Za-z0-9]|\\x[0-9a-f]{2})*")
_LITERAL_SIGN: Final = re.compile(r"\\x([0-9a-f]{2})")
_OF_STATUS: Final = ("status", "upstream_status")
_OF_FIELDS: Final = ("upstream_http_", "sent_http_")

_HeaderTest = Callable[[FieldSection], Wrong | None]
_Part = Callable[[int, FieldSection], str]


class Rules:
    """A `MatchSpec` ready for use. `reads_content`: `content` has something to say. `reads_date`: the Date field
    counts, so two answers that differ in nothing else are two."""

    __slots__ = (
        "_body",
        "_body_not",
        "_headers",
        "_require",
        "_status_not",
        "_statuses",
        "_want",
        "reads_content",
        "reads_date",
    )

    def __init__(self, match: MatchSpec | None) -> None:
        """Raises ValueError for a rule that cannot be."""
        match = match or _DEFAULT
        self._statuses = match.statuses
        self._status_not = match.status_not
        self._want = match.words or _status_words(match)
        self._headers = tuple(_header_test(rule) for rule in match.headers)
        self._body = compiled(match.body) if match.body else None
        self._body_not = match.body_not
        self._require = tuple((text, _template(text)) for text in match.require)
        self.reads_content = self._body is not None
        names = {rule.name.lower() for rule in match.headers}
        self.reads_date = "date" in names or any("_http_date" in text for text in match.require)

    def __repr__(self) -> str:
        return f"<Rules status {self._want or 'any'}>"

    def status(self, status: int) -> Wrong | None:
        """What is wrong with this status; None if nothing is."""
        ranges = self._statuses
        if ranges and any(low <= status <= high for low, high in ranges) is self._status_not:
            return "status", f"status {status}, want {self._want}"
        return None

    def head(self, status: int, section: FieldSection) -> Wrong | None:
        """What is wrong with an answer that begins so; None if nothing is."""
        wrong = self.status(status)
        if wrong is not None:
            return wrong
        for test in self._headers:
            wrong = test(section)
            if wrong is not None:
                return wrong
        for text, parts in self._require:
            value = "".join([part(status, section) for part in parts])
            if value in ("", "0"):
                return "require", f"required {quoted(text)} is {quoted(value) if value else 'empty'}"
        return None

    def content(self, content: bytes) -> Wrong | None:
        """What is wrong with the content (its first MOST_CONTENT bytes); None if nothing is."""
        body = self._body
        if body is None:
            return None
        try:
            found = body.found(content)
        except PatternTimeout as error:
            return "body", f"body ~ {body.words}: {error}"
        if found is not self._body_not:
            return None
        return "body", f"body matches {body.words}, want !~" if found else f"body does not match ~ {body.words}"


class Compiled:
    """A regular expression of the configuration, and how it is told to people: `words`, in quotes; `wanted`, with "~"
    before it, unless it is a literal text whose signs were all escaped."""

    __slots__ = ("_regex", "wanted", "words")

    def __init__(self, pattern: str) -> None:
        """Raises PatternError."""
        self._regex = compile_pattern(pattern.encode("utf-8", "surrogateescape"), 0)
        self.words = quoted(pattern)
        self.wanted = f"~ {self.words}"
        if _LITERAL.fullmatch(pattern) is not None:
            self.wanted = quoted(_LITERAL_SIGN.sub(lambda sign: chr(int(sign[1], 16)), pattern))

    def __repr__(self) -> str:
        return f"<Compiled {self.words}>"

    def found(self, text: bytes) -> bool:
        """Whether it is in `text`. Raises PatternTimeout."""
        return search(self._regex, text) is not None


def compiled(pattern: str) -> Compiled:
    """`pattern` (PCRE) ready for use. Raises ValueError."""
    try:
        return Compiled(pattern)
    except PatternError as error:
        raise ValueError(f"bad regular expression {quoted(pattern)}: {error}") from None


def check_match(match: MatchSpec) -> None:
    """Raises ValueError, in words, for a `match` that no answer can be held against: a bad regular expression, a
    variable that a probe does not know. For whoever reads a configuration."""
    Rules(match)


def is_known(variable: str) -> bool:
    """Whether `require` may speak of `variable` (its name without "$"). The others would always be empty."""
    return variable in _OF_STATUS or any(variable.startswith(start) and variable != start for start in _OF_FIELDS)


def quoted(text: str) -> str:
    """`text` in quotes, printable and of a bounded length, for a sentence."""
    return f'"{shown(text)}"'


def shown(text: str) -> str:
    """`text` printable and of a bounded length."""
    cut = text[: _MOST_SHOWN + 1]
    safe = _UNPRINTABLE.sub(_escaped, cut)
    return safe if len(safe) <= _MOST_SHOWN else safe[: _MOST_SHOWN - 3] + "..."


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))


def _status_words(match: MatchSpec) -> str:
    words = " or ".join(str(low) if low == high else f"{low}-{high}" for low, high in match.statuses)
    return f"! {words}" if match.status_not else words


_MOST_LINES: Final = 16
"""Lines of one name that an expression is tried on."""
_MOST_TIME: Final = 0.12
"""Seconds of processor for all of them, a little more than one of them may take."""


def _header_test(rule: HeaderRule) -> _HeaderTest:
    """Raises ValueError."""
    name = rule.name.lower().encode("latin-1", "replace")
    what = f"header {shown(rule.name)}"
    missing: Wrong = "header", f"no {what}"
    operator, want = rule.operator, rule.value
    said = _quoted_value if SECRET_NAME.search(name) is None else _kept_back

    if operator == "":

        def there(section: FieldSection) -> Wrong | None:
            return None if name in section.values else missing

        return there
    if operator == "!":

        def lacking(section: FieldSection) -> Wrong | None:
            value = section.first(name)
            return None if value is None else ("header", f"{what} is {said(value)}, want none")

        return lacking
    if operator not in ("=", "!=", "~", "!~"):
        raise ValueError(f"unknown operator {quoted(operator)} of {what}")
    turned = operator.startswith("!")
    exact = want.encode("utf-8", "surrogateescape")
    regex = None if operator.endswith("=") else compiled(want)
    wanted = said(exact) if operator == "=" else f"{operator} {said(exact)}"

    def compare(section: FieldSection) -> Wrong | None:
        if name not in section.values:
            return missing
        first = None
        looked = 0
        spent = SPENT.seconds
        for known, value in section.fields:
            if known != name:
                continue
            looked += 1
            if looked > _MOST_LINES and regex is not None:
                return "header", f"{what} has more than {_MOST_LINES} lines"
            try:
                found = value == exact if regex is None else regex.found(value)
            except PatternTimeout as error:
                return "header", f"{what} {wanted}: {error}"
            if SPENT.seconds - spent > _MOST_TIME:
                return "header", f"{what} {wanted}: its lines take too long"
            if found:
                return ("header", f"{what} is {said(value)}, want {wanted}") if turned else None
            first = first or value
        return None if turned else ("header", f"{what} is {said(first or b'')}, want {wanted}")

    return compare


def _quoted_value(value: bytes) -> str:
    return quoted(value.decode("utf-8", "surrogateescape"))


def _kept_back(value: bytes) -> str:
    """For a field by whose name it may be a secret: the sentence is for pages and logs."""
    return '"..."'


def _template(text: str) -> tuple[_Part, ...]:
    """Raises ValueError for a variable that is not known."""
    parts: list[_Part] = []
    end = 0
    for match in _VARIABLE.finditer(text):
        if match.start() > end:
            parts.append(_literal(text[end : match.start()]))
        end = match.end()
        parts.append(_variable(match[1] or match[2] or ""))
    if end < len(text):
        parts.append(_literal(text[end:]))
    return tuple(parts)


def _literal(text: str) -> _Part:
    return lambda status, section: text


def _variable(name: str) -> _Part:
    if not name:
        raise ValueError("invalid variable name")
    if name in _OF_STATUS:
        return lambda status, section: str(status)
    if not is_known(name):
        raise ValueError(f"a health check does not know the variable {quoted('$' + name)}")
    wanted = name.partition("_http_")[2].lower().encode()

    def field(status: int, section: FieldSection) -> str:
        # nginx's name of a field in a variable: lower case, "_" for "-"; the values of several lines are joined.
        for known, value in section.values.items():
            if known.replace(b"-", b"_") == wanted:
                return value.decode("latin-1")
        return ""

    return field
