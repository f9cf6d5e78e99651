"""`match` blocks into MatchSpecs: what the answer to a probe must look like (NGINX Plus: ngx_http_upstream_hc_module,
and of ngx_stream_upstream_hc_module `send` and `expect`). Judging an answer is check/'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from upwell.check import rules
from upwell.check.spec import HeaderRule, MatchSpec
from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.regex import compile_regex
from upwell.config.template import compile_template
from upwell.errors import ConfigError
from upwell.modules.variables import is_known

_STATUS = re.compile(r"([1-9][0-9]{2})(?:-([1-9][0-9]{2}))?")
_TOKEN = re.compile(r"[A-Za-z0-9#$%&'*+.^_`|~-][A-Za-z0-9!#$%&'*+.^_`|~-]*")
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|([rnt\\])|(x))")
_CONTROLS = {"r": b"\r", "n": b"\n", "t": b"\t", "\\": b"\\"}


@dataclass(frozen=True, slots=True)
class Match:
    """One `match` block. `spec` judges HTTP answers; `send` and `expect` (a regular expression) are for plain streams;
    a block has the one or the other."""

    spec: MatchSpec
    send: bytes = b""
    expect: str = ""

    @property
    def is_stream(self) -> bool:
        return bool(self.send or self.expect)

    @property
    def is_http(self) -> bool:
        return self.spec != MatchSpec(name=self.spec.name)


@dataclass(frozen=True, slots=True)
class MatchSettings:
    """On the http block: its `match` blocks by name; None for one with an error in it, which has been told."""

    blocks: Mapping[str, Match | None] = field(default_factory=dict, metadata=LOCAL)


def octets(text: str) -> bytes:
    r"""`text` with \xHH, \r, \n, \t and \\ as the bytes that they stand for. Raises ValueError."""
    out: list[bytes] = []
    at = 0
    for found in _ESCAPE.finditer(text):
        if found[3]:
            raise ValueError("\\x is not followed by two hexadecimal digits")
        out.append(_octets(text[at : found.start()]))
        out.append(bytes.fromhex(found[1]) if found[1] else _CONTROLS[found[2]])
        at = found.end()
    out.append(_octets(text[at:]))
    return b"".join(out)


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def literal_expression(text: str) -> str:
    """The regular expression of a literal text with escapes, in ASCII whatever bytes are meant. Raises ValueError."""
    return "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\x{byte:02x}" for byte in octets(text))


def checked_expression(pattern: str, caseless: bool = False) -> str:
    """`pattern` if it is a regular expression that upwell has. Raises ValueError with nginx's sentence."""
    compile_regex(pattern)
    return f"(?i){pattern}" if caseless else pattern


def _match(block: Block, directive: Directive) -> None:
    name = directive.args[0]
    known: dict[str, Match | None] = block.own(MatchSettings).setdefault("blocks", {})
    if not name:
        raise directive.error("match name is empty", 0)
    if name in known:
        raise directive.error(f'duplicate match "{name}"', 0)
    match = Match(MatchSpec(name=name))
    seen: set[str] = set()
    before = len(block.loading.errors)
    for test in directive.children or ():
        try:
            match = _test(match, test, seen)
        except ConfigError as error:
            block.loading.errors.append(error)
    known[name] = match if len(block.loading.errors) == before else None
    if match.is_stream and match.is_http:
        known[name] = None
        raise directive.error(f'match "{name}" has tests of HTTP answers and of plain streams', 0)


def _test(match: Match, test: Directive, seen: set[str]) -> Match:
    """`match` with one more line of its block."""
    if test.name not in _TESTS:
        raise test.error(f'unknown directive "{test.name}"')
    if test.children is not None:
        raise test.error(f'directive "{test.name}" is not terminated by ";"')
    least, most, repeats, read = _TESTS[test.name]
    if len(test.args) < least or (most and len(test.args) > most):
        raise test.error(f'invalid number of arguments in "{test.name}" directive')
    if test.name in seen and not repeats:
        raise test.error(f'"{test.name}" directive is duplicate')
    changed = read(match, test)
    seen.add(test.name)
    return changed


def _status(match: Match, test: Directive) -> Match:
    turned = test.args[0] == "!"
    if turned and len(test.args) == 1:
        raise test.error('invalid number of arguments in "status" directive')
    ranges: list[tuple[int, int]] = []
    words: list[str] = []
    for index in range(1 if turned else 0, len(test.args)):
        found = _STATUS.fullmatch(test.args[index])
        if found is None or int(found[1]) > int(found[2] or found[1]):
            raise test.error(f'invalid status "{test.args[index]}"', index)
        ranges.append((int(found[1]), int(found[2] or found[1])))
        words.append(test.args[index])
    said = f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
    spec = replace(match.spec, statuses=tuple(ranges), status_not=turned, words=f"any but {said}" if turned else said)
    return replace(match, spec=spec)


def _header(match: Match, test: Directive) -> Match:
    args = test.args
    name_at = 0
    if args[0] == "!":
        if len(args) != 2:
            raise test.error('invalid number of arguments in "header" directive')
        name_at = 1
        rule = HeaderRule(args[1], "!")
    elif len(args) == 1:
        rule = HeaderRule(args[0])
    elif len(args) == 2:
        raise test.error('invalid number of arguments in "header" directive')
    elif args[1] in ("=", "!="):
        rule = HeaderRule(args[0], args[1], args[2])
    else:
        operator, caseless = _operator(test, 1)
        rule = HeaderRule(args[0], operator, _expression(test, 2, caseless))
    if _TOKEN.fullmatch(rule.name) is None:
        raise test.error(f'invalid header name "{rule.name}"', name_at)
    return replace(match, spec=replace(match.spec, headers=(*match.spec.headers, rule)))


def _body(match: Match, test: Directive) -> Match:
    operator, caseless = _operator(test, 0)
    spec = replace(match.spec, body=_expression(test, 1, caseless), body_not=operator == "!~")
    return replace(match, spec=spec)


def _require(match: Match, test: Directive) -> Match:
    for index, text in enumerate(test.args):
        try:
            names = tuple(compile_template(text).variables)
        except ValueError as error:
            raise test.error(str(error), index) from None
        for name in names:
            if rules.is_known(name):
                continue
            if is_known(name):
                raise test.error(f'"${name}" is not known to a health check', index)
            raise test.error(f'unknown "{name}" variable', index)
    return replace(match, spec=replace(match.spec, require=(*match.spec.require, *test.args)))


def _send(match: Match, test: Directive) -> Match:
    try:
        data = octets(test.args[0])
    except ValueError as error:
        raise test.error(f"{error}", 0) from None
    if not data:
        raise test.error('"send" is empty', 0)
    return replace(match, send=data)


def _expect(match: Match, test: Directive) -> Match:
    if len(test.args) == 2:
        if test.args[0] not in ("~", "~*"):
            raise test.error(f'invalid modifier "{test.args[0]}"', 0)
        return replace(match, expect=_expression(test, 1, test.args[0] == "~*"))
    try:
        expect = literal_expression(test.args[0])
    except ValueError as error:
        raise test.error(f"{error}", 0) from None
    if not expect:
        raise test.error('"expect" is empty', 0)
    return replace(match, expect=expect)


def _operator(test: Directive, index: int) -> tuple[str, bool]:
    """ "~" or "!~", and whether it was said to be without regard to case ("~*", as `location` has it)."""
    text = test.args[index]
    if text not in ("~", "~*", "!~", "!~*"):
        raise test.error(f'invalid operator "{text}"', index)
    return text.rstrip("*"), text.endswith("*")


def _expression(test: Directive, index: int, caseless: bool) -> str:
    if not test.args[index]:
        raise test.error("empty regular expression", index)
    try:
        return checked_expression(test.args[index], caseless)
    except ValueError as error:
        raise test.error(str(error), index) from None


_TESTS = {
    "status": (1, 0, False, _status),
    "header": (1, 3, True, _header),
    "body": (2, 2, False, _body),
    "require": (1, 0, True, _require),
    "send": (1, 1, False, _send),
    "expect": (1, 2, False, _expect),
}
"""The lines of a `match` block: least and most arguments (0: any number), whether it may come twice, its reader."""


MODULE = Module("match", (command("match", "http stream", 1, _match, block=True),))
