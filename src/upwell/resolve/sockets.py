"""Queries on real sockets: one UDP socket for each that is sent, so that its port is the kernel's random choice and
only the server that was asked is heard; TCP where the answer is too large for that.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

from upwell.resolve.query import Query
from upwell.resolve.resolver import Resolver

_LARGEST = 65535
_AT_ONCE = 32
_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


class Poller(Protocol):
    """The loop. `watch` has `callback` called whenever the descriptor can be read, or (`writing`) written."""

    def watch(self, fd: int, callback: Callable[[], None], writing: bool) -> None: ...
    def forget(self, fd: int, writing: bool) -> None: ...


class Epoll:
    """A `Poller` turned by hand, or watched itself: its descriptor is readable when a turn has something to do."""

    __slots__ = ("_callbacks", "_epoll")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}

    def __repr__(self) -> str:
        return f"<Epoll {len(self._callbacks)}>"

    def fileno(self) -> int:
        return self._epoll.fileno()

    def watch(self, fd: int, callback: Callable[[], None], writing: bool) -> None:
        self._epoll.register(fd, select.EPOLLOUT if writing else select.EPOLLIN)
        self._callbacks[fd] = callback

    def forget(self, fd: int, writing: bool) -> None:
        del self._callbacks[fd]
        self._epoll.unregister(fd)

    def turn(self, max_wait: float = 0.0) -> None:
        """Wait until something is ready, at most `max_wait` seconds, and see to it."""
        for fd, _ in self._epoll.poll(max_wait, _AT_ONCE):
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback()

    def close(self) -> None:
        self._epoll.close()


class _Talk:
    """One socket of one query; `rest` is what is still to be written to a stream, `got` what came from it."""

    __slots__ = ("got", "rest", "sock", "writing")

    def __init__(self, sock: socket.socket, rest: bytes) -> None:
        self.sock = sock
        self.rest = rest
        self.got = b""
        self.writing = bool(rest)


class Sockets:
    """The `Wire` of one resolver, which is given it by `serve`. `after` is called when something has come, as the
    resolver may then have work."""

    __slots__ = ("_after", "_poller", "_resolver", "_talks")

    def __init__(self, poller: Poller, after: Callable[[], None] = lambda: None) -> None:
        self._poller = poller
        self._after = after
        self._talks: dict[Query, _Talk] = {}
        self._resolver: Resolver | None = None

    def __repr__(self) -> str:
        return f"<Sockets {len(self._talks)}>"

    def serve(self, resolver: Resolver) -> None:
        self._resolver = resolver

    def open(self, query: Query) -> bool:
        send = query.send
        assert send is not None
        family = socket.AF_INET6 if ":" in send.server[0] else socket.AF_INET
        try:
            sock = socket.socket(family, (socket.SOCK_STREAM if send.stream else socket.SOCK_DGRAM) | _FLAGS)
        except OSError:
            return False
        rest = len(send.content).to_bytes(2, "big") + send.content if send.stream else b""
        talk = _Talk(sock, rest)
        try:
            with suppress(BlockingIOError):
                sock.connect(send.server)
            if not send.stream:
                sock.send(send.content)
        except OSError:
            sock.close()
            return False
        self._talks[query] = talk
        if send.stream:
            self._poller.watch(sock.fileno(), partial(self._write, query), True)
        else:
            self._poller.watch(sock.fileno(), partial(self._datagram, query), False)
        return True

    def close(self, query: Query) -> None:
        talk = self._talks.pop(query, None)
        if talk is not None:
            self._poller.forget(talk.sock.fileno(), talk.writing)
            talk.sock.close()

    def _datagram(self, query: Query) -> None:
        assert self._resolver is not None
        talk = self._talks.get(query)
        if talk is None:
            return
        try:
            wire = talk.sock.recv(_LARGEST)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._resolver.broken(query)
        else:
            self._resolver.received(query, wire)
        self._after()

    def _write(self, query: Query) -> None:
        assert self._resolver is not None
        talk = self._talks.get(query)
        if talk is None:
            return
        try:
            sent = talk.sock.send(talk.rest)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # among them: the connection was refused
            self._resolver.broken(query)
            self._after()
            return
        talk.rest = talk.rest[sent:]
        if not talk.rest:
            fd = talk.sock.fileno()
            self._poller.forget(fd, True)
            talk.writing = False
            self._poller.watch(fd, partial(self._read, query), False)

    def _read(self, query: Query) -> None:
        assert self._resolver is not None
        talk = self._talks.get(query)
        if talk is None:
            return
        try:
            got = talk.sock.recv(_LARGEST)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            got = b""
        talk.got += got
        length = int.from_bytes(talk.got[:2], "big")
        if not got:
            self._resolver.broken(query)
        elif len(talk.got) >= 2 and len(talk.got) >= length + 2:
            self._resolver.received(query, talk.got[2 : length + 2])
            if query in self._talks:
                self._resolver.broken(query)  # one message was asked for, and it was none
        self._after()
