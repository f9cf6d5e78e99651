"""Clients' connections on an epoll of their own: what asyncio's transports do, for a third of their price.

Knows descriptors and bytes, and tells a `Receiver` what asyncio would tell a protocol, in the same order. Must not know
who accepts, nor what the bytes say. [Why](../../../docs/decisions/0013-own-transports.md).
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Callable
from typing import Any, Final

from upwell.proxy.intake import Receiver

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_FIRST_READ: Final = 16_384
MOST_READ: Final = 65_536
"""How much is read at once: little the first two times and whenever somebody has asked to pause, for he holds what
comes; more when more goes on to come.
"""
_MOST_EVENTS: Final = 16
"""Of one turn. Few, so that with many clients a request is answered, and what it needs used again, while a processor
still has it at hand: peers' answers come between two turns (docs/performance.md, "Beyond capacity").
"""
_MOST_PIECES: Final = 64  # of what waits to be sent, for one call (the kernel takes 1024)
_HIGH: Final = 65_536
_read: Final = os.read
_write: Final = os.write


class Watched:
    """What a `Poll` watches."""

    __slots__ = ()

    def ready(self, events: int) -> None:
        """Something can be done. `events` is a hint: the descriptor may be another one's by now."""
        raise NotImplementedError

    def finish(self) -> None:
        """Let go of the descriptor (see `Poll.end`)."""
        raise NotImplementedError


class Poll:
    """What is watched for one worker: one descriptor for the loop, whatever their number.

    One turn does one thing for each that is ready, so that an upload does not hold up the others.
    """

    __slots__ = ("_ended", "_epoll", "_loop", "_register", "_scheduled", "_watched")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._register: Callable[[int, int], None] = self._epoll.register
        self._watched: dict[int, Watched] = {}
        self._ended: list[Watched] = []
        self._scheduled = False
        loop.add_reader(self._epoll.fileno(), self._turn)

    def __repr__(self) -> str:
        return f"<Poll {len(self._watched)}>"

    def watch(self, fd: int, events: int, one: Watched) -> None:
        self._watched[fd] = one
        if events:
            self._register(fd, events)

    def change(self, fd: int, before: int, events: int) -> None:
        """Ask for `events` of `fd` instead of `before`; raises OSError when the kernel has no room for it."""
        # Out of the set rather than in it with no events: a hang-up is always told, again and again.
        if not before:
            if events:
                self._epoll.register(fd, events)
        elif events:
            self._epoll.modify(fd, events)
        else:
            self._epoll.unregister(fd)

    def forget(self, fd: int) -> None:
        """Tell nothing of `fd` any more; closing it takes it out of the set."""
        if fd in self._watched:
            del self._watched[fd]

    def take_over(self, fd: int, one: Watched) -> None:
        """Tell `one` of `fd` from now on, which is watched already."""
        self._watched[fd] = one

    def end(self, one: Watched) -> None:
        """Have `one` finish, but not under the feet of whoever closes it."""
        self._ended.append(one)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._see_out)

    def close(self) -> None:
        """Watch nothing any more. What has been closed is still told so."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._watched.clear()

    def _turn(self) -> None:
        watched = self._watched
        for fd, events in self._epoll.poll(0, _MOST_EVENTS):
            one = watched.get(fd)
            if one is not None:
                one.ready(events)

    def _see_out(self) -> None:
        self._scheduled = False
        ended, self._ended = self._ended, []
        for one in ended:
            one.finish()

    def report(self, transport: Transport, error: Exception) -> None:
        """Somebody who was told of an event raised."""
        message = "unexpected exception in a connection"
        self._loop.call_exception_handler({"message": message, "exception": error, "transport": transport})


class Nobody(Receiver):
    """Takes what is told after the end."""

    __slots__ = ()


_NOBODY: Final = Nobody()


class Transport(Watched):
    """One accepted connection, non-blocking; `peer` is the address that accept() gave. Begins with `begin`."""

    __slots__ = (
        "_at_end",
        "_closing",
        "_ended",
        "_eof",
        "_error",
        "_events",
        "_family",
        "_fd",
        "_high",
        "_low",
        "_more",
        "_most",
        "_paused",
        "_pieces",
        "_poll",
        "_reading",
        "_receiver",
        "_socket",
        "_unsent",
        "peer",
    )

    def __init__(self, poll: Poll, fd: int, family: int, peer: object, receiver: Receiver) -> None:
        self.peer = peer
        self._poll = poll
        self._fd = fd
        self._family = family
        self._receiver = receiver
        self._events = 0
        self._reading = True
        self._closing = False  # nothing is taken any more, neither to send nor what comes
        self._ended = False  # nothing is done any more
        self._at_end = False  # the other side has sent its FIN
        self._eof = False  # this side does, or will
        self._paused = False
        self._error: Exception | None = None
        self._pieces: list[bytes | memoryview] = []
        self._unsent = 0
        self._high = _HIGH
        self._low = _HIGH // 4
        self._most = _FIRST_READ
        self._more = False  # as much has come as was asked for
        self._socket: socket.socket | None = None

    def __repr__(self) -> str:
        return f"<Transport {self._fd} {self.peer}{' closing' if self._closing else ''}>"

    def begin(self) -> None:
        """Tell the receiver, then read."""
        self._poll.watch(self._fd, 0, self)
        try:
            self._receiver.connection_made(self)
        except Exception as error:
            self._fault(error)
        else:
            self._see_to_events()

    # What the socket says

    def ready(self, events: int) -> None:
        try:
            if self._unsent and events != _IN:
                self._send()
            if self._reading and events != _OUT:
                self._receive()
        except Exception as error:
            self._fault(error)

    def _receive(self) -> None:
        try:
            data = _read(self._fd, self._most)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        if data:
            if len(data) == self._most:
                if self._more:
                    self._most = MOST_READ
                self._more = True
            self._receiver.data_received(data)
        else:
            self._take_end()

    def _take_end(self) -> None:
        """The other side has sent all it will."""
        self._at_end = True
        self._reading = False
        keeps = self._receiver.eof_received()
        if keeps:
            self._see_to_events()
        else:
            self.close()

    def _send(self) -> None:
        try:
            sent = os.writev(self._fd, self._pieces[:_MOST_PIECES])
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        self._unsent -= sent
        pieces = self._pieces
        done = 0
        while sent and sent >= len(pieces[done]):
            sent -= len(pieces[done])
            done += 1
        del pieces[:done]
        if sent:
            pieces[0] = memoryview(pieces[0])[sent:]
        if self._paused and self._unsent <= self._low:
            self._paused = False
            self._receiver.resume_writing()
        if not self._unsent and not self._ended:
            if self._closing:
                self._end()
            else:
                if self._eof:
                    self._shut()
                self._see_to_events()

    def _see_to_events(self) -> None:
        """Have the set ask for what is wanted now."""
        if self._ended or (events := (_IN if self._reading else 0) | (_OUT if self._unsent else 0)) == self._events:
            return
        try:
            self._poll.change(self._fd, self._events, events)
        except OSError as error:
            self._fault(error)  # nothing would ever be told of it again
        else:
            self._events = events

    # Ends

    def _fault(self, error: Exception) -> None:
        self._poll.report(self, error)
        self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        self._error = error
        self._closing = True
        self._pieces.clear()
        self._unsent = 0
        self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._reading = False
            self._poll.forget(self._fd)
            self._poll.end(self)

    def finish(self) -> None:
        """Tell the receiver that it is over, and let go of everything."""
        receiver, self._receiver = self._receiver, _NOBODY
        error, self._error = self._error, None  # whose traceback knows this transport
        try:
            receiver.connection_lost(error)
        except Exception as raised:
            self._poll.report(self, raised)
        if self._socket is not None:
            self._socket.detach()
            self._socket = None
        fd, self._fd = self._fd, -1
        os.close(fd)

    def _shut(self) -> None:
        sock = self._as_socket()
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                return  # reset meanwhile, which reading will tell

    def _as_socket(self) -> socket.socket | None:
        if self._socket is None and self._fd >= 0:
            self._socket = socket.socket(self._family, socket.SOCK_STREAM, 0, self._fd)
        return self._socket

    # What the owner asks for

    def write(self, data: bytes) -> None:
        if self._eof:
            raise RuntimeError("write() after write_eof()")
        if self._closing or not data:
            return
        if self._unsent:
            self._keep(data)
            return
        try:
            sent = _write(self._fd, data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lose(error)
            return
        if sent != len(data):
            self._keep(memoryview(data)[sent:] if sent else data)

    def writelines(self, pieces: list[bytes]) -> None:
        """The same for a few pieces of which one is long, so that it is not copied."""
        if self._eof or self._closing or self._unsent:
            self.write(b"".join(pieces))
            return
        try:
            sent = os.writev(self._fd, pieces)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lose(error)
            return
        if sent != sum([len(piece) for piece in pieces]):
            self._keep(memoryview(b"".join(pieces))[sent:])

    def send_file(self, fd: int, at: int, size: int) -> int:
        """Send a piece of a file, past memory; how much went out, which is nothing where something waits already."""
        if self._unsent or self._closing:
            return 0
        try:
            return os.sendfile(self._fd, fd, at, size)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._lose(error)
            return 0

    def _keep(self, data: bytes | memoryview) -> None:
        self._pieces.append(data)
        self._unsent += len(data)
        self._see_to_events()
        self._check_high()

    def _check_high(self) -> None:
        if self._unsent > self._high and not self._paused:
            self._paused = True
            self._receiver.pause_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = _HIGH if high is None else high
        self._low = self._high // 4 if low is None else low
        self._check_high()

    def get_write_buffer_size(self) -> int:
        return self._unsent

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Send FIN behind what waits to be sent."""
        if not self._eof and not self._closing:
            self._eof = True
            if not self._unsent:
                self._shut()

    def pause_reading(self) -> None:
        self._reading = False
        self._most = _FIRST_READ
        self._more = False
        self._see_to_events()

    def resume_reading(self) -> None:
        if not self._closing and not self._at_end:
            self._reading = True
            self._see_to_events()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """Read no more, and end once everything is sent."""
        if not self._closing:
            self._closing = True
            self._reading = False
            if self._unsent:
                self._see_to_events()
            else:
                self._end()

    def abort(self) -> None:
        """End at once; what waits to be sent is dropped."""
        if not self._ended:
            self._lose(None)

    def set_protocol(self, receiver: Receiver) -> None:
        if not self._ended:
            self._receiver = receiver

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """ "peername", "sockname" (a system call, not for each connection) or "socket"; as asyncio's."""
        if name == "peername":
            return self.peer
        sock = self._as_socket()
        if sock is None:
            return default
        return sock.getsockname() if name == "sockname" else sock
