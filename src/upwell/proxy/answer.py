"""The head of an answer that came from an upstream, as it goes to the client (nginx's header filter).

Field lines pass as they came, but those of one hop, those that nginx writes itself and those that are hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from upwell.http1.fields import HOP_BY_HOP, FieldSection
from upwell.http1.head import ResponseHead
from upwell.log import WARN, printable
from upwell.proxy import accel

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange
    from upwell.proxy.forward import ForwardSpec

HIDDEN: Final = frozenset(
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
Cookies = Callable[["Exchange", bytes], bytes]
"""What becomes of the value of a Set-Cookie field."""

_CHANGEABLE: Final = frozenset((b"location", b"refresh", b"set-cookie")) | accel.OBEYED
_SIGNED: Final = frozenset((b"server", b"date"))
_EMPTY: Final = frozenset((204, 304))


_FIRST_ONLY = frozenset(
    (b"content-type", b"date", b"etag", b"expires", b"last-modified", b"location", b"refresh", b"server")
)
"""Response fields that have one value: of several lines nginx passes the first on."""


HELD_ONCE: Final = _FIRST_ONLY | {b"x-accel-expires", b"x-accel-limit-rate", b"x-accel-redirect"}
"""Those of which nginx knows the first only."""


def _passed(section: FieldSection, unwanted: frozenset[bytes]) -> list[tuple[bytes, bytes, bytes]]:
    """Name in lower case, value and wire form of the fields that are not `unwanted`, each that has one value once."""
    out = []
    seen: set[bytes] = set()
    for (name, value), wire in zip(section.fields, section.wires, strict=True):
        if name in unwanted or name in seen:
            continue
        if name in _FIRST_ONLY:
            seen.add(name)
        out.append((name, value, wire))
    return out


def passed_field(section: FieldSection, hide: frozenset[bytes], name: bytes) -> bytes | None:
    """The value of the field `name` in an answer whose `section` passed without a change, but for `hide`."""
    if name == b"content-length":
        return None if section.content_length is None else b"%d" % section.content_length
    if name in hide or name in HOP_BY_HOP or name in section.options:
        return None
    return section.first(name) if name in _FIRST_ONLY else section.values.get(name)


class Form:
    """How a response's field section goes to the client from a location: worked out once, remembered with the section.

    `first` are the lines before Connection (the content's type and length), `rest` those after it with the empty line.
    `length` is None when the client's framing must be chosen; `server` and `date`: the line is ours to write, not the
    peer's to send or to leave out (proxy_pass_header). `changeable` are the names in it that a location may not pass on
    as they are.
    """

    __slots__ = ("changeable", "date", "first", "length", "rest", "server")

    def __init__(self, section: FieldSection, hide: frozenset[bytes]) -> None:
        values = section.values
        passed = _passed(section, hide | HOP_BY_HOP | section.options | {b"content-length"})
        first = [b"Content-Type: %b\r\n" % value for name, value, _ in passed if name == b"content-type"]
        self.length = section.content_length
        if self.length is not None:
            first.append(b"Content-Length: %d\r\n" % self.length)
        self.first = b"".join(first)
        self.rest = b"".join([wire for name, _, wire in passed if name != b"content-type"]) + b"\r\n"
        self.changeable = _CHANGEABLE.intersection(values)
        self.server = b"server" in hide
        self.date = b"date" in hide


def _tell_of_repeated(exchange: Exchange, section: FieldSection) -> None:
    """nginx's line for each field that is ignored; here once as long as the section is remembered."""
    first: dict[bytes, str] = {}
    for (name, _), wire in zip(section.fields, section.wires, strict=True):
        if name in HELD_ONCE:
            line = printable(wire[:-2])
            if name in first:
                exchange.log(
                    WARN,
                    f'upstream sent duplicate header line: "{line}", previous value: "{first[name]}", '
                    "ignored while reading response header from upstream",
                )
            else:
                first[name] = line


def answer(exchange: Exchange, head: ResponseHead, spec: ForwardSpec) -> bool:
    """Send the head of the client's answer for the peer's `head`, and settle how the content will be framed.

    False when the peer's content is for nobody: something else answers (an error page, another location), or whoever
    asked from within wanted to know no more than the head.
    """
    exchange.status = head.status
    section = exchange.answered = head.section
    hide = spec.hide
    form: Form | None = section.rendered.get(hide)
    if form is None:
        form = section.rendered[hide] = Form(section, hide)
        if HELD_ONCE.intersection(section.values) and len(section.values) < len(section.fields):
            _tell_of_repeated(exchange, section)
    location = exchange.location
    if (
        exchange.special
        or (form.changeable and not spec.changes.isdisjoint(form.changeable))
        or head.status in spec.unusual
        or location.header_filters
    ):
        return answer_through_filters(exchange, head, spec)
    exchange.head_sent = True
    framing = b""
    if exchange.header_only or head.status == 304:
        exchange.header_only = True
    elif form.length is None:
        if exchange.version == 11 and location.chunks:
            exchange.chunked = True
            framing = b"Transfer-Encoding: chunked\r\n"
        else:
            exchange.keepalive = False
    client = exchange.client
    server = location.server_line if form.server else b""
    date = client.endpoint.clock.date if form.date else b""
    connection = exchange.connection_line()
    data = b"".join((b"HTTP/1.1 ", head.line, b"\r\n", server, date, form.first, framing, connection, form.rest))
    exchange.head_bytes_sent = len(data)
    client.out.append(data)
    return True


def answer_through_filters(exchange: Exchange, head: ResponseHead, spec: ForwardSpec) -> bool:
    """The slow way, over `exchange.out`: for captures and where response fields are changed."""
    section = head.section
    if spec.heard is not None and exchange.source is not None:
        spec.heard(exchange, exchange.source.peer)
    if head.status in spec.intercepted:
        challenge = [(b"WWW-Authenticate", value) for name, value in section.fields if name == b"www-authenticate"]
        exchange.respond_error(head.status, challenge if head.status == 401 else ())
        return False
    if not spec.obeyed.isdisjoint(section.values) and accel.obey(exchange, section, spec):
        return False
    if exchange.method == b"HEAD" and not exchange.header_only:
        # Made so by a handler. The client is promised content that does not come: let it see that at once.
        exchange.header_only = True
        exchange.keepalive = False
    exchange.status_text = head.line
    exchange.content_length = section.content_length
    if exchange.forced_status and head.status in _EMPTY:
        exchange.content_length = 0  # what it says is of content that it does not have
    redirect, cookies = spec.redirect, spec.cookies
    for name, value, wire in _passed(section, spec.hide | HOP_BY_HOP | section.options | {b"content-length"}):
        if name == b"content-type":
            exchange.content_type = value
        else:
            if redirect is not None and name in (b"location", b"refresh"):
                value = redirect(exchange, name, value)
            elif cookies is not None and name == b"set-cookie":
                value = cookies(exchange, value)
            exchange.out.append((wire[: len(name)], value))
    exchange.not_ours = _SIGNED - spec.hide
    exchange.send_head()
    if head.status in _EMPTY:
        exchange.header_only = True  # also where a filter has changed the status
    if exchange.capture is not None and exchange.capture.head_only:
        exchange.finish()
        return False
    return exchange.prelude is None
