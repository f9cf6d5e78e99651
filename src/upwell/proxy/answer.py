"""The head of an answer that came from an upstream, as it goes to the client (nginx's header filter).

Field lines pass as they came, but those of one hop, those that nginx writes itself and those that are hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from upwell.http1.fields import HOP_BY_HOP, FieldSection
from upwell.http1.head import ResponseHead

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

HIDDEN = frozenset(
    (
        b"date",
        b"server",
        b"x-pad",
        b"x-accel-expires",
        b"x-accel-redirect",
        b"x-accel-limit-rate",
        b"x-accel-buffering",
        b"x-accel-charset",
    )
)
"""Response fields that nginx does not pass on by default (proxy_hide_header)."""


Redirect = Callable[["Exchange", bytes, bytes], bytes]
"""What becomes of the value of a Location or Refresh field, by the field's lower-case name."""


class Form:
    """How a response's field section goes to the client from a location: worked out once, remembered with the section.

    `first` are the lines before Connection (the content's type and length), `rest` those after it with the empty line.
    `length` is None when the client's framing must be chosen; `moves`: there is a Location or Refresh; `server` and
    `date`: the peer's own is passed on (proxy_pass_header).
    """

    __slots__ = ("date", "first", "length", "moves", "rest", "server")

    def __init__(self, section: FieldSection, hide: frozenset[bytes]) -> None:
        values = section.values
        unwanted = hide | HOP_BY_HOP | section.options | {b"content-length", b"content-type"}
        pairs = zip(section.fields, section.wires, strict=True)
        first = [wire for (name, _), wire in pairs if name == b"content-type"]
        self.length = section.content_length
        if self.length is not None:
            first.append(b"Content-Length: %d\r\n" % self.length)
        self.first = b"".join(first)
        self.rest = b"".join(section.wires_without(unwanted)) + b"\r\n"
        self.moves = b"location" in values or b"refresh" in values
        self.server = b"server" in values and b"server" not in hide
        self.date = b"date" in values and b"date" not in hide


def answer(exchange: Exchange, head: ResponseHead, hide: frozenset[bytes], redirect: Redirect | None) -> None:
    """Send the head of the client's answer for the peer's `head`, and settle how the content will be framed."""
    exchange.status = head.status
    section = exchange.answered = head.section
    form = section.rendered.get(hide)
    if form is None:
        form = section.rendered[hide] = Form(section, hide)
    location = exchange.location
    special = exchange.capture is not None or (form.moves and redirect is not None) or head.status == 204
    if special or location.header_filters:
        answer_through_filters(exchange, head, hide, redirect)
        return
    exchange.head_sent = True
    framing = b""
    if exchange.header_only or head.status == 304:
        exchange.header_only = True
    elif form.length is None:
        if exchange.version == 11:
            exchange.chunked = True
            framing = b"Transfer-Encoding: chunked\r\n"
        else:
            exchange.keepalive = False
    client = exchange.client
    server = b"" if form.server else location.server_line
    date = b"" if form.date else client.endpoint.clock.date
    connection = exchange.connection_line()
    data = b"".join((b"HTTP/1.1 ", head.line, b"\r\n", server, date, form.first, framing, connection, form.rest))
    exchange.head_bytes_sent = len(data)
    client.out.append(data)


def answer_through_filters(
    exchange: Exchange, head: ResponseHead, hide: frozenset[bytes], redirect: Redirect | None
) -> None:
    """The slow way, over `exchange.out`: for captures and where response fields are changed."""
    section = head.section
    exchange.status_text = head.line
    unwanted = hide | HOP_BY_HOP | section.options | {b"content-length", b"content-type"}
    exchange.content_type = section.values.get(b"content-type")
    exchange.content_length = section.content_length
    for (name, value), wire in zip(section.fields, section.wires, strict=True):
        if name not in unwanted:
            if redirect is not None and name in (b"location", b"refresh"):
                exchange.out.append((wire[: len(name)], redirect(exchange, name, value)))
            else:
                exchange.out.append((wire[: len(name)], value))
    exchange.send_head()
