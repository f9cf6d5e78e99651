"""`add_before_body` and `add_after_body`: what other locations answer, before and after an answer's own content.

Subrequests give it, piece by piece into the chain of the answer that they belong to; the client's pace is theirs too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from upwell.proxy.body_filters import Chain, Opener, Stage, is_among, weaken_etag, without

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_OK: Final = 200


@dataclass(frozen=True, slots=True)
class Adding:
    """The URIs that are asked, empty for none. `types` as for `is_among`."""

    before: bytes
    after: bytes
    types: frozenset[bytes] | None


def surrounding(spec: Adding) -> Opener:
    """The opener of `add_before_body` and `add_after_body`."""

    def open_addition(exchange: Exchange) -> Stage | None:
        if exchange.status != _OK or exchange.capture is not None or not is_among(exchange, spec.types):
            return None
        exchange.content_length = None
        without(exchange, b"accept-ranges")
        weaken_etag(exchange)
        if exchange.header_only:
            return None
        stage = Added(exchange, spec)
        if spec.before:
            exchange.prelude = stage.begin
        return stage

    return open_addition


class Added(Stage):
    """Content waits until what comes before it is through; whoever can waits for that himself (`Exchange.prelude`)."""

    __slots__ = ("_begun", "_exchange", "_held", "_spec")

    def __init__(self, exchange: Exchange, spec: Adding) -> None:
        self._exchange = exchange
        self._spec = spec
        self._begun = not spec.before
        self._held: list[bytes] = []

    @property
    def surrounds(self) -> bool:
        return True

    def feed(self, data: bytes) -> bytes:
        if self._begun:
            return data
        self._held.append(data)
        return b""

    async def begin(self) -> None:
        """What comes before, once."""
        exchange = self._exchange
        if self._begun:
            return
        exchange.prelude = None
        await self._ask(self._spec.before)
        self._begun = True
        held, self._held = self._held, []
        chain = exchange.chain
        if chain is not None and not exchange.cut:
            for data in held:
                chain.join(self, data)

    async def follow(self) -> None:
        """What comes after."""
        if self._spec.after and not self._exchange.cut:
            await self._ask(self._spec.after)

    async def _ask(self, uri: bytes) -> None:
        exchange = self._exchange
        chain = exchange.chain
        if chain is None or exchange.cut:
            return
        source, abortable = exchange.source, exchange.abortable
        exchange.abortable = True
        try:
            inner = await exchange.ask_within(uri, sink=_joining(exchange, chain, self))
        finally:
            exchange.source = source
            exchange.abortable = abortable
        if inner.capture is not None and inner.capture.truncated:
            exchange.abort()  # nobody is to take for complete what is not


def _joining(exchange: Exchange, chain: Chain, stage: Stage) -> Callable[[Exchange, bytes], None]:
    """Where the content of a subrequest goes: into the chain of `exchange`, behind `stage`."""

    def join(inner: Exchange, data: bytes) -> None:
        exchange.source = inner.source  # who is stopped while the client is slow
        chain.join(stage, data)

    return join
