"""Connections of `stream` whose sessions are over, and to which the kernel is still sending.

close() would drop what is unsent if anything came from the other end meanwhile, so they are read, and closed once
everything has arrived. Knows descriptors and what the kernel says of them; not what the session was.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import socket
import struct
import termios
from array import array
from typing import TYPE_CHECKING, Any, Final

from upwell.proxy.timers import Alarm
from upwell.proxy.transport import MOST_READ, Watched

if TYPE_CHECKING:
    from upwell.proxy.session import Front

_LOOK: Final = 0.5  # seconds between two looks at what waits in the kernel
_LOOKS: Final = 60
_FIRST_READ: Final = 256  # most often what comes is the end
_NO_LINGER: Final = struct.pack("ii", 1, 0)
_TIOCOUTQ: Final = termios.TIOCOUTQ
_queued: Final = array("i", [0])  # where an ioctl puts its answer
_read: Final = os.read
_close: Final = os.close
_ioctl: Final[Any] = fcntl.ioctl


class Departures:
    """All of one worker, `ones` in the order in which their sessions ended; one alarm is enough for them."""

    __slots__ = ("_alarm", "_armed", "ones")

    def __init__(self) -> None:
        self.ones: dict[int, Leaving] = {}
        """By descriptor."""
        self._alarm = Alarm(self._look)
        self._armed = False

    def __repr__(self) -> str:
        return f"<Departures {len(self.ones)}>"

    def add(self, one: Leaving) -> None:
        self.ones[one.fd] = one
        if not self._armed:
            self._arm(one)

    def _arm(self, one: Leaving) -> None:
        self._armed = True
        one.front.timers.arm(self._alarm, _LOOK)

    def _look(self) -> None:
        self._armed = False
        for one in list(self.ones.values()):
            one.look()
        if self.ones:
            self._arm(next(iter(self.ones.values())))

    def end(self) -> None:
        """Wait for none of them any more."""
        for one in list(self.ones.values()):
            one.end()


class Leaving(Watched):
    """One connection, `fd`, of which epoll tells what comes. With `reset` a RST is behind what was sent."""

    __slots__ = ("_looks", "_over", "_reset", "_sock", "fd", "front")

    def __init__(self, front: Front, fd: int, sock: _socket.socket | None, reset: bool) -> None:
        self.front = front
        self.fd = fd
        self._sock = sock
        self._reset = reset
        self._looks = 0
        self._over = False
        front.leaving.add(self)
        front.poll.take_over(fd, self)

    def __repr__(self) -> str:
        return f"<Leaving {self.fd}>"

    def ready(self, events: int) -> None:
        most = _FIRST_READ
        try:
            while _read(self.fd, most) and unsent(self.fd):
                most = MOST_READ
        except BlockingIOError:
            return
        except OSError:
            self.end()
            return
        self.end()

    def look(self) -> None:
        """Go on waiting, unless everything has arrived or it takes too long."""
        self._looks += 1
        if self._looks == _LOOKS or not unsent(self.fd):
            self.end()

    def end(self) -> None:
        if self._over:
            return
        self._over = True
        front = self.front
        del front.leaving.ones[self.fd]
        front.poll.forget(self.fd)
        if self._reset and self._sock is not None:
            have_reset(self._sock)
        front.poll.end(self)
        if front.on_close is not None:
            front.on_close()

    def finish(self) -> None:
        if self._sock is None:
            _close(self.fd)
        else:
            self._sock.close()


def unsent(fd: int) -> int:
    """Bytes that the kernel holds for the other end, which has not confirmed them (SIOCOUTQ)."""
    try:
        _ioctl(fd, _TIOCOUTQ, _queued)  # with bytes it raises and drops a TypeError first
    except OSError:
        return 0
    return _queued[0]


def have_reset(sock: _socket.socket) -> None:
    """Let closing `sock` send a RST."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    except OSError:
        return  # of a unix socket, which has no RST
