"""One worker's part of what `stub_status` tells: counted as it happens where somebody wants to know.

How many connections are read from, written to and wait is looked up when the worker is asked, and once a second for
those who ask another worker.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import TYPE_CHECKING

from upwell.zone.connections import (
    ACCEPTED,
    ACTIVE,
    HANDLED,
    READING,
    REQUESTS,
    WAITING,
    WRITING,
    ConnectionTable,
)

if TYPE_CHECKING:
    from upwell.proxy.client import ClientConnection
    from upwell.proxy.exchange import Exchange


class Census:
    """Counts the `connections` of worker number `worker` in its words of `table`."""

    __slots__ = ("_connections", "_table", "_words")

    def __init__(self, table: ConnectionTable, worker: int, connections: Set[ClientConnection]) -> None:
        self._table = table
        self._connections = connections
        self._words = table.counts(worker)
        self.look()  # a worker that died in this place has left what it had

    def __repr__(self) -> str:
        return f"<Census {len(self._connections)} connections>"

    def opened(self, handled: bool) -> None:
        """A connection came; `handled`: there was a place for it."""
        words = self._words
        words[ACCEPTED] += 1
        if handled:
            words[HANDLED] += 1
            words[ACTIVE] = len(self._connections)

    def closed(self) -> None:
        """A connection ended. Who has none any more may be about to go, and must leave nothing that looks like some."""
        words = self._words
        words[ACTIVE] = len(self._connections)
        if not self._connections:
            words[READING] = words[WRITING] = words[WAITING] = 0

    def counting(self, begin: Callable[[Exchange], None]) -> Callable[[Exchange], None]:
        """`begin` for requests that are counted, those from within not."""
        words = self._words

        def counted(exchange: Exchange) -> None:
            if exchange.capture is None:
                words[REQUESTS] += 1
            begin(exchange)

        return counted

    def look(self) -> None:
        """See what the connections are at."""
        writing = waiting = 0
        for connection in self._connections:
            if connection.exchange is not None:
                writing += 1
            elif connection.rests:
                waiting += 1
        words = self._words
        words[ACTIVE] = len(self._connections)
        words[WRITING] = writing
        words[WAITING] = waiting
        words[READING] = len(self._connections) - writing - waiting

    def sums(self) -> list[int]:
        """The words of all workers together, this one's as they are now."""
        self.look()
        return self._table.sums()
