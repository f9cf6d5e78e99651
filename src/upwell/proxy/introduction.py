"""What a connection begins with where a proxy is to say whom it speaks for: the header of the PROXY protocol.

It is taken before the connection's transport reads, so that neither HTTP nor TLS knows of it.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from upwell.errors import MessageError
from upwell.log import ERROR, INFO
from upwell.proxy.proxy_protocol import MOST, parse
from upwell.proxy.transport import Poll, Transport, Watched

if TYPE_CHECKING:
    from upwell.proxy.client import ClientConnection


class Introduction(Watched):
    """Reads the header of one connection, whose `transport` has begun, and then leaves the connection to it."""

    __slots__ = ("_client", "_family", "_fd", "_poll", "_transport")

    def __init__(self, poll: Poll, fd: int, family: int, transport: Transport, client: ClientConnection) -> None:
        self._poll = poll
        self._fd = fd
        self._family = family
        self._transport = transport
        self._client = client
        if not transport.is_closing():  # for there was no room for it
            poll.take_over(fd, self)

    def ready(self, events: int) -> None:
        """The first bytes are there (nginx reads the header in one piece, too)."""
        size = 0
        try:
            sock = socket.socket(self._family, socket.SOCK_STREAM, 0, self._fd)
            try:
                data = sock.recv(MOST, socket.MSG_PEEK)
                size = len(data)  # else what was not read would make a reset of the end
                if data:
                    size, self._client.introduced = parse(data)
            finally:
                if size:
                    sock.recv(size)
                sock.detach()
        except BlockingIOError:
            return
        except OSError as failure:
            self._end(INFO, f"recv() failed ({failure.errno}: {failure.strerror})")
        except MessageError as bad:
            self._end(ERROR, bad.reason)
        else:
            if data:
                self._poll.take_over(self._fd, self._transport)
            else:
                self._end(INFO, "client closed connection")

    def _end(self, level: int, why: str) -> None:
        client = self._client
        log = client.endpoint.log
        if log.level >= level:
            where = client.local_address if client.endpoint.is_unix else f"{client.local_address}:{client.local_port}"
            what = f"{why} while reading PROXY protocol, client: {client.address}, server: {where}"
            log.write(level, what, client.number)
        self._transport.abort()
