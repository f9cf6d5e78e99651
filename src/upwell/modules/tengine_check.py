"""Tengine's health checks (nginx_upstream_check_module): `check` and what belongs to it, into a CheckSpec.

The words of its errors are the module's. Its page is `check_status` (modules/check_status.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from upwell.check.spec import TENGINE, CheckSpec, MatchSpec
from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.slots import parse_number
from upwell.errors import Position
from upwell.modules.checks import add_check
from upwell.modules.upstream import UpstreamSettings, find_upstream
from upwell.units import parse_size

_TYPES: Final = ("tcp", "http", "ssl_hello", "mysql", "ajp", "fastcgi")
_ALIVE: Final = {f"http_{digit}xx": (digit * 100, digit * 100 + 99) for digit in (2, 3, 4, 5)}
_SEND: Final = b"GET / HTTP/1.0\r\n\r\n"
_PARAMS: Final = (("REQUEST_METHOD", "GET"), ("REQUEST_URI", "/"), ("SCRIPT_FILENAME", "index.php"))
_KEPT: Final = 3600.0  # seconds; the module keeps a connection for as many requests as it likes, however long it takes


@dataclass(frozen=True, slots=True)
class Check:
    """One `check`, as its line says: milliseconds, and 0 for the peer's own port."""

    type: str = "tcp"
    interval: int = 30000
    timeout: int = 1000
    rise: int = 2
    fall: int = 5
    port: int = 0
    default_down: bool = True


@dataclass(frozen=True, slots=True)
class TengineCheckSettings:
    """In an upstream; `place` is where its `check` stands, `alive` are the ranges of statuses that
    check_http_expect_alive names; `written` are the directives as they stand there."""

    check: Check | None = field(default=None, metadata=LOCAL)
    send: bytes = field(default=b"", metadata=LOCAL)
    alive: tuple[str, ...] = field(default=(), metadata=LOCAL)
    keepalive_requests: int = field(default=1, metadata=LOCAL)
    params: tuple[tuple[str, str], ...] = field(default=(), metadata=LOCAL)
    shm_size: int = field(default=0, metadata=LOCAL)
    place: Position | None = field(default=None, metadata=LOCAL)
    written: tuple[tuple[str, Position], ...] = field(default=(), metadata=LOCAL)


def _check(block: Block, directive: Directive) -> None:
    values: dict[str, int | str | bool] = {}
    for index, argument in enumerate(directive.args):
        name, given, value = argument.partition("=")
        if name in ("default_down", "unique") and given:
            if value.lower() not in ("true", "false"):
                raise directive.error(f'invalid value "{argument}", it must be "true" or "false"', index)
            if name == "default_down":
                values[name] = value.lower() == "true"
            elif value.lower() == "true":
                raise directive.error('the parameter "unique" of "check" is not supported by upwell', index)
            continue
        try:
            values[name] = _value(name, value)
        except ValueError:
            raise directive.error(f'invalid parameter "{argument}"', index) from None
    _note(block, directive)
    block.set(TengineCheckSettings, "place", directive.position)
    block.set(TengineCheckSettings, "check", Check(**values))  # type: ignore[arg-type]  # names and types come from _value


def _note(block: Block, directive: Directive) -> None:
    text = " ".join((directive.name, *directive.args)).encode("unicode_escape").decode()
    block.append(TengineCheckSettings, "written", (text, directive.position))


_FOR: Final = {
    "check_http_send": ("http",),
    "check_http_expect_alive": ("http", "fastcgi"),
    "check_fastcgi_param": ("fastcgi",),
}
"""Which types of checks these directives say something to; the others, to all."""


def _unused(settings: TengineCheckSettings) -> Iterator[tuple[str, Position]]:
    """What is written and changes nothing, and why."""
    check = settings.check
    for text, place in settings.written:
        name = text.partition(" ")[0]
        if check is None:
            yield f"{text}, without a check", place
        elif name == "check" and place != settings.place:
            yield f"{text}, which a later check replaces", place
        elif check.type not in _FOR.get(name, _TYPES):
            yield f"{text}, for a check of type {check.type}", place


def _value(name: str, value: str) -> int | str:
    """One parameter of `check`. Raises ValueError."""
    if name == "type":
        if value not in _TYPES:
            raise ValueError(value)
        return value
    if name not in ("interval", "timeout", "rise", "fall", "port"):
        raise ValueError(name)
    number = parse_number(value)
    if not number or (name == "port" and number > 65535):
        raise ValueError(value)
    return number


def _http_send(block: Block, directive: Directive) -> None:
    check = block[TengineCheckSettings].check
    if check is None:
        raise directive.error("invalid check_http_send should set [check] first")
    if directive.args[0] and check.type != "http":
        raise directive.error(f'invalid check_http_send for type "{check.type}"', 0)
    _note(block, directive)
    block.set(TengineCheckSettings, "send", directive.args[0].encode("utf-8", "surrogateescape"))


def _expect_alive(block: Block, directive: Directive) -> None:
    for index, value in enumerate(directive.args):
        if value.lower() not in _ALIVE:
            raise directive.error(f'invalid value "{value}"', index)
    _note(block, directive)
    block.set(TengineCheckSettings, "alive", tuple(dict.fromkeys(value.lower() for value in directive.args)))


def _keepalive_requests(block: Block, directive: Directive) -> None:
    try:
        count = parse_number(directive.args[0])
    except ValueError:
        count = 0
    if not count:
        raise directive.error('"check_keepalive_requests" directive invalid value', 0)
    _note(block, directive)
    block.set(TengineCheckSettings, "keepalive_requests", count)


def _fastcgi_param(block: Block, directive: Directive) -> None:
    _note(block, directive)
    block.append(TengineCheckSettings, "params", (directive.args[0], directive.args[1]))


def _shm_size(block: Block, directive: Directive) -> None:
    """The memory of the checks is as large as it must be; only the value is looked at."""
    if block[TengineCheckSettings].shm_size:
        raise directive.error('"check_shm_size" directive is duplicate')
    try:
        block.set(TengineCheckSettings, "shm_size", parse_size(directive.args[0]))
    except ValueError:
        raise directive.error('"check_shm_size" directive invalid value', 0) from None
    block.loading.idle.append((f"check_shm_size {directive.args[0]}", directive.position))


def _close_upstream(block: Block) -> None:
    settings = block[TengineCheckSettings]
    check = settings.check
    block.loading.idle.extend(_unused(settings))
    upstream = find_upstream(block.section, block[UpstreamSettings].name)
    if check is None or upstream is None:
        return
    alive = settings.alive or ("http_2xx", "http_3xx")
    over_http = check.type in ("http", "fastcgi")
    match = MatchSpec(statuses=tuple(_ALIVE[name] for name in alive), words=" or ".join(name[5:] for name in alive))
    spec = CheckSpec(
        upstream.name,
        check.type,
        dialect=TENGINE,
        request=(settings.send or _SEND) if check.type == "http" else b"",
        params=(settings.params or _PARAMS) if check.type == "fastcgi" else (),
        match=match if over_http else None,
        interval=check.interval / 1000,
        timeout=check.timeout / 1000,
        rise=check.rise,
        fall=check.fall,
        port=check.port,
        initial="down" if check.default_down else "up",
        concurrency=0,
        keepalive_time=_KEPT if settings.keepalive_requests > 1 else 0.0,
        keepalive_requests=settings.keepalive_requests,
    )
    add_check(block.section, spec, settings.place)


MODULE = Module(
    "tengine_check",
    (
        command("check", "upstream stream_upstream", (1, None), _check),
        command("check_http_send", "upstream stream_upstream", 1, _http_send),
        command("check_http_expect_alive", "upstream stream_upstream", (1, None), _expect_alive),
        command("check_keepalive_requests", "upstream stream_upstream", 1, _keepalive_requests),
        command("check_fastcgi_param", "upstream stream_upstream", 2, _fastcgi_param),
        command("check_shm_size", "http stream", 1, _shm_size),
    ),
    {"upstream": _close_upstream, "stream_upstream": _close_upstream},
)
