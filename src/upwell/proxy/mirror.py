"""`mirror`: a request goes to further places in the background, and nobody waits for what they answer.

Each is a subrequest that ends with the head of its answer. It outlives the request that it mirrors, and its client:
what keeps their number within bounds is that there are no more of them than a worker may have connections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from upwell.log import WARN
from upwell.proxy.body import RequestBody
from upwell.proxy.location import Access

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange


class _Flying:
    """How many of this worker's mirrors have no answer yet."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


_flying = _Flying()


def mirroring(uris: Sequence[bytes], with_content: bool) -> Access:
    """What comes last before the content: the request is sent on to `uris`; `with_content`: when all of it is here."""

    async def mirror(exchange: Exchange) -> None:
        content = None
        if with_content:
            await exchange.read_body()
            content = exchange.body or _empty(exchange)
        for uri in uris:
            most = exchange.client.endpoint.limit
            if _flying.count >= most:
                exchange.log(WARN, f"{most} requests are mirrored at once, which is not to be exceeded")
                return
            _flying.count += 1
            exchange.begin_subrequest(
                uri,
                exchange.args,
                exchange.method,
                None,
                None,
                _let_go,
                True,
                content,
            )

    return mirror


def _empty(exchange: Exchange) -> RequestBody | None:
    """The content of a client that says that there is none."""
    if exchange.head.section.content_length is None:
        return None
    body = RequestBody(exchange, 0)
    body.complete = True
    return body


def _let_go(inner: Exchange) -> None:
    _flying.count -= 1
    if inner.body is not None:
        inner.body.close()
