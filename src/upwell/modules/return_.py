"""`return`: a status, a text or a redirect, and the handler that answers so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import parse_number
from upwell.config.template import Template
from upwell.errors import Position
from upwell.modules.rewrite import CONTEXTS, RewriteSettings
from upwell.proxy.absolute import absolute

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

REDIRECTS = frozenset((301, 302, 303, 307, 308))
_GREATEST = 999
_FIRST_ERROR = 400
_URLS = ("http://", "https://", "$scheme")


@dataclass(frozen=True, slots=True)
class Return:
    """One `return`: `text` is the response's text, a redirect's address for 301, 302, 303, 307, 308, or None."""

    status: int
    text: Template | None
    position: Position


def compile_return(
    step: Return, render: Callable[[Template], Callable[[Exchange], bytes]]
) -> Callable[[Exchange], int | None]:
    """The rewrite handler for `step`: a status that is left to answer (with nginx's page), or None, having answered.

    `render` makes a template into a function of the exchange. A status below 400 without text has an empty body.
    """
    status = step.status
    text = render(step.text or Template(()))
    if status in REDIRECTS:

        def redirect(exchange: Exchange) -> int | None:
            exchange.status = exchange.forced_status or status  # for $status in the address
            exchange.respond_error(status, ((b"Location", absolute(exchange, text(exchange))),))
            return None

        return redirect
    if status >= _FIRST_ERROR and (step.text is None or step.text == Template(())):
        return lambda exchange: status

    def answer(exchange: Exchange) -> int | None:
        exchange.status = exchange.forced_status or status  # before the text, which may have $status
        content = text(exchange)
        exchange.content_type = exchange.default_type
        exchange.content_length = len(content)
        exchange.send_head()
        exchange.write(content)
        exchange.finish()
        return None

    return answer


def _return(block: Block, directive: Directive) -> None:
    first = directive.args[0]
    text: Template | None
    try:
        status = parse_number(first)
        if status > _GREATEST:
            raise ValueError(first)
        text = block.template(directive, 1) if len(directive.args) == 2 else None
    except ValueError:
        if len(directive.args) == 2 or not first.startswith(_URLS):
            raise directive.error(f'invalid return code "{first}"', 0) from None
        status, text = 302, block.template(directive, 0)
    block.append(RewriteSettings, "steps", Return(status, text, directive.position))


MODULE = Module("return", (command("return", CONTEXTS, (1, 2), _return),))
