"""103 Early Hints of a peer passed on to the client ahead of the answer (RFC 8297; nginx: early_hints)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from upwell.http1.fields import HOP_BY_HOP
from upwell.http1.head import ResponseHead

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

Hints = Callable[["Exchange", ResponseHead], None]

_NEVER = HOP_BY_HOP | {b"content-length"}
"""nginx passes these on too, but a hint has no content and says nothing of the connection (RFC 9110, 15.2)."""


def hinting(wanted: Callable[[Exchange], bool], hide: frozenset[bytes]) -> Hints:
    """What to do with a 103: pass it on where `wanted` says so, without the fields `hide`."""
    unwanted = hide | _NEVER

    def pass_on(exchange: Exchange, head: ResponseHead) -> None:
        # HTTP/1.0 knows no interim responses (RFC 9110, 15.2); a subrequest's hints are nobody's.
        if exchange.version != 11 or exchange.capture is not None or not wanted(exchange):
            return
        fields = b"".join(head.section.wires_without(unwanted))
        exchange.client.out.append(b"HTTP/1.1 103 Early Hints\r\n%b\r\n" % fields)
        exchange.client.flush()

    return pass_on
