"""Internal redirects: a request goes on at another URI, or at a named location of its server (nginx's mechanism).

Whoever asks for one has answered: the exchange counts as finished until its coroutine has ended, and then starts anew.
Knows what of an exchange survives that; where the request goes is decided by who asks (error_page, X-Accel-Redirect).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from upwell.log import ERROR, printable
from upwell.proxy.phases import MOST_CHANGES, begin, begin_named

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_NO_CONTENT_NEEDED = frozenset((b"GET", b"HEAD"))


def redirect_as_get(exchange: Exchange, uri: bytes, args: bytes) -> None:
    """`redirect` with the method GET, unless it is HEAD."""
    if exchange.method != b"HEAD":
        exchange.method = b"GET"
    redirect(exchange, uri, args)


def redirect(exchange: Exchange, uri: bytes, args: bytes) -> None:
    """Look for a location for the decoded `uri` with `args`; the method stays what it is."""

    def go() -> None:
        if _may_be_sent(exchange):
            exchange.aim(uri, args)
            begin(exchange)
        else:
            exchange.start_answer(500)

    _leave(exchange, go, f'internally redirecting to "{printable(uri)}"')


def redirect_to_named(exchange: Exchange, name: bytes) -> None:
    """Go on in the named location; method, URI and arguments stay what they are."""
    location = exchange.server.named.get(_text(name))
    doing = " while sending to client" if exchange.proxying and exchange.answered is not None else ""

    def go() -> None:
        if not exchange.uri:
            exchange.log(ERROR, f'empty URI in redirect to named location "{printable(name)}"')
        elif location is None:
            exchange.log(ERROR, f'could not find named location "{printable(name)}"{doing}')
        elif _may_be_sent(exchange):
            begin_named(exchange, location)
            return
        exchange.start_answer(500)

    _leave(exchange, go, f'redirect to named location "{printable(name)}"')


def _leave(exchange: Exchange, go: Callable[[], None], doing: str) -> None:
    """Have `go` called when the coroutine that runs now has ended, unless there were too many changes already."""
    exchange.changes += 1
    if exchange.changes > MOST_CHANGES:
        exchange.log(ERROR, f"rewrite or internal redirection cycle while {doing}")
        exchange.respond_error(500)
        return
    exchange.finished = True

    def onward() -> None:
        _forget(exchange)
        go()

    exchange.onward = onward


def _forget(exchange: Exchange) -> None:
    """Put off what belongs to the location that the exchange leaves (nginx clears the modules' contexts)."""
    exchange.finished = False
    exchange.filtered = False
    exchange.internal = True
    exchange.special = True
    exchange.moved = False
    exchange.located = True
    exchange.module = None
    exchange.destination = None
    exchange.status = exchange.forced_status  # what $status says from here on
    exchange.content_length = None
    exchange.status_text = None
    exchange.chain = None  # a file's head may have been filtered before it became clear what answers
    exchange.prelude = None
    exchange.ending = None
    exchange.out = list(exchange.kept)
    exchange.header_only = exchange.method == b"HEAD"
    exchange.proxying = False
    exchange.abortable = False
    if exchange.tries is not None:
        exchange.groups = (*exchange.groups, len(exchange.tries))


def _may_be_sent(exchange: Exchange) -> bool:
    """Whether the request can be sent once more: its content, if any, is held as far as it has come, and the rest will
    come. A method that needs no content does without, and so does the page that tells of content that was refused.
    """
    body = exchange.body
    if body is None:
        return True
    if not body.discarding and body.total == body.size and (body.complete or exchange.client.body is body):
        return True
    refused = not body.complete and exchange.client.body is not body
    if refused or exchange.method in _NO_CONTENT_NEEDED:
        drop_content(exchange)
        return True
    exchange.log(ERROR, "the request's content is not held any more to redirect it")
    return False


def drop_content(exchange: Exchange) -> None:
    """From here on the request has no content; what still comes of it is thrown away."""
    body = exchange.body
    if body is not None:
        body.discard()
        if body.expects:
            exchange.keepalive = False  # nobody knows whether the client will send it
        exchange.body = None


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
