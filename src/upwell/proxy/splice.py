"""Bytes from one connection to another, both ways, with little held between: the data path of `stream` over TCP.

Knows descriptors, TLS around them and pipes in the kernel; not who is connected with whom, nor why. A side is read only
while the far side takes what comes: what waits is one read at most, or what one pipe holds.
"""

from __future__ import annotations

import _socket
import asyncio
import contextlib
import fcntl
import os
import select
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

from upwell.proxy.leaving import Leaving, have_reset, unsent
from upwell.proxy.pace import TICK, Budget
from upwell.proxy.timers import Timed, Timers
from upwell.proxy.transport import MOST_READ, Poll, Watched

if TYPE_CHECKING:
    from upwell.proxy.tcp_session import TcpSession

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_ENDED: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_URGENT: Final = select.EPOLLPRI
_FIN: Final = select.EPOLLRDHUP
_OF_ENDS: Final = _ENDED | _URGENT
"""Where a FIN has come and nothing else, a short read is the last one; else an error may be behind it, or a byte at
which reads end. (A unix socket, whose reads end for more reasons, is never asked for EPOLLRDHUP.)
"""
EDGE: Final = _IN | _OUT | select.EPOLLRDHUP | _URGENT | select.EPOLLET
"""What the set is asked for of a connection that is being made. As long as all is read that it tells of, it need not be
asked for anything else; what is left unread or unwritten would not be told again, and then it is.
"""
_ROUNDS: Final = 4  # reads in one turn of the loop while each is full
_RECORDS: Final = 16  # of TLS in one turn
_RECORD: Final = 16_384
_LONG: Final = 4  # full reads in a row until a pipe is worth it
_PIPE_SIZE: Final = 1 << 20
_MOST_PIPES: Final = 32
_SET_PIPE_SIZE: Final = 1031  # F_SETPIPE_SZ, which fcntl has from Python 3.10 on but mypy does not know
_GENTLY: Final = 3  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK
_MORE: Final = int(socket.MSG_MORE)
_new_socket: Final = _socket.socket
_STREAM: Final = int(socket.SOCK_STREAM)
_read: Final = os.read
_write: Final = os.write
_splice: Final[Any] = os.splice
_close: Final = os.close
_shutdown: Final = _socket.socket.shutdown  # that of an SSLSocket would forget its TLS, and there is more to read


class Pipe:
    """A pipe in the kernel: bytes go through it without being copied. `held` is how many are in it."""

    __slots__ = ("held", "into", "out")

    def __init__(self, into: int, out: int) -> None:
        self.into = into
        self.out = out
        self.held = 0

    def close(self) -> None:
        os.close(self.into)
        os.close(self.out)


class Pipes:
    """The pipes of one worker: few, taken for one turn and given back empty."""

    __slots__ = ("_free", "_made")

    def __init__(self) -> None:
        self._free: list[Pipe] = []
        self._made = 0

    def __repr__(self) -> str:
        return f"<Pipes {len(self._free)}/{self._made} free>"

    def take(self) -> Pipe | None:
        """An empty pipe; None when there is none to be had."""
        if self._free:
            return self._free.pop()
        if self._made >= _MOST_PIPES:
            return None
        try:
            out, into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        with contextlib.suppress(OSError):  # the user has as much as he may: it is smaller
            fcntl.fcntl(into, _SET_PIPE_SIZE, _PIPE_SIZE)
        self._made += 1
        return Pipe(into, out)

    def give(self, pipe: Pipe) -> None:
        """Take `pipe` back; what is still in it is lost."""
        if pipe.held:
            self._made -= 1
            pipe.close()
        else:
            self._free.append(pipe)

    def close(self) -> None:
        for pipe in self._free:
            pipe.close()
        self._made -= len(self._free)
        self._free.clear()


class Step(Watched):
    """One descriptor that is waited for before its bytes are passed on: a handshake, a connection to be made."""

    __slots__ = ("_session", "fd")

    def __init__(self, session: TcpSession, fd: int) -> None:
        self._session = session
        self.fd = fd

    def ready(self, events: int) -> None:
        try:
            self._session.step(events)
        except Exception as error:  # else those that are told of in the same turn would not be, some of them ever
            self._session.fault(error)


class Pace(Timed):
    """How fast a side is read: `rate` bytes a second (nginx: proxy_upload_rate, proxy_download_rate)."""

    __slots__ = ("_budget", "_side", "_timers")

    def __init__(self, side: Side, rate: int) -> None:
        super().__init__()
        front = side.session.front
        self._side = side
        self._timers: Timers = front.timers
        self._budget = Budget(rate, front.now(), 0)

    def allows(self, now: float) -> int:
        """How many bytes may be read; where it is none, the side is held until it is some."""
        budget, side = self._budget, self._side
        left = budget.left(now, side.received)
        if left > 0:
            return left
        side.hold()
        self._timers.arm(self, max(TICK, budget.wait(left)))
        return 0

    def timed_out(self) -> None:
        side = self._side
        far = side.far
        if far is not None and not far.waits and not far.deaf:
            side.resume()

    def end(self) -> None:
        self._timers.drop(self)


class Side(Watched):
    """One end of a session: what is read here is written to `far`. `received` and `sent` count what went here.

    `at_end`: nothing more comes from here; `error` is why, if it was no end as it should be. `deaf`: nothing can be
    written here any more. `patient`: TCP_NODELAY is still to be set, which the first bytes do not need. `corked`: the
    last bytes are held back until the end is told behind them. `pace`: that at which it is read, if any.
    """

    __slots__ = (
        "_events",
        "_full",
        "_most",
        "_pending",
        "_pipe",
        "_poll",
        "_reading",
        "_reset",
        "_smallest",
        "at_end",
        "closed",
        "corked",
        "deaf",
        "error",
        "far",
        "fd",
        "pace",
        "patient",
        "received",
        "sent",
        "session",
        "shut",
        "sock",
        "splices",
    )

    def __init__(self, session: TcpSession, poll: Poll, fd: int, sock: _socket.socket | None, size: int) -> None:
        self.session = session
        self._poll = poll
        self.fd = fd
        self.sock = sock
        self.far: Side | None = None  # until they are put together, and after the end
        self.received = 0
        self.sent = 0
        self.at_end = False
        self.deaf = False
        self.shut = False
        self.closed = False
        self.error: OSError | None = None
        self.splices = False
        self.patient = False
        self.corked = False
        self.pace: Pace | None = None
        self._events = 0
        self._full = 0
        self._smallest = size
        self._most = size
        self._pending: memoryview | None = None  # of what came from the far side
        self._pipe: Pipe | None = None
        self._reading = False
        self._reset: OSError | None = None  # which writing was told

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.fd} {self.received}/{self.sent}>"

    @property
    def waits(self) -> bool:
        """Whether something that came from the far side is still to be written here."""
        return self._pending is not None or self._pipe is not None

    def begin(self, asked: int) -> None:
        """Read from now on; `asked` is what the set asks for already."""
        self._events = asked
        self._reading = True
        if asked:
            self._poll.take_over(self.fd, self)
            if asked != EDGE:
                self._see_to_events()
        else:
            self._events = _IN | (_OUT if self.waits else 0)
            self._poll.watch(self.fd, self._events, self)

    # What the descriptor says

    def ready(self, events: int) -> None:
        try:
            if events != _IN:
                if self._pending is not None or self._pipe is not None:
                    self.flush()
                if events & _URGENT:
                    self._see_to_events()  # a read ends before that byte, with more to come behind it
            if events != _OUT and self._reading:
                self.take(events)
        except Exception as error:
            self.session.fault(error)

    def take(self, events: int) -> None:
        """Read what has come, and write it to the far side."""
        if self._full >= _LONG and self.splices:
            self._take_by_pipe()
            return
        far = self.far
        assert far is not None
        session = self.session
        for _ in range(_ROUNDS):
            if self.pace is not None:
                left = self.pace.allows(session.front.now())
                if not left:
                    return
                self._most = min(left, self._smallest)
            try:
                data = _read(self.fd, self._most)
            except BlockingIOError:
                return
            except OSError as error:
                self.end(error)
                return
            size = len(data)
            if not size:
                self.end(None)
                return
            session.came(self)
            self.received += size
            last = size < self._most and events & _OF_ENDS == _FIN
            if not far.put(data, last):
                self.hold()
                return
            if last:
                self.end(None)
                return
            if size < self._most:
                self._full = 0
                if events & _ENDED:
                    continue
                return
            self._full += 1
            if self._full == 2 and self._most < MOST_READ:
                self._most = MOST_READ
                self._full = 0
        self._see_to_events()

    def _take_by_pipe(self) -> None:
        self._see_to_events()
        session = self.session
        pipe = session.pipes.take()
        if pipe is None:
            self._full = 0
            return
        try:
            size = int(_splice(self.fd, pipe.into, _PIPE_SIZE, flags=_GENTLY))
        except BlockingIOError:
            session.pipes.give(pipe)
            return
        except OSError as error:
            session.pipes.give(pipe)
            self.splices = False  # if it is because of that, reading says so
            del error
            return
        if not size:
            session.pipes.give(pipe)
            self.end(None)
            return
        pipe.held = size
        self.received += size
        session.touch()
        if size < self._smallest:
            self._full = 0
            self._most = self._smallest
        far = self.far
        assert far is not None
        if not far.drain(pipe):
            self.hold()

    def put(self, data: bytes, last: bool) -> bool:
        """Write `data`; False: it has to wait, or cannot be, and the far side is not to be read. With `last` nothing is
        behind it but the end, which goes into the same segment."""
        if self.deaf:
            return False
        if self.patient and self.sent:
            self._hurry()
        try:
            done = self.as_socket().send(data, _MORE) if last else _write(self.fd, data)
        except BlockingIOError:
            done = 0
        except OSError as error:
            self.unwritable(error)
            return False
        self.sent += done
        if done == len(data):
            self.corked = last
            return True
        self._pending = memoryview(data)[done:]
        if self.patient:
            self._hurry()
        self._see_to_events()
        return False

    def _hurry(self) -> None:
        self.patient = False
        try:
            self.as_socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            return  # reset meanwhile, which writing will tell

    def drain(self, pipe: Pipe) -> bool:
        """Write what is in `pipe`, and give it back; False: it has to wait, as for `put`."""
        if self.deaf:
            self.session.pipes.give(pipe)
            return False
        if self.patient:
            self._hurry()
        try:
            while pipe.held:
                done = int(_splice(pipe.out, self.fd, pipe.held, flags=_GENTLY))
                pipe.held -= done
                self.sent += done
        except BlockingIOError:
            self._pipe = pipe
            self._see_to_events()
            return False
        except OSError as error:
            self.session.pipes.give(pipe)
            self.unwritable(error)
            return False
        self.session.pipes.give(pipe)
        return True

    def flush(self) -> None:
        """Write what waits; once it is all gone, the far side is read again."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            if not self.drain(pipe):
                return
        else:
            pending = self._pending
            if pending is None:
                return
            try:
                done = self.write(pending)
            except OSError as error:
                self.unwritable(error)
                return
            self.sent += done
            if done:
                self.session.touch()
            if done < len(pending):
                self._pending = pending[done:]
                return
            self._pending = None
        self._see_to_events()
        self.session.touch()
        far = self.far
        assert far is not None
        if far.at_end:
            self.session.ended(far)
        else:
            far.resume()

    def write(self, data: memoryview) -> int:
        """How much of `data` was taken. Raises OSError."""
        try:
            return _write(self.fd, data)
        except BlockingIOError:
            return 0

    # Reading and not

    def hold(self) -> None:
        self._reading = False
        self._see_to_events()

    def resume(self) -> None:
        if not self.at_end and not self.closed:
            self._reading = True
            self._see_to_events()

    def _see_to_events(self) -> None:
        """Have the set ask for what is wanted now."""
        events = (_IN if self._reading else 0) | (_OUT if self.waits else 0)
        if events == self._events or self.closed or not self.session.passing:
            return
        self._poll.change(self.fd, self._events, events)
        self._events = events

    # Ends

    def end(self, error: OSError | None) -> None:
        """Nothing more comes from here."""
        self.at_end = True
        self.error = self._reset if error is None else error
        self._reading = False
        self.session.ended(self)
        if not self.closed:
            self._see_to_events()

    def unwritable(self, error: OSError) -> None:
        """Nothing can be sent here any more; what the other end has sent before is still to be read."""
        self.deaf = True
        if isinstance(error, ConnectionResetError):
            self._reset = error  # the kernel says so once: reading will find an end (behind a FIN it were EPIPE)
        self.discard()
        far = self.far
        if far is not None:
            far.hold()
        self.session.deaf(self, error)

    def discard(self) -> None:
        """What waits is lost."""
        self._pending = None
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            self.session.pipes.give(pipe)

    def end_writing(self) -> None:
        """The far side has ended, and all that it said is written."""
        self._send_fin()

    def _send_fin(self) -> None:
        if not self.shut and not self.deaf:
            self.shut = True
            try:
                _shutdown(self.as_socket(), socket.SHUT_WR)
            except OSError:
                return  # reset meanwhile, which reading will tell

    def as_socket(self) -> _socket.socket:
        sock = self.sock
        if sock is None:
            sock = self.sock = _new_socket(self.session.front.family, _STREAM, 0, self.fd)
        return sock

    def part(self, reset: bool) -> None:
        """The session is over. What the kernel has not sent yet still is; with `reset` a RST is behind it."""
        if self.closed:
            return
        self.closed = True
        self.far = None  # else they would know each other for ever
        pace, self.pace = self.pace, None
        if pace is not None:
            pace.end()
        self._reading = False
        lost = self._pending is not None or self._pipe is not None
        if lost:
            self.discard()
        self._poll.forget(self.fd)
        if not self.deaf and self.error is None:
            if not reset and not lost:
                self.farewell()
            # Once the other end has said its last, nothing can come for which close() would drop what is unsent.
            if (reset or not self.at_end) and (self.corked or unsent(self.fd)):
                # close() would drop it, if anything came from the other end meanwhile
                if not reset:
                    self._send_fin()
                if self._heard():
                    Leaving(self.session.front, self.fd, self.as_socket() if reset else self.sock, reset)
                    return
        if reset:
            have_reset(self.as_socket())
        self._poll.end(self)

    def _heard(self) -> bool:
        """Have the set tell of what comes, whatever it was asked for; False: the kernel has no room for that."""
        if self._events != _IN:
            try:
                self._poll.change(self.fd, self._events, _IN)
            except OSError:
                return False
        return True

    def farewell(self) -> None:
        """What a protocol around the bytes says last: that they are all there."""

    def finish(self) -> None:
        if self.sock is None:
            _close(self.fd)
        else:
            self.sock.close()


class TlsSide(Side):
    """A side whose bytes are in TLS."""

    __slots__ = ("_again", "_loop", "_tls", "_told")

    def __init__(self, session: TcpSession, poll: Poll, tls: ssl.SSLSocket, size: int) -> None:
        super().__init__(session, poll, tls.fileno(), tls, size)
        self._tls = tls
        self._loop: asyncio.AbstractEventLoop = session.front.loop
        self._again = False
        self._told = False

    def begin(self, asked: int) -> None:
        super().begin(asked)
        self._ask_again()  # what came with the handshake's last record is nowhere but in the TLS layer

    def take(self, events: int) -> None:
        far = self.far
        assert far is not None
        most = _RECORD
        for _ in range(_RECORDS):
            if self.pace is not None:
                most = min(self.pace.allows(self.session.front.now()), _RECORD)
                if not most:
                    return
            try:
                data = self._tls.read(most)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except ssl.SSLZeroReturnError:  # an end as it should be, behind our own
                data = b""
            except OSError as error:
                self.end(error)
                return
            if not data:
                self.end(None)
                return
            self.session.came(self)
            self.received += len(data)
            if not far.put(data, False):
                self.hold()
                return
        self._ask_again()

    def _ask_again(self) -> None:
        """There may be more in the TLS layer, of which the descriptor says nothing."""
        if not self._again:
            self._again = True
            self._loop.call_soon(self._take_again)

    def _take_again(self) -> None:
        self._again = False
        if self._reading:
            self.ready(_IN)

    def resume(self) -> None:
        super().resume()
        self._ask_again()

    def put(self, data: bytes, last: bool) -> bool:
        if self.deaf:
            return False
        view = memoryview(data)
        try:
            done = self.write(view)
        except OSError as error:
            self.unwritable(error)
            return False
        self.sent += done
        if done == len(data):
            return True
        self._pending = view[done:]
        self._see_to_events()
        return False

    def write(self, data: memoryview) -> int:
        try:
            return self._tls.write(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0  # OpenSSL is asked to write the same once more

    def end_writing(self) -> None:
        if not self.shut and not self.deaf:
            if self.at_end:
                self.farewell()
            else:
                self._tell_and_read_on()
        super().end_writing()

    def farewell(self) -> None:
        if not self._told:
            self._told = True
            self._tls.settimeout(0.0)
            try:
                self._tls.unwrap()
            except (OSError, ValueError):
                return  # the other end has not said the same yet, or never will

    def _tell_and_read_on(self) -> None:
        """Say in TLS that nothing more is written here.

        Behind its farewell OpenSSL awaits the other's at once, and where data come instead it reads no more. So
        it says it into another socket, from which nothing can come.
        """
        try:
            here, there = socket.socketpair()
        except OSError:
            return
        with here, there:
            here.setblocking(False)
            there.setblocking(False)
            try:
                own = os.dup(self.fd)
            except OSError:
                return
            os.dup2(here.fileno(), self.fd, False)
            try:
                self.farewell()
            finally:
                os.dup2(own, self.fd, False)
                os.close(own)  # epoll knows the connection by its number as before
            with contextlib.suppress(OSError):
                _write(self.fd, there.recv(_RECORD))
