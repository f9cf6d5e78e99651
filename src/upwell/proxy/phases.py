"""The order in which a request meets a location's handlers: rewrite, preaccess, access, content (nginx's phases)."""

from __future__ import annotations

from collections.abc import Awaitable
from inspect import isawaitable
from typing import TYPE_CHECKING, Final

from upwell.log import ERROR, printable
from upwell.proxy.location import Access, Location

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

MOST_CHANGES: Final = 10
"""How often a request may get another URI: by the rewrite phase and by internal redirects together."""
CLOSE: Final = frozenset((408, 444, 499))
"""Statuses of which nothing is said: the connection is closed, as nginx does."""


def begin(exchange: Exchange) -> None:
    """Find the location of `exchange` and start its answer."""
    server = exchange.server
    if server.rewrite:
        exchange.start(_run(exchange))
        return
    try:
        location = exchange.location = server.locate(exchange)
        if location.simple and not location.internal and (exchange.body is None or not _is_too_large(exchange)):
            answering = location.content(exchange)
        else:
            answering = _search(exchange, location)
    except Exception as error:  # a regular expression that takes too long
        exchange.start_failing(error)
        return
    exchange.start(answering)  # type: ignore[arg-type]  # a handler is an `async def`, so a coroutine


def begin_named(exchange: Exchange, location: Location) -> None:
    """Start the answer of `exchange` in a named location: the server's own rewrite phase is not run again."""
    exchange.start(_search(exchange, location))


async def _run(exchange: Exchange) -> None:
    """All phases."""
    if not await _decide(exchange, exchange.server.rewrite):
        exchange.moved = False
        await _search(exchange, None)


async def _search(exchange: Exchange, found: Location | None) -> None:
    """The phases of a location (`found`, or that of the URI), once more for each change of the URI, ten times at
    most.
    """
    while True:
        location = exchange.location = found if found is not None else exchange.server.locate(exchange)
        if location.others is not None and exchange.method not in location.methods:
            location = exchange.location = location.others
        if location.internal and not exchange.internal:
            exchange.respond_error(404)
            return
        if _is_too_large(exchange):
            _refuse_large(exchange)
            return
        if await _decide(exchange, location.rewrite):
            return
        turned = exchange.location is not location and not exchange.moved  # into an `if`, with code of its own
        if turned and await _decide(exchange, exchange.location.rewrite):
            return
        if not exchange.moved:
            break
        exchange.moved = False
        found = None
        exchange.changes += 1
        if exchange.changes > MOST_CHANGES:
            shown = printable(exchange.uri)
            exchange.log(ERROR, f'rewrite or internal redirection cycle while processing "{shown}"')
            exchange.respond_error(500)
            return
    location = exchange.location  # an `if` may have changed it
    if location.preaccess and await _decide(exchange, location.preaccess):
        return
    if exchange.capture is None and await _decide(exchange, location.access):
        return  # what is asked from within has been let in already (nginx: ngx_http_core_access_phase)
    await location.content(exchange)


def unless_moved(handler: Access) -> Access:
    """`handler` of a rewrite phase, for requests that the steps before it have not sent elsewhere."""

    def late(exchange: Exchange) -> int | Awaitable[int | None] | None:
        return None if exchange.moved or exchange.location.unnamed else handler(exchange)

    return late


async def _decide(exchange: Exchange, handlers: tuple[Access, ...]) -> bool:
    """Run handlers until one decides; true when the exchange has its answer."""
    for handler in handlers:
        status = handler(exchange)
        if isawaitable(status):
            status = await status
        if exchange.finished:
            return True
        if status is not None:
            if status in CLOSE:
                exchange.drop(status)
            else:
                exchange.respond_error(status)
            return True
    return False


def _is_too_large(exchange: Exchange) -> bool:
    """Whether the request's content is announced as more than the location takes."""
    body = exchange.body
    if body is None or exchange.capture is not None:
        return False
    limit = body.limit = exchange.location.max_body_size
    length = exchange.head.section.content_length
    return bool(limit) and length is not None and length > limit


def _refuse_large(exchange: Exchange) -> None:
    length = exchange.head.section.content_length
    exchange.log(ERROR, f"client intended to send too large body: {length} bytes")
    exchange.respond_error(413)
