"""Accepts clients on one listening socket. Knows what accept() may say; not what a connection is for."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections.abc import Callable
from typing import Any, Final, cast

from upwell.errors import SHORTAGES
from upwell.log import ALERT, CRIT, ERROR, NOTICE, ErrorLog
from upwell.proxy.client import Endpoint
from upwell.proxy.introduction import Introduction
from upwell.proxy.session import Front
from upwell.proxy.tcp_session import accepted
from upwell.proxy.tls_transport import TlsTransport
from upwell.proxy.transport import Poll, Transport, Watched

_set_blocking: Final = os.set_blocking
_MOST_AT_ONCE: Final = 8  # of one turn: the others are for those that came before, and for other workers
_PAUSE: Final = 0.5  # nginx: accept_mutex_delay


class Listener(Watched):
    """Gives each client that comes by `sock` to `endpoint` (a Front: of `stream`), until it is closed, the socket with
    it.
    """

    __slots__ = (
        "_accept",
        "_endpoint",
        "_family",
        "_fd",
        "_front",
        "_log",
        "_loop",
        "_pausing",
        "_poll",
        "_short",
        "_sock",
    )

    def __init__(self, poll: Poll, sock: socket.socket, endpoint: Endpoint | Front, log: ErrorLog) -> None:
        self._poll = poll
        self._loop = endpoint.loop
        self._sock = sock
        self._accept: Callable[[], tuple[int, Any]] = cast(Any, sock)._accept  # accept() asks for the own address too
        self._endpoint: Endpoint | None = None if isinstance(endpoint, Front) else endpoint
        self._front: Front | None = endpoint if isinstance(endpoint, Front) else None
        self._log = log
        self._fd = sock.fileno()
        self._family = int(sock.family)
        self._pausing: asyncio.TimerHandle | None = None
        self._short = False  # said, and nobody was accepted since
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is accepted has it too
        poll.watch(self._fd, select.EPOLLIN, self)

    def __repr__(self) -> str:
        return f"<Listener {self._endpoint or self._front!r}{' pausing' if self._pausing else ''}>"

    def ready(self, events: int) -> None:
        for _ in range(_MOST_AT_ONCE):
            try:
                fd, peer = self._accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._failed(error)
                return
            if self._short:
                self._short = False
                self._log.write(NOTICE, "accept4() succeeds again")
            _set_blocking(fd, False)
            endpoint = self._endpoint
            if endpoint is not None:
                client = endpoint.connect()
                if endpoint.tls is None:
                    transport = Transport(self._poll, fd, self._family, peer, client)
                else:
                    transport = TlsTransport(self._poll, fd, self._family, peer, client, endpoint.tls)
                transport.begin()
                if endpoint.proxied:
                    Introduction(self._poll, fd, self._family, transport, client)
            elif self._front is not None:
                accepted(self._front, fd, peer)

    def _failed(self, error: OSError) -> None:
        short = error.errno in SHORTAGES
        level = CRIT if short else ERROR if error.errno == errno.ECONNABORTED else ALERT
        if not (short and self._short):
            self._log.write(level, f"accept4() failed ({error.errno}: {error.strerror})")
        if short:
            self._short = True
            # There is no use in trying again until somebody has gone.
            self._poll.change(self._fd, select.EPOLLIN, 0)
            self._pausing = self._loop.call_later(_PAUSE, self._go_on)

    def _go_on(self) -> None:
        try:
            self._poll.change(self._fd, 0, select.EPOLLIN)
        except OSError as error:
            self._log.write(CRIT, f"epoll_ctl() failed ({error.errno}: {error.strerror})")
            self._pausing = self._loop.call_later(_PAUSE, self._go_on)
        else:
            self._pausing = None

    def close(self) -> None:
        """Accept no more."""
        if self._fd >= 0:
            if self._pausing is not None:
                self._pausing.cancel()
                self._pausing = None
            else:
                self._poll.change(self._fd, select.EPOLLIN, 0)
            self._poll.forget(self._fd)
            self._fd = -1
            self._sock.close()
