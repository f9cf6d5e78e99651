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


def answer(exchange: Exchange, head: ResponseHead, hide: frozenset[bytes], redirect: Redirect | None) -> None:
    """Send the head of the client's answer for the peer's `head`, and settle how the content will be framed."""
    exchange.status = head.status
    section = exchange.answered = head.section
    moved = redirect is not None and (b"location" in section.values or b"refresh" in section.values)
    if moved or exchange.capture is not None or exchange.location.header_filters:
        _through_filters(exchange, head, hide, redirect)
        return
    first, rest = section.rendered.get(hide) or _render(section, hide)
    exchange.head_sent = True
    length = section.content_length
    framing = b""
    if exchange.header_only or head.status in (204, 304):
        exchange.header_only = True
        if length is not None and head.status != 204:
            framing = b"Content-Length: %d\r\n" % length
    elif length is not None:
        exchange.content_length = length
        framing = b"Content-Length: %d\r\n" % length
    elif exchange.version == 11:
        exchange.chunked = True
        framing = b"Transfer-Encoding: chunked\r\n"
    else:
        exchange.keepalive = False
    client = exchange.client
    server = exchange.location.server_line
    date = client.endpoint.clock.date
    if b"server" not in hide and b"server" in section.values:
        server = b""
    if b"date" not in hide and b"date" in section.values:
        date = b""
    connection = exchange.connection_line()
    data = b"".join((b"HTTP/1.1 ", head.line, b"\r\n", server, date, first, framing, connection, rest))
    exchange.head_bytes_sent = len(data)
    client.out.append(data)


def _render(section: FieldSection, hide: frozenset[bytes]) -> tuple[bytes, bytes]:
    """The lines to pass on: (Content-Type, all others and the empty line); remembered with the section."""
    unwanted = hide | HOP_BY_HOP | section.options | {b"content-length", b"content-type"}
    first = [wire for (name, _), wire in zip(section.fields, section.wires, strict=True) if name == b"content-type"]
    rendered = (b"".join(first), b"".join(section.wires_without(unwanted)) + b"\r\n")
    section.rendered[hide] = rendered
    return rendered


def _through_filters(exchange: Exchange, head: ResponseHead, hide: frozenset[bytes], redirect: Redirect | None) -> None:
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
