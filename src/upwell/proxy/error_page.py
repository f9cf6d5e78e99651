"""Error pages: what answers in place of a status (nginx: error_page). Knows the pages of one location, no directive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from upwell.proxy.phases import MOST_CHANGES
from upwell.proxy.redirect import drop_content, redirect_as_get, redirect_to_named

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_TOO_LARGE = 413


@dataclass(frozen=True, slots=True)
class ErrorPage:
    """`value(exchange)` is a path with its arguments, "@name", or an address to send the client to.

    `status` is what the client gets: None for that of the error, 0 for that of the page's own answer.
    """

    value: Callable[[Exchange], bytes]
    status: int | None = None


@dataclass(frozen=True, slots=True)
class ErrorPages:
    """The pages of one location by status. `recursive`: an error of a page may have a page (recursive_error_pages)."""

    pages: Mapping[int, ErrorPage]
    recursive: bool = False


def has_page(exchange: Exchange, pages: ErrorPages, status: int) -> ErrorPage | None:
    """The page that answers `status`, if it may: there is one, and the exchange is not at an error page already."""
    if exchange.paged or exchange.changes > MOST_CHANGES:
        return None
    if not pages.recursive:
        exchange.paged = True
    return pages.pages.get(status)


def show(exchange: Exchange, page: ErrorPage, status: int, fields: Sequence[tuple[bytes, bytes]]) -> None:
    """Have `page` answer for `status`; `fields` go out with its answer, whatever that is."""
    exchange.keep(fields)
    exchange.content_type = None
    exchange.forced_status = status if page.status is None else page.status
    if status == _TOO_LARGE:
        drop_content(exchange)
    exchange.status = exchange.forced_status  # for $status in the address
    address = page.value(exchange)
    if address.startswith(b"/"):
        path, _, args = address.partition(b"?")
        redirect_as_get(exchange, path, args)
    elif address.startswith(b"@") and exchange.method == b"CONNECT":
        # A named location would send the method on, and a peer that agrees to it makes a tunnel of the connection.
        exchange.forced_status = 0
        exchange.respond_with_page(status)
    elif address.startswith(b"@"):
        redirect_to_named(exchange, address)
    else:
        if exchange.forced_status not in _REDIRECTS:
            exchange.forced_status = 302
        exchange.kept = tuple(line for line in exchange.kept if line[0] != b"Location")
        exchange.out = []
        exchange.respond_with_page(exchange.forced_status, ((b"Location", address),))
