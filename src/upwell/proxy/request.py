"""The head of a request as it goes to a peer: nginx's own fields first, then the client's that are passed on.

A renderer is made once per location. What it makes of a field section is remembered with the section.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from upwell.errors import MessageError
from upwell.http1.fields import HOP_BY_HOP, FieldSection, one_line
from upwell.http1.syntax import TOKEN

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

Value = Callable[["Exchange"], bytes]
Renderer = Callable[["Exchange", "int | None", bool], bytes]

_FRAMING = frozenset((b"content-length", b"transfer-encoding"))


def request_renderer(
    path: Callable[[Exchange], bytes],
    fields: Sequence[tuple[bytes, bytes | Value]],
    version: bytes = b"1.1",
    method: Value | None = None,
    passes_fields: bool = True,
) -> Renderer:
    """A renderer for `ForwardSpec.request_head`.

    `fields` are those that the proxy sets, (name, constant or function of the exchange), in order; an empty value
    sends no field, and either way the client's field of that name is not passed on (nginx: proxy_set_header).
    Content-Length and Transfer-Encoding always say what is sent; where `fields` has the former, no content is not
    announced as such. `method` None: the client's; without `passes_fields` none of the client's fields goes on.
    """
    given = frozenset(name.lower() for name, _ in fields)
    announces_nothing = b"content-length" not in given
    fields = [field for field in fields if field[0].lower() not in _FRAMING]
    unwanted = given | HOP_BY_HOP | {b"host", b"content-length"}
    constants = [(name, value) for name, value in fields if isinstance(value, bytes)]
    if len(constants) == len(fields):
        constant = b"".join(b"%b: %b\r\n" % (name, value) for name, value in constants if value)

        def own(exchange: Exchange) -> bytes:
            return constant
    else:
        parts = tuple(fields)

        def own(exchange: Exchange) -> bytes:
            out = []
            for name, value in parts:
                text = value if isinstance(value, bytes) else value(exchange)
                if text:
                    out.append(b"%b: %b\r\n" % (name, one_line(text)))
            return b"".join(out)

    head = b" HTTP/" + version + b"\r\n"

    def render(exchange: Exchange, length: int | None, chunked: bool) -> bytes:
        section = exchange.head.section
        if not passes_fields:
            rest = b"\r\n"
        elif exchange.fields is section.fields:
            rest = section.rendered.get(unwanted) or _render(section, unwanted)
        else:
            dropped = unwanted | (section.options - exchange.fields_set)
            rest = b"".join([b"%b: %b\r\n" % field for field in exchange.fields if field[0] not in dropped]) + b"\r\n"
        framing = b""
        if chunked:
            framing = b"Transfer-Encoding: chunked\r\n"
        elif length or (length is not None and announces_nothing):
            framing = b"Content-Length: %d\r\n" % length
        verb = exchange.method if method is None else method(exchange)
        return b"".join((verb, b" ", path(exchange), head, own(exchange), framing, rest))

    return render


def method_renderer(value: Value) -> Value:
    """The method of `proxy_method`: the client's where `value` is empty. Raises MessageError(500) for what is none."""

    def method(exchange: Exchange) -> bytes:
        name = value(exchange)
        if TOKEN.fullmatch(name) is None:
            if name:
                raise MessageError(500, 'client request has no valid "proxy_method"')
            return exchange.method
        return name

    return method


def as_before_tries(value: Value) -> Value:
    """`value` with the $upstream_ variables as they were before the first try at a peer of this location, in each of
    its tries: nginx makes a request once, before that.
    """

    def before(exchange: Exchange) -> bytes:
        tries, groups, answered = exchange.tries, exchange.groups, exchange.answered
        count = groups[-1] if groups else 0
        exchange.tries = tries[:count] if tries is not None and count else None
        exchange.answered = None
        if groups:
            exchange.groups = groups[:-1]
        try:
            return value(exchange)
        finally:
            exchange.tries, exchange.answered = tries, answered
            if groups:
                exchange.groups = groups

    return before


def _render(section: FieldSection, unwanted: frozenset[bytes]) -> bytes:
    rest = b"".join(section.wires_without(unwanted)) + b"\r\n"
    section.rendered[unwanted] = rest
    return rest


def path_as_sent(exchange: Exchange) -> bytes:
    """The target as the client sent it (proxy_pass without a URI)."""
    return exchange.path
