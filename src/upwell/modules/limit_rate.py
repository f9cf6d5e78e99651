"""`limit_rate` and `limit_rate_after`: how fast an answer goes to the client. Pacing itself is proxy/pace.py's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from upwell.config.command import Module, Setter, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import once, read_size
from upwell.config.template import Template
from upwell.log import ERROR, printable
from upwell.units import parse_size

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_Told = TypeVar("_Told")

_LEVELS = "http server location if"


@dataclass(frozen=True, slots=True)
class LimitRateSettings:
    """Bytes a second, and the bytes that are free; None where no level says anything."""

    rate: Template | None = None
    after: Template | None = None


def size_or_template(settings: type[object], name: str) -> Setter:
    """A size that may be made of variables (nginx: ngx_http_set_complex_value_size_slot)."""

    def put(block: Block, directive: Directive) -> None:
        once(block, directive, settings, name)
        template = block.template(directive, 0)
        if template.literal is not None:
            read_size(directive)
        block.set(settings, name, template)

    return put


def compile_size(
    template: Template | None,
    render: Callable[[Template], Callable[[_Told], bytes]],
    tell: Callable[[_Told, str], None],
) -> Callable[[_Told], int] | None:
    """The function that gives a size; a text that is none is told and gives 0. None without a template, and for 0."""
    if template is None or (template.literal is not None and parse_size(template.literal) == 0):
        return None
    text = render(template)

    def value(told: _Told) -> int:
        given = text(told)
        try:
            return parse_size(given.decode("latin-1")) if given else 0
        except ValueError:
            tell(told, f'invalid size "{printable(given)}"')
            return 0

    return value


def tell_error(exchange: Exchange, message: str) -> None:
    """A line in the error log of a request."""
    exchange.log(ERROR, message)


def take_rate(exchange: Exchange) -> None:
    """A header filter of a location with limit_rate: its rate counts unless the answer has one already."""
    rate = exchange.location.limit_rate
    if rate is not None and exchange.limit_rate is None:
        exchange.limit_rate = rate(exchange)


def take_peer_rate(rate: Callable[[Exchange], int]) -> Callable[[Exchange], None]:
    """A header filter for proxy_limit_rate: its rate counts for answers of peers."""

    def take(exchange: Exchange) -> None:
        if exchange.source is not None:
            exchange.peer_rate = rate(exchange)

    return take


def set_rate(value: Callable[[Exchange], bytes]) -> Callable[[Exchange], None]:
    """`set $limit_rate`."""

    def assign(exchange: Exchange) -> None:
        text = value(exchange)
        try:
            exchange.limit_rate = parse_size(text.decode("latin-1"))
            exchange.special = True
        except ValueError:
            exchange.log(ERROR, f'invalid $limit_rate "{printable(text)}"')

    return assign


MODULE = Module(
    "limit_rate",
    (
        command("limit_rate", _LEVELS, 1, size_or_template(LimitRateSettings, "rate")),
        command("limit_rate_after", _LEVELS, 1, size_or_template(LimitRateSettings, "after")),
    ),
)
