"""The rewrite phase: `rewrite`, `if`, `set`, `break` and their steps in the order of the file, which `return` and
`set_by_lua*` share. What a request makes of them is runtime/script.py's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import OWN
from upwell.config.model import Block
from upwell.config.regex import compile_regex
from upwell.config.slots import flag
from upwell.config.template import Template, Variable
from upwell.errors import Position
from upwell.modules.variables import (
    CHANGEABLE,
    CHANGEABLE_PREFIXES,
    SUPPORTED,
    declare,
    declare_groups,
    is_unsupported,
)
from upwell.proxy.session_variables import find

CONTEXTS = "server location server_if if"
"""Where steps may stand; "server_if" and "if" are the two kinds of `if`, which may not stand in one another."""

_NOTHING = Template(())
_LEVELS = "http server location server_if if"
_NAME = re.compile(r"\$([A-Za-z0-9_]+)")
_ADDRESSES = ("http://", "https://", "$scheme")
_FLAGS = {"last": 0, "break": 0, "redirect": 302, "permanent": 301}
_MATCHES = frozenset(("~", "~*", "!~", "!~*"))
_FILES = frozenset("fdex")
_NO_NGINX_NAME = frozenset(("proxy_host", "proxy_port"))


@dataclass(frozen=True, slots=True)
class SetVariable:
    """`set $name value`."""

    name: str
    value: Template
    position: Position


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One `rewrite`. `source` is its expression as written. `status` other than 0 sends the client to `target`, whole;
    else `target` is the new path and `args` what followed "?" (None: nothing did). `appends`: the request's own
    arguments are put behind, with "&" if there was a "?" (`asks`). `last`: no further step runs; `stops` (flag break):
    nor is a location looked for anew.
    """

    regex: re.Pattern[bytes]
    source: str
    target: Template
    args: Template | None
    appends: bool
    asks: bool
    last: bool
    stops: bool
    status: int
    position: Position


@dataclass(frozen=True, slots=True)
class Break:
    """`break`."""

    position: Position


@dataclass(frozen=True, slots=True)
class Condition:
    """What an `if` asks. `kind` is "" (is `subject` something but empty and "0"), "=" (is it `value`), "~" (does
    `regex`, written as `source`, fit it), or "f", "d", "e", "x" (is it the path of such a file); `negative`: is it not.
    """

    kind: str
    subject: Template
    negative: bool = False
    value: Template = _NOTHING
    regex: re.Pattern[bytes] | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class If:
    """One `if`; `number` says which of the level's blocks of that kind it is, in the order of the file."""

    condition: Condition
    number: int
    position: Position


@dataclass(frozen=True, slots=True)
class RewriteSettings:
    """The rewrite phase of one level (server: before a location is chosen; location: after). Nothing is inherited.

    Each step is one of the classes above, a `return_.Return` or a `lua.SetByLua`; they run in this order, a Return
    ends them.
    """

    steps: tuple[object, ...] = field(default=(), metadata=OWN)


@dataclass(frozen=True, slots=True)
class RewriteLogSettings:
    """`rewrite_log` and `uninitialized_variable_warn`."""

    log: bool = False
    warn: bool = True


def variable_name(block: Block, directive: Directive, index: int = 0) -> str:
    """The variable that a directive sets, from its argument `$name`; it is known from now on."""
    text = directive.args[index]
    match = _NAME.fullmatch(text)
    if match is None:
        raise directive.error(f'invalid variable name "{text}"', index)
    name = match[1]
    if block.section.kind == "stream":
        if find(name) is not None:
            raise directive.error(f'the duplicate "{name}" variable', index)
        declare(block, name)
        return name
    if name in CHANGEABLE and directive.name.startswith("set"):
        return name
    refused = name in CHANGEABLE or name in _NO_NGINX_NAME or name.startswith("ssl_")
    if refused or (is_unsupported(name) and not name.startswith(CHANGEABLE_PREFIXES)):
        raise directive.error(f'"{directive.name} ${name}" is not supported by upwell', index)
    if name in SUPPORTED:
        raise directive.error(f'the duplicate "{name}" variable', index)
    declare(block, name)
    return name


def conditional(block: Block, steps: tuple[object, ...]) -> list[Block]:
    """The blocks of the `if`s among `steps`, which are those of `block`, in their order."""
    blocks = [inner for inner in block.children if inner.kind in ("if", "server_if")]
    return [blocks[step.number] for step in steps if isinstance(step, If)]


def own_steps(block: Block) -> list[object]:
    """All steps of `block`'s own rewrite phase, those within its `if`s too."""
    steps = block[RewriteSettings].steps
    return [*steps, *(step for inner in conditional(block, steps) for step in own_steps(inner))]


def may_stop(block: Block) -> bool:
    """Whether a request for `block` may have met a `break`: then no part of its URI is the location's any more."""
    found: Block | None = block
    while found is not None:
        if any(isinstance(step, Break) or (isinstance(step, Rewrite) and step.stops) for step in own_steps(found)):
            return True
        found = found.parent
    return False


def _set(block: Block, directive: Directive) -> None:
    name = variable_name(block, directive)
    step = SetVariable(name, block.template(directive, 1), directive.position)
    block.append(RewriteSettings, "steps", step)


def _break(block: Block, directive: Directive) -> None:
    block.append(RewriteSettings, "steps", Break(directive.position))


def _regex(block: Block, directive: Directive, index: int, pattern: str, caseless: bool = False) -> re.Pattern[bytes]:
    try:
        regex = compile_regex(pattern, caseless)
    except ValueError as error:
        raise directive.error(str(error), index) from None
    declare_groups(block, regex)
    return regex


def _rewrite(block: Block, directive: Directive) -> None:
    source, text, *flags = directive.args
    regex = _regex(block, directive, 0, source)
    if not text:
        raise directive.error("empty replacement", 1)
    appends = not text.endswith("?")
    text = text if appends else text[:-1]
    status = 302 if text.startswith(_ADDRESSES) else 0
    word = flags[0] if flags else ""
    if word:
        if word not in _FLAGS:
            raise directive.error(f'invalid parameter "{word}"', 2)
        status = _FLAGS[word] or status
    path, asks, rest = (text, "?" in text, "") if status else text.partition("?")
    step = Rewrite(
        regex,
        source,
        block.template(directive, 1, path),
        block.template(directive, 1, rest) if asks and not status else None,
        appends,
        bool(asks),
        bool(word or status),
        word == "break",
        status,
        directive.position,
    )
    block.append(RewriteSettings, "steps", step)


def _if(block: Block, directive: Directive) -> None:
    """`block` is the one that the `if` opens; the step belongs to the level around it."""
    outer = block.parent
    assert outer is not None
    number = sum(inner.kind == block.kind for inner in outer.children) - 1
    step = If(_condition(block, directive), number, directive.position)
    outer.append(RewriteSettings, "steps", step)


def _condition(block: Block, directive: Directive) -> Condition:
    """Raises ConfigError with nginx's sentence (ngx_http_rewrite_if_condition)."""
    words = list(directive.args)
    last = len(words) - 1
    if not words[0].startswith("("):
        raise directive.error(f'invalid condition "{words[0]}"', 0)
    first = 0 if len(words[0]) > 1 else 1
    words[0] = words[0][1:]
    if not words[last].endswith(")"):
        raise directive.error(f'invalid condition "{words[last]}"', last)
    words[last] = words[last][:-1]
    if not words[last]:
        last -= 1
    subject = words[first] if first < len(words) else ""
    at = min(first, len(directive.args) - 1)
    if len(subject) > 1 and subject.startswith("$") and last in (first, first + 2):
        value = Template((_variable(block, directive, first, subject[1:]),))
        if first == last:
            return Condition("", value)
        operator, text = words[first + 1], words[last]
        if operator in ("=", "!="):
            return Condition("=", value, operator == "!=", block.template(directive, last, text))
        if operator in _MATCHES:
            regex = _regex(block, directive, last, text, operator.endswith("*"))
            return Condition("~", value, operator.startswith("!"), regex=regex, source=text)
        raise directive.error(f'unexpected "{operator}" in condition', first + 1)
    kind = subject.removeprefix("!").removeprefix("-")
    if kind in _FILES and subject in (f"-{kind}", f"!-{kind}") and last == first + 1:
        return Condition(kind, block.template(directive, last, words[last]), subject.startswith("!"))
    raise directive.error(f'invalid condition "{subject or ")"}"', at)


def _variable(block: Block, directive: Directive, index: int, name: str) -> Variable:
    """The variable that a condition names: all of the word is its name."""
    if len(name) == 1 and name.isdigit():
        raise directive.error(f'unknown "{name}" variable', index)
    block.loading.uses.append((name, directive.place(index)))
    return Variable(name)


MODULE = Module(
    "rewrite",
    (
        command("set", CONTEXTS, 2, _set),
        command("rewrite", CONTEXTS, (2, 3), _rewrite),
        command("break", CONTEXTS, 0, _break),
        command("if", "server", (1, None), _if, opens="server_if"),
        command("if", "location", (1, None), _if, opens="if"),
        command("rewrite_log", _LEVELS, 1, flag(RewriteLogSettings, "log")),
        command("uninitialized_variable_warn", _LEVELS, 1, flag(RewriteLogSettings, "warn")),
    ),
    options=("http_rewrite_module",),
)
