"""`upwell_status` and `status_format`: the page that says how every upstream, peer and check stands, and why.

`upwell_status;` in a location makes it. `status_format html|json|prometheus` says which form it has unless the request
asks for another by `?format=`; `?upstream=NAME` and `?status=up|down|checking` show a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter as clock
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from upwell.check.pages import html_page, json_page, prometheus_page
from upwell.check.pages.view import View
from upwell.check.report import CHECKING, DOWN, UP, Report
from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.modules.location import LocationSettings
from upwell.proxy.suspension import suspend
from upwell.proxy.variables import argument

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange
    from upwell.proxy.location import Content

TURN: Final = 0.0015
"""Seconds after which everybody else in the worker has a turn: a page of thousands of peers takes many times that."""
_AT_ONCE: Final = 65536
"""Characters that are sent in one piece."""

_NO_STORE: Final = ((b"Cache-Control", b"no-store"),)

_Form = tuple[str, Callable[[View], Iterator[str]], Sequence[tuple[bytes, bytes]]]

FORMS: Final[dict[str, _Form]] = {
    "html": ("text/html; charset=utf-8", html_page.pieces, html_page.FIELDS),
    "json": ("application/json", json_page.pieces, _NO_STORE),
    "prometheus": (prometheus_page.MEDIA_TYPE, prometheus_page.pieces, _NO_STORE),
}


@dataclass(frozen=True, slots=True)
class UpwellStatusSettings:
    format: str = "html"


def compile_upwell_status(
    settings: UpwellStatusSettings, report: Report, call_soon: Callable[[Callable[[], object]], object]
) -> Content:
    """The content handler; `call_soon` is the loop's."""

    async def content(exchange: Exchange) -> None:
        if exchange.method not in (b"GET", b"HEAD"):
            exchange.respond_error(405)
            return
        wanted = _asked(exchange, b"format") or settings.format
        form = FORMS.get(wanted)
        state = _asked(exchange, b"status")
        if form is None or state not in ("", UP, DOWN, CHECKING):
            exchange.respond_error(400)
            return
        media_type, pieces, fields = form
        page: list[bytes] = []
        texts: list[str] = []
        size = 0
        turn = clock() + TURN
        for piece in pieces(View(report, _asked(exchange, b"upstream"), state)):
            texts.append(piece)
            size += len(piece)
            if size >= _AT_ONCE:
                page.append("".join(texts).encode("utf-8", "replace"))
                texts.clear()
                size = 0
            if clock() > turn:
                call_soon(exchange.resume)
                await suspend()
                turn = clock() + TURN
        page.append("".join(texts).encode("utf-8", "replace"))
        if len(page) == 1:
            exchange.respond(200, page[0], media_type.encode(), fields)
            return
        exchange.status = 200
        exchange.content_type = media_type.encode()
        exchange.content_length = sum(map(len, page))
        exchange.out = [*exchange.out, *fields]
        exchange.send_head()
        page.reverse()
        while page:
            exchange.write(page.pop())
            await exchange.drained()
            if clock() > turn:
                call_soon(exchange.resume)
                await suspend()
                turn = clock() + TURN
        exchange.finish()

    return content


def _asked(exchange: Exchange, name: bytes) -> str:
    value = argument(exchange, name)
    return unquote(value.decode("latin-1")) if value else ""


def _upwell_status(block: Block, directive: Directive) -> None:
    block.set(LocationSettings, "handler", "upwell_status")


def _status_format(block: Block, directive: Directive) -> None:
    if "format" in block.own(UpwellStatusSettings):
        raise directive.error('"status_format" directive is duplicate')
    if directive.args[0] not in FORMS:
        raise directive.error(f'invalid status format "{directive.args[0]}", it must be one of {", ".join(FORMS)}', 0)
    block.set(UpwellStatusSettings, "format", directive.args[0])


MODULE = Module(
    "upwell_status",
    (
        command("upwell_status", "location", 0, _upwell_status),
        command("status_format", "http server location", 1, _status_format),
    ),
)
