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
from upwell.modules.rewrite import RewriteSettings

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

REDIRECTS = frozenset((301, 302, 303, 307, 308))
CLOSE = 444
"""nginx's own status: close the connection and say nothing."""

_GREATEST = 999
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
    """The rewrite handler for `step`: a status to answer with by nginx's own page, or None when it has answered itself.

    `render` makes a template into a function of the exchange. A status below 400 without text is answered with an
    empty body; so is any status with an empty text.
    """
    status = step.status
    if status in REDIRECTS:
        address = render(step.text or Template(()))

        def redirect(exchange: Exchange) -> int | None:
            exchange.out.append((b"Location", absolute(exchange, address(exchange))))
            return status

        return redirect
    if step.text is None and (status >= 400 or status == 0):
        return lambda exchange: status or 0
    text = render(step.text or Template(()))

    def answer(exchange: Exchange) -> int | None:
        exchange.respond(status, text(exchange), exchange.location.default_type)
        return None

    return answer


def absolute(exchange: Exchange, address: bytes) -> bytes:
    """A redirect to a path is sent with scheme and host (nginx: absolute_redirect, port_in_redirect are on)."""
    if not address.startswith(b"/"):
        return address
    port = exchange.client.local_port
    host = exchange.host
    suffix = b"" if port in (0, 80) else b":%d" % port
    return b"%b://%b%b%b" % (exchange.scheme.encode(), host, suffix, address)


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


MODULE = Module("return", (command("return", "server location", (1, 2), _return),))
