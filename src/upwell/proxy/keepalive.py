"""Idle connections to the peers of one upstream, kept for the next request (nginx: `keepalive` in `upstream`)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from upwell.http1.fields import FieldReader
from upwell.proxy.timers import Timers
from upwell.proxy.upstream import UpstreamConnection

if TYPE_CHECKING:
    from upwell.peers.upstream import Peer

_SURELY_TAKEN: Final = 4096
"""How large a request may be without anybody asking whether the system has taken it. Of a larger one some may wait in
the transport when a peer answers early, and the next request would stand behind it.
"""
_DISTRUST: Final = 10.0
"""Seconds without a kept connection for what must not be sent twice, after the peer closed one that had a request on
it: as long as nginx, which counts that as a failure, keeps away from the peer.
"""


class Keepalive:
    """At most `most` idle connections; the one that has rested longest goes first. Times in seconds.

    It also holds what all connections of the upstream share: loop, timers, the reader of response fields.
    """

    __slots__ = (
        "_all",
        "_distrusted",
        "_idle",
        "loop",
        "max_requests",
        "max_time",
        "most",
        "reader",
        "timeout",
        "timers",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timers: Timers,
        most: int = 32,
        max_requests: int = 1000,
        max_time: float = 3600.0,
        timeout: float = 60.0,
    ) -> None:
        self.loop = loop
        self.timers = timers
        self.most = most if timeout > 0 else 0  # nginx closes what may not rest at once
        self.max_requests = max_requests
        self.max_time = max_time
        self.timeout = timeout
        self.reader = FieldReader(ignore_invalid=False, max_line=1 << 20, request=False, max_fields=1 << 20)
        self._idle: dict[Peer, list[UpstreamConnection]] = {}
        self._all: dict[UpstreamConnection, None] = {}
        self._distrusted: dict[Peer, float] = {}

    def __repr__(self) -> str:
        return f"<Keepalive {len(self._all)}/{self.most}>"

    def take(self, peer: Peer, careful: bool = False) -> UpstreamConnection | None:
        """The idle connection to `peer` that was used last, or None.

        `careful` is for a request that must not be sent twice: it asks the system whether the peer has closed it
        already, which the loop may not have told yet, and takes none of a peer that is distrusted.
        """
        if careful and self._distrusted.get(peer, 0.0) > self.loop.time():
            return None
        idle = self._idle.get(peer)
        while idle:
            connection = idle[-1]
            if careful and connection.is_over():
                connection.close()
                continue
            idle.pop()
            del self._all[connection]
            return connection
        return None

    def distrust(self, peer: Peer) -> None:
        """The peer closed a kept connection at the moment of reuse, and may do so with the next one."""
        self._distrusted[peer] = self.loop.time() + _DISTRUST

    def give(self, connection: UpstreamConnection) -> None:
        """Take a connection back after its exchange: kept if it is clean and young enough, else closed."""
        if (
            not connection.reusable
            or self.most <= 0
            or connection.peer.gone
            or connection.requests >= self.max_requests
            or self.loop.time() - connection.opened >= self.max_time
            or (connection.sent > _SURELY_TAKEN and connection.transport.get_write_buffer_size())
        ):
            connection.close()
            return
        connection.rest_idle()
        if len(self._all) >= self.most:
            next(iter(self._all)).close()
        self._idle.setdefault(connection.peer, []).append(connection)
        self._all[connection] = None
        self.timers.arm(connection, self.timeout)

    def forget(self, connection: UpstreamConnection) -> None:
        """An idle connection has ended."""
        if connection in self._all:
            del self._all[connection]
            self._idle[connection.peer].remove(connection)

    def drop(self, peer: Peer) -> None:
        """The peer left the upstream."""
        for connection in list(self._idle.get(peer, ())):
            connection.close()
        self._idle.pop(peer, None)
        self._distrusted.pop(peer, None)

    def close(self) -> None:
        self.most = 0  # what is in use now does not come back
        for connection in list(self._all):
            connection.close()
