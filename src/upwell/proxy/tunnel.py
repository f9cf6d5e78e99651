"""A connection switched to another protocol (WebSocket and whatever else): bytes both ways until one side ends it.

Knows when the peer's 101 may be believed, and how bytes go from one transport to the other; nothing of what they say.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from upwell.errors import UpstreamError
from upwell.http1.head import ResponseHead
from upwell.log import ERROR, INFO
from upwell.proxy.answer import answer_through_filters
from upwell.proxy.intake import VIEW, Receiver
from upwell.proxy.stall import Stall
from upwell.proxy.suspension import suspend
from upwell.proxy.timers import Timed

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange
    from upwell.proxy.forward import ForwardSpec
    from upwell.proxy.upstream import UpstreamConnection

_DOING = "while proxying upgraded connection"


def _was_asked_for(exchange: Exchange, spec: ForwardSpec) -> bool:
    """Whether the client asked for another protocol and the peer was told so (proxy_set_header Upgrade).

    Else a 101 is a lie that would let the peer's next bytes pass for answers to other requests. HTTP/1.0 has no Upgrade
    (RFC 9110, 7.8); content that is still on its way would be taken for the new protocol's.
    """
    if spec.upgrade is None or exchange.version != 11 or exchange.capture is not None:
        return False
    if exchange.body is not None and not exchange.body.complete:
        return False
    if exchange.client.refused:
        return False  # an error page asks in the name of a client whose request could not be read
    if exchange.forced_status:
        return False  # an error page with a status of its own: the client would get an answer, not a tunnel
    return b"upgrade" in exchange.values and bool(spec.upgrade(exchange))


async def switch(exchange: Exchange, spec: ForwardSpec, connection: UpstreamConnection, head: ResponseHead) -> None:
    """Pass the peer's 101 on and tunnel until the end. Raises UpstreamError when nobody has asked for it."""
    if connection.sends_content or not _was_asked_for(exchange, spec):
        # What the configuration made of the client's request the peer is not to blame for.
        asked = spec.upgrade is not None and bool(spec.upgrade(exchange))
        outcome = "upgrade" if asked else "invalid_header"
        reason = "upstream sent unexpected interim response while reading response header from upstream"
        raise UpstreamError(outcome, reason, sent=True)
    exchange.status = 101
    exchange.answered = head.section
    exchange.keepalive = False
    exchange.abortable = True  # proxy_ignore_client_abort is for answers
    upgrade = head.section.values.get(b"upgrade")
    if upgrade is not None:
        exchange.out.append((b"Upgrade", upgrade))
    if not answer_through_filters(exchange, head, spec):
        return  # something else answers (X-Accel-Redirect)
    if exchange.status != 101:
        exchange.finish()  # a filter made an answer of it
        return
    tunnel = Tunnel(exchange, connection, spec)
    if tunnel.begin():
        try:
            await suspend()
        finally:
            tunnel.end()
    exchange.finish()


class Tunnel(Timed):
    """The two sides of a tunnel, and the time in which nothing came from either (proxy_read_timeout)."""

    __slots__ = ("_held", "client", "connection", "down", "exchange", "open", "timeout", "timers", "up")

    def __init__(self, exchange: Exchange, connection: UpstreamConnection, spec: ForwardSpec) -> None:
        super().__init__()
        limits = spec.limits
        client = exchange.client
        self.exchange = exchange
        self.client = client
        self.connection = connection
        self.timers = connection.pool.timers
        self.timeout = limits.read_timeout
        self._held = limits.head_size  # nginx has a buffer of proxy_buffer_size for each way
        self.open = True
        self.down: Side = FromClient(self, client.transport, connection.transport, exchange.location.send_timeout)
        self.up: Side = FromPeer(self, connection.transport, client.transport, limits.send_timeout)

    def __repr__(self) -> str:
        return f"<Tunnel {self.client.address} {self.connection.peer.name}>"

    def begin(self) -> bool:
        """Put the sides in place and pass on what each has sent already; false when the client has sent its end too."""
        client, connection = self.client, self.connection
        asked, answered = client.hand_over(), connection.hand_over()
        client.transport.set_protocol(self.down)
        connection.transport.set_protocol(self.up)
        client.hold(self._held)
        connection.transport.set_write_buffer_limits(high=self._held)
        self.timers.arm(self, self.timeout)
        if not client.writable:
            self.down.pause_writing()
        if answered:
            connection.received -= len(answered)  # counted when it came, and once more below
            self.up.data_received(answered)
        if asked:
            self.down.data_received(asked)
        if client.has_ended:
            self.end()
            return False
        return True

    def over(self) -> None:
        """One side has ended: so does the exchange, and with it the tunnel (nginx has no half-closed tunnels)."""
        if self.open:
            self.exchange.resume()

    def end(self) -> None:
        """Count what has passed and give the client's transport back; what waits to be written still is."""
        if not self.open:
            return
        self.open = False
        self.timers.drop(self)
        self.timers.drop(self.down)
        self.exchange.body_bytes_sent += self.up.passed
        self.connection.sent += self.down.passed
        self.connection.received += self.up.passed
        self.client.take_back(not self.down.stalled)
        self.up.see_out()

    def timed_out(self) -> None:
        if self.down.stalled:
            self.timers.arm(self, self.timeout)  # the peer is not read: send_timeout is for the client
            return
        # nginx logs it for the client's connection, whose level is info: an idle WebSocket is no error.
        self.exchange.log(INFO, f"upstream timed out (110: Connection timed out) {_DOING}")
        self.over()


class Side(Receiver):
    """Reads one transport, writes the other. `passed` counts the bytes; `stalled`: the one it reads takes no more."""

    __slots__ = (
        "_far",
        "_near",
        "_now",
        "_patience",
        "_stall",
        "_timeout",
        "_tunnel",
        "_write",
        "passed",
        "stalled",
    )

    def __init__(self, tunnel: Tunnel, near: asyncio.Transport, far: asyncio.Transport, patience: float) -> None:
        super().__init__()
        self._tunnel = tunnel
        self._near = near
        self._far = far
        self._write = far.write
        self._now = tunnel.client.loop.time
        self._timeout = tunnel.timeout
        self._patience = patience
        self._stall: Stall | None = None
        self.passed = 0
        self.stalled = False

    def data_received(self, data: bytes) -> None:
        # The whole cost of a message; the deadline is what Timers.arm would set, which only ever moves later here.
        self._write(data)
        self.passed += len(data)
        self._tunnel.deadline = self._now() + self._timeout

    def pause_writing(self) -> None:
        self.stalled = True
        if self._tunnel.open:
            self._far.pause_reading()
        self._watch()

    def resume_writing(self) -> None:
        self.stalled = False
        if self._tunnel.open:
            self._tunnel.timers.disarm(self)
            self._far.resume_reading()

    def timed_out(self) -> None:
        """Nothing of what waits here was taken for so long: give up. A slow reader is none that does not read."""
        if self._stall is not None:
            wait = self._stall.look(self._near.get_write_buffer_size(), self._now())
            if wait:
                self._tunnel.timers.arm(self, wait)
                return
        self.give_up()
        self._near.abort()

    def give_up(self) -> None:
        raise NotImplementedError

    def see_out(self) -> None:
        """The tunnel has ended: the transport is closed by its owner, but not kept for ever if it is not read."""
        if self._near.get_write_buffer_size():
            self._watch()
        else:
            self._tunnel.timers.disarm(self)

    def _watch(self) -> None:
        stall = self._stall = Stall(self._near.get_write_buffer_size(), self._now(), self._patience)
        self._tunnel.timers.arm(self, stall.first)


class FromClient(Side):
    """Reads the client; writes to the peer."""

    __slots__ = ()

    def eof_received(self) -> bool:
        self._tunnel.client.note_end()
        self._tunnel.over()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._tunnel.client.connection_lost(error)

    def give_up(self) -> None:
        self._tunnel.exchange.log(INFO, f"client timed out (110: Connection timed out) {_DOING}")


class FromPeer(Side):
    """Reads the peer, as an Intake does; writes to the client."""

    __slots__ = ()

    def get_buffer(self, sizehint: int) -> memoryview:
        return VIEW

    def buffer_updated(self, nbytes: int) -> None:
        # `data_received` once more: this is the whole cost of a message.
        self._write(VIEW[:nbytes].tobytes())
        self.passed += nbytes
        self._tunnel.deadline = self._now() + self._timeout

    def eof_received(self) -> bool:
        self._tunnel.over()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        tunnel = self._tunnel
        tunnel.timers.drop(self)
        number = getattr(error, "errno", None)
        if number and tunnel.open:
            tunnel.exchange.log(ERROR, f"recv() failed ({number}: {os.strerror(number)}) {_DOING}")
        tunnel.over()

    def give_up(self) -> None:
        if self._tunnel.open:
            self._tunnel.exchange.log(INFO, f"upstream timed out (110: Connection timed out) {_DOING}")
