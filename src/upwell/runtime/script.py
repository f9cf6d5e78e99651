"""The steps of a rewrite phase as one handler: `set`, `rewrite`, `if`, `break`, `return` in their order.

Knows what each step does to an exchange (nginx: ngx_http_script.c); where a request goes from there is decided in
proxy/phases.py.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from upwell import pcre
from upwell.config.model import Block
from upwell.config.template import Template, Variable
from upwell.http1.target import make_target
from upwell.log import CRIT, ERROR, NOTICE, WARN, printable
from upwell.modules.limit_rate import set_rate
from upwell.modules.lua import SetByLua
from upwell.modules.return_ import Return, compile_return
from upwell.modules.rewrite import (
    Break,
    Condition,
    If,
    Rewrite,
    RewriteLogSettings,
    RewriteSettings,
    SetVariable,
    conditional,
    own_steps,
)
from upwell.modules.variables import VariableSettings, is_known
from upwell.proxy.absolute import absolute
from upwell.proxy.location import Access, Location
from upwell.runtime.locations import keep_captures
from upwell.runtime.render import Render, render

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

Step = Callable[["Exchange"], "int | None"]
"""What a step does: None to go on, _ENDED, or a status to answer with."""
SetByCode = Callable[[SetByLua], Callable[["Exchange", list[bytes]], bytes]]

_ENDED: Final = -1
_FAILED: Final = 500
_NOT_THERE: Final = (FileNotFoundError, NotADirectoryError)
_TOO_LONG: Final = 36  # ENAMETOOLONG
_UNSAFE_ARGUMENT: Final = re.compile(rb'[\x00-\x20"#%&+;<>?\\^`{|}\x7f-\xff]')
"""nginx's NGX_ESCAPE_ARGS."""
_HALF_ESCAPE: Final = re.compile(rb"%(?:([0-9A-Fa-f])(?:([0-9A-Fa-f])|.|\Z)|(.|\Z))", re.DOTALL)


class Scripts:
    """Compiles the steps of blocks. `locate` makes the location that an `if` turns into; `by_code` a `set_by_lua`."""

    __slots__ = ("_by_code", "_locate")

    def __init__(self, locate: Callable[[Block], Location], by_code: SetByCode) -> None:
        self._locate = locate
        self._by_code = by_code

    def handler(self, block: Block) -> Access:
        """The handler for the steps of `block`."""
        run = _sequence(list(self._steps(block, block[RewriteLogSettings].log)))

        def script(exchange: Exchange) -> int | None:
            status = run(exchange)
            return None if status == _ENDED else status

        return script

    def _steps(self, block: Block, log: bool) -> Iterator[Step]:
        steps = block[RewriteSettings].steps
        blocks = iter(conditional(block, steps))
        for step in steps:
            if isinstance(step, SetVariable):
                yield setter(step.name, scripted(step.value))
            elif isinstance(step, SetByLua):
                yield setter(step.name, self._called(step))
            elif isinstance(step, Return):
                yield _returning(compile_return(step, render))
            elif isinstance(step, Rewrite):
                yield _redirecting(step, log) if step.status else _rewriting(step, log)
            elif isinstance(step, If):
                inner = next(blocks)
                test = _test(step.condition, log)
                location = self._locate(inner) if inner.kind == "if" else None
                yield _branch(test, _sequence(list(self._steps(inner, log))), location)
            else:
                assert isinstance(step, Break)
                yield _break

    def _called(self, step: SetByLua) -> Render:
        value = self._by_code(step)
        arguments = [scripted(one) for one in step.args]
        return lambda exchange: value(exchange, [argument(exchange) for argument in arguments])


def unset(http: Block) -> dict[str, Render]:
    """For each variable that only a `set` makes, what it is for a request that met none: empty, with a warning."""
    names = {
        step.name
        for block in http.walk()
        if block.kind in ("server", "location")
        for step in own_steps(block)
        if isinstance(step, SetVariable | SetByLua)
    }
    captured = http[VariableSettings].captured
    return {name: _unset(name) for name in names if name not in captured and not is_known(name)}


def _unset(name: str) -> Render:
    def value(exchange: Exchange) -> bytes:
        if exchange.location.warns:
            exchange.log(WARN, f'using uninitialized "{name}" variable')
        if exchange.variables is None:
            exchange.variables = {}
        exchange.variables[name] = b""
        return b""

    return value


def setter(name: str, value: Render) -> Step:
    """`set $name value`."""
    if name == "limit_rate":
        return set_rate(value)
    if name == "args":

        def aim(exchange: Exchange) -> None:
            _aim(exchange, exchange.uri, value(exchange))

        return aim

    def assign(exchange: Exchange) -> None:
        found = value(exchange)
        if exchange.variables is None:
            exchange.variables = {}
        exchange.variables[name] = found

    return assign


def _aim(exchange: Exchange, uri: bytes, args: bytes) -> None:
    """From here on the request is for `uri`, which may be anything, with `args`."""
    target = make_target(uri, args)
    exchange.uri = uri
    exchange.args = target.args
    exchange.path = target.path
    exchange.quoted = True


# Captures: nginx escapes them where they become arguments, if the client had escaped anything in its path.


def scripted(template: Template, always: bool = False) -> Render:
    """`render` as steps have it: $1...$9 are escaped; unless `always`, no more once a `rewrite` has been."""
    if not any(isinstance(part, Variable) and part.name.isdigit() and len(part.name) == 1 for part in template.parts):
        return render(template)
    parts = [_scripted_part(part, always) for part in template.parts]
    return lambda exchange: b"".join([part(exchange) for part in parts])


def _scripted_part(part: str | Variable, always: bool) -> Render:
    value = render(Template((part,)))
    if isinstance(part, str) or not part.name.isdigit() or len(part.name) > 1:
        return value

    def escaped(exchange: Exchange) -> bytes:
        text = value(exchange)
        if (exchange.moved and not always) or not _was_escaped(exchange):
            return text
        return _UNSAFE_ARGUMENT.sub(lambda match: b"%%%02X" % match[0][0], text)

    return escaped


def _was_escaped(exchange: Exchange) -> bool:
    """Whether the client's path had escapes or "+" in it (nginx: quoted_uri, plus_in_uri)."""
    path = exchange.head.target.partition(b"?")[0]
    return exchange.capture is None and (b"%" in path or b"+" in path)


def _unescape_redirect(text: bytes) -> bytes:
    """`text` with the escapes before its "?" undone that need not be (nginx: NGX_UNESCAPE_REDIRECT)."""
    out: list[bytes] = []
    at = 0
    end = text.find(b"?")
    limit = len(text) if end < 0 else end
    for match in _HALF_ESCAPE.finditer(text, 0, limit):
        out.append(text[at : match.start()])
        at = match.end()
        if match[2] is None:
            out.append(match[3] or b"")  # no escape at all: nginx leaves out what made it look like one
            continue
        byte = int(match[1] + match[2], 16)
        if byte == 0x3F:  # nginx takes it for the one before the arguments
            out.append(b"?")
            break
        out.append(bytes((byte,)) if 0x25 < byte < 0x7F else b"%" + match[1] + match[2])
    out.append(text[at:])
    return b"".join(out)


# Steps


def _sequence(steps: Sequence[Step]) -> Step:
    if len(steps) == 1:
        return steps[0]

    def run(exchange: Exchange) -> int | None:
        for step in steps:
            status = step(exchange)
            if status is not None:
                return status
        return None

    return run


def _returning(answer: Step) -> Step:
    def step(exchange: Exchange) -> int:
        status = answer(exchange)
        return _ENDED if status is None else status

    return step


def _break(exchange: Exchange) -> int:
    if exchange.moved:
        exchange.moved = False
        exchange.located = False
    return _ENDED


def _branch(test: Callable[[Exchange], bool], run: Step, location: Location | None) -> Step:
    if location is None:
        return lambda exchange: run(exchange) if test(exchange) else None

    def branch(exchange: Exchange) -> int | None:
        if not test(exchange):
            return None
        exchange.location = location
        return run(exchange)

    return branch


def _matching(regex: re.Pattern[bytes], source: str, log: bool) -> Callable[[Exchange, bytes], bool]:
    """Whether the expression fits a text; its captures are there afterwards, or none any more."""

    def fits(exchange: Exchange, text: bytes) -> bool:
        match = pcre.search(regex, text)
        if match is None:
            exchange.match = None
        else:
            keep_captures(exchange, match)
        return match is not None

    if not log:
        return fits

    def told(exchange: Exchange, text: bytes) -> bool:
        found = fits(exchange, text)
        verb = "matches" if found else "does not match"
        exchange.log(NOTICE, f'"{source}" {verb} "{printable(text)}"')
        return found

    return told


def _rewriting(step: Rewrite, log: bool) -> Step:
    fits = _matching(step.regex, step.source, log)
    path = render(step.target)
    arguments = None if step.args is None else scripted(step.args, always=True)
    after = _ENDED if step.last else None

    def rewrite(exchange: Exchange) -> int | None:
        if not fits(exchange, exchange.uri):
            return None
        uri = path(exchange)
        args = b"" if arguments is None else arguments(exchange)
        if step.appends and (arguments is None or exchange.args):
            args = exchange.args if arguments is None else args + b"&" + exchange.args
        exchange.internal = True
        exchange.moved = not step.stops
        if step.stops:
            exchange.located = False
        if log:
            exchange.log(NOTICE, f'rewritten data: "{printable(uri)}", args: "{printable(args)}"')
        _aim(exchange, uri, args)
        if not uri:
            exchange.log(ERROR, "the rewritten URI has a zero length")
            return _FAILED
        return after

    return rewrite


def _redirecting(step: Rewrite, log: bool) -> Step:
    fits = _matching(step.regex, step.source, log)
    whole = scripted(step.target, always=True)

    def redirect(exchange: Exchange) -> int | None:
        if not fits(exchange, exchange.uri):
            return None
        address = _unescape_redirect(whole(exchange))
        if step.appends and exchange.args:
            address += (b"&" if step.asks else b"?") + exchange.args
        if log:
            exchange.log(NOTICE, f'rewritten redirect: "{printable(address)}"')
        exchange.internal = True
        exchange.respond_error(step.status, ((b"Location", absolute(exchange, address)),))
        return _ENDED

    return redirect


def _test(condition: Condition, log: bool) -> Callable[[Exchange], bool]:
    negative = condition.negative
    subject = scripted(condition.subject)
    if condition.regex is not None:
        fits = _matching(condition.regex, condition.source, log)
        return lambda exchange: fits(exchange, subject(exchange)) is not negative
    if condition.kind == "=":
        value = scripted(condition.value)
        return lambda exchange: (subject(exchange) == value(exchange)) is not negative
    if condition.kind == "":
        return lambda exchange: subject(exchange) not in (b"", b"0")
    is_so = _FILES[condition.kind]
    return lambda exchange: _file(exchange, subject(exchange), is_so) is not negative


_FILES: Final[dict[str, Callable[[int], bool]]] = {
    "f": stat.S_ISREG,
    "d": stat.S_ISDIR,
    "e": lambda _: True,
    "x": lambda mode: bool(mode & stat.S_IXUSR),
}


def _file(exchange: Exchange, path: bytes, is_so: Callable[[int], bool]) -> bool:
    """Whether there is a file at `path` of which `is_so(mode)`."""
    try:
        return is_so(os.stat(path).st_mode)
    except ValueError:  # NUL, with which no name goes on
        return False
    except OSError as error:
        if not isinstance(error, _NOT_THERE) and error.errno != _TOO_LONG:
            exchange.log(CRIT, f'stat() "{printable(path)}" failed ({error.errno}: {error.strerror})')
        return False
