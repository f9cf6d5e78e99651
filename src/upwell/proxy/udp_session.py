"""Sessions of datagrams: a client's first one chooses a peer, those that follow go there, the peer's answers come back.

Knows sockets and when a session is over; nothing is kept of any datagram. A datagram that cannot be sent at once is
lost, as datagrams are.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

from upwell.log import ALERT, ERROR, INFO, ErrorLog
from upwell.proxy.intake import VIEW
from upwell.proxy.pace import Budget
from upwell.proxy.proxy_protocol import header
from upwell.proxy.session import BAD_GATEWAY, FORBIDDEN, INTERNAL, OK, WAITING, Front, Session
from upwell.proxy.timers import Alarm
from upwell.proxy.transport import Poll, Watched

_IN: Final = select.EPOLLIN
_ALONE: Final = select.EPOLLIN | select.EPOLLEXCLUSIVE  # one worker is woken for a datagram, not all
_MOST_AT_ONCE: Final = 64  # of one turn
_MOST_HELD: Final = 16  # of one session
_IP_PKTINFO: Final = 8  # which socket has from Python 3.14 on only
_IPV4_INFO: Final = struct.Struct("=I4s4s")
_IPV6_INFO: Final = struct.Struct("=16sI")
_ANY: Final = ("0.0.0.0", "::")
_TIMED_OUT: Final = f"timed out ({errno.ETIMEDOUT}: {os.strerror(errno.ETIMEDOUT)})"

Where = tuple[Any, str]
"""Whose datagrams: the client's address as the kernel gives it, and that which they came to ("": the socket's)."""


class UdpListener(Watched):
    """The datagrams of one socket. Closed, it takes no new ones; the answers of open sessions still go through it."""

    __slots__ = ("_closed", "_fd", "_front", "_level", "_log", "_poll", "_sessions", "_sock", "_wild")

    def __init__(self, poll: Poll, sock: socket.socket, front: Front, log: ErrorLog) -> None:
        self._poll = poll
        self._sock = sock
        self._fd = sock.fileno()
        self._front = front
        self._log = log
        self._closed = False
        self._sessions: dict[Where, UdpSession] = {}
        self._wild = sock.getsockname()[0] in _ANY
        self._level = socket.IPPROTO_IPV6 if sock.family == socket.AF_INET6 else socket.IPPROTO_IP
        sock.setblocking(False)
        if self._wild:  # answers have to come from where the client has asked
            option = socket.IPV6_RECVPKTINFO if sock.family == socket.AF_INET6 else _IP_PKTINFO
            sock.setsockopt(self._level, option, 1)
        poll.watch(self._fd, _ALONE, self)

    def __repr__(self) -> str:
        return f"<UdpListener {self._front!r} {len(self._sessions)}>"

    def ready(self, events: int) -> None:
        for _ in range(_MOST_AT_ONCE):
            local = ""
            try:
                if self._wild:
                    size, said, _, client = self._sock.recvmsg_into([VIEW], 64)
                    local = self._local_of(said)
                else:
                    size, client = self._sock.recvfrom_into(VIEW)
            except BlockingIOError:
                return
            except OSError as error:
                self._log.write(ALERT, f"recvmsg() failed ({error.errno}: {error.strerror})")
                return
            self._take(client, local, VIEW[:size])

    def _local_of(self, said: list[tuple[int, int, bytes]]) -> str:
        for level, kind, data in said:
            if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
                return socket.inet_ntop(socket.AF_INET, data[8:12])
            if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                return socket.inet_ntop(socket.AF_INET6, data[:16])
        return ""

    def _take(self, client: Any, local: str, data: memoryview) -> None:
        where = (client, local)
        session = self._sessions.get(where)
        try:
            if session is None:
                session = self._new(where)
                if session is None:
                    return
            session.asked(data)
        except Exception as error:
            if session is not None:
                session.fault(error)

    def _new(self, where: Where) -> UdpSession | None:
        ip = where[1]
        front = self._front
        local = front.local
        if ip:
            local = (ip, int(front.text.rpartition(":")[2]))
            front = front.specific.get(local, front)
        if not front.has_room():
            return None
        session = UdpSession(self, front, where, local)
        self._sessions[where] = session
        try:
            session.begin()
        except Exception as error:
            session.fault(error)
        return None if session.over else session

    def answer(self, where: Where, data: memoryview | bytes) -> int:
        """Send to a client; how many bytes were sent. Raises OSError."""
        client, ip = where
        if not ip:
            return self._sock.sendto(data, client)
        if self._sock.family == socket.AF_INET6:
            info = _IPV6_INFO.pack(socket.inet_pton(socket.AF_INET6, ip), 0)
            said = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)]
        else:
            info = _IPV4_INFO.pack(0, socket.inet_aton(ip), bytes(4))
            said = [(socket.IPPROTO_IP, _IP_PKTINFO, info)]
        return self._sock.sendmsg([data], said, 0, client)

    def forget(self, session: UdpSession) -> None:
        """The client's next datagram begins a new session."""
        if self._sessions.get(session.where) is session:
            del self._sessions[session.where]

    def close(self) -> None:
        """Take no more."""
        if not self._closed:
            self._closed = True
            self._poll.change(self._fd, _ALONE, 0)
            self._poll.forget(self._fd)

    def let_go(self) -> None:
        """No session answers any more."""
        self._sock.close()


class _Answers(Watched):
    """Watches the socket to the peer."""

    __slots__ = ("_session",)

    def __init__(self, session: UdpSession) -> None:
        self._session = session

    def ready(self, events: int) -> None:
        try:
            self._session.answered()
        except Exception as error:
            self._session.fault(error)


class UdpSession(Session):
    """`requests` and `responses` count the datagrams from the client and from the peer."""

    __slots__ = (
        "_alarm",
        "_download",
        "_from_client",
        "_from_peer",
        "_held",
        "_known",
        "_listener",
        "_sock",
        "_timeout",
        "_to_client",
        "_to_peer",
        "_upload",
        "requests",
        "responses",
        "where",
    )

    def __init__(self, listener: UdpListener, front: Front, where: Where, local: tuple[str, int] | None) -> None:
        client = where[0]
        super().__init__(front, "UDP", str(client[0]), int(client[1]), local)
        self._listener = listener
        self.where = where
        self._timeout: float = front.spec.timeout or 1e9
        self._sock: socket.socket | None = None
        self._known = True  # the listener gives it the client's datagrams
        self._upload: Budget | None = None
        self._download: Budget | None = None
        self._alarm: Alarm | None = None  # while no more may be read of the peer
        self._held: list[bytes] | None = None  # while it is not known where they go
        self.requests = 0
        self.responses = 0
        self._from_client = 0
        self._to_client = 0
        self._from_peer = 0
        self._to_peer = 0

    def __repr__(self) -> str:
        return f"<UdpSession *{self.number} {self.address}>"

    def begin(self) -> None:
        """A client's first datagram has come."""
        front, spec = self.front, self.spec
        front.sessions.add(self)
        if spec.error_log.level >= INFO:
            self.note(INFO, f"udp client {self.address}:{self.port} connected to {front.text}")
        if spec.allowed is not None and not spec.allowed(self.address):
            self.error("access forbidden by rule")
            self.finish(FORBIDDEN, False)
        elif spec.stages is not None:
            spec.stages.begin(self)
            self._held = []
            status = spec.stages.end(self, self._aimed)
            if status != WAITING:
                self._aimed(status)
        elif spec.returns is None:
            self._connect()

    def _aimed(self, status: int) -> None:
        """What the session is told now is known, and what came in the meantime goes on."""
        if self.over:
            return
        held, self._held = self._held, None
        if status:
            self.finish(status, False)
            return
        if self.spec.returns is None:
            self._connect()
        for data in held or ():
            if not self.over:
                self.asked(memoryview(data))

    def _connect(self) -> None:
        spec = self.spec
        while True:
            peer = self.choose()
            if peer is None:
                self.finish(BAD_GATEWAY, False)
                return
            address = peer.address
            try:
                sock = _socket_to(address)
            except OSError as error:
                self.tell(ALERT, f"socket() failed ({error.errno}: {error.strerror})")
                self.finish(INTERNAL, False)
                return
            try:
                near = None if spec.near is None else spec.near(self)
                if near is not None:
                    sock.bind(near)
                sock.connect(address)
            except OSError as error:
                self.error(f"connect() failed ({error.errno}: {error.strerror})")
                sock.close()
                self.release(True)
                if self.may_try_again():
                    continue
                self.finish(BAD_GATEWAY, False)
                return
            self._sock = sock
            break
        self.action = "proxying connection"
        now = self.front.loop.time()
        self.attempts[-1].connected = now
        if spec.error_log.level >= INFO:
            self.note(INFO, f"udp proxy {_shown(sock.getsockname())} connected to {self.attempts[-1].peer}")
        self._upload = self._budget(spec.upload_rate, now)
        self._download = self._budget(spec.download_rate, now)
        self.front.timers.arm(self, self._timeout)
        self.front.poll.watch(sock.fileno(), _IN, _Answers(self))

    def _budget(self, rate: Callable[[Session], int] | None, now: float) -> Budget | None:
        found = 0 if rate is None else rate(self)
        return Budget(found, now, 0) if found else None

    def asked(self, data: memoryview) -> None:
        """A datagram of the client's; `data` is only there for the time of this call."""
        if self._held is not None:
            if len(self._held) < _MOST_HELD:
                self._held.append(bytes(data))
            return
        now = self.front.loop.time()
        if self._upload is not None and self._upload.left(now, self._from_client) <= 0:
            return  # lost on the way, as in nginx: there is no holding back who sends datagrams
        self.requests += 1
        self._from_client += len(data)
        sock = self._sock
        if sock is None:
            self._return()
            return
        self.deadline = now + self._timeout
        if self.spec.proxy_protocol and self.requests == 1:
            data = memoryview(header(self) + bytes(data))
        try:
            self._to_peer += sock.send(data)
        except BlockingIOError:
            pass  # lost on the way
        except OSError as error:
            self._broken("send", "sending to", error)
            return
        if self.requests == self.spec.requests:
            self._known = False
            self._listener.forget(self)
        self._see_whether_done()

    def _return(self) -> None:
        returns = self.spec.returns
        if returns is not None:
            try:
                self._to_client += self._listener.answer(self.where, returns(self))
            except OSError as error:
                self.tell(INFO, f"sendmsg() failed ({error.errno}: {error.strerror})")
        self.finish(OK, False)

    def answered(self) -> None:
        """Pass on what the peer has sent."""
        for _ in range(_MOST_AT_ONCE):
            sock = self._sock
            if sock is None or (self._download is not None and not self._allows(self._download, sock)):
                return
            try:
                size = sock.recv_into(VIEW)
            except BlockingIOError:
                return
            except OSError as error:
                self._broken("recv", "reading from", error)
                return
            now = self.front.loop.time()
            if not self.responses:
                self.attempts[-1].first_byte = now
            self.responses += 1
            self._from_peer += size
            self.deadline = now + self._timeout
            self._pass_back(VIEW[:size])
            self._see_whether_done()

    def _allows(self, budget: Budget, sock: socket.socket) -> bool:
        """Whether more may be read of the peer; if not, it is once it may."""
        front = self.front
        left = budget.left(front.loop.time(), self._from_peer)
        if left > 0:
            return True
        front.poll.change(sock.fileno(), _IN, 0)
        self._alarm = Alarm(self._answer_on)
        front.timers.arm(self._alarm, budget.wait(left))
        return False

    def _answer_on(self) -> None:
        self._alarm = None
        if self._sock is not None:
            self.front.poll.change(self._sock.fileno(), 0, _IN)

    def _pass_back(self, data: memoryview) -> None:
        try:
            self._to_client += self._listener.answer(self.where, data)
        except BlockingIOError:
            return  # lost on the way
        except OSError as error:
            action, self.action = self.action, "proxying and sending to client"
            self.tell(INFO, f"sendmsg() failed ({error.errno}: {error.strerror})")
            self.action = action

    def _broken(self, call: str, doing: str, error: OSError) -> None:
        """Nobody is there: the next datagram may go to another peer."""
        self.action = f"proxying and {doing} upstream"
        self.tell(ERROR, f"{call}() failed ({error.errno}: {error.strerror})")
        self._done("done", "", True)

    def _see_whether_done(self) -> None:
        spec = self.spec
        if spec.requests and self.requests < spec.requests:
            return
        if spec.responses is not None and self.responses >= spec.responses * self.requests:
            self._done("done", "", False)

    def _done(self, how: str, why: str, failed: bool) -> None:
        if self.spec.error_log.level >= INFO:
            self.note(
                INFO,
                f"udp {how}{why}, packets from/to client:{self.requests}/{self.responses}, "
                f"bytes from/to client:{self._from_client}/{self._to_client}, "
                f"bytes from/to upstream:{self._from_peer}/{self._to_peer}",
            )
        self.finish(OK, failed)

    def timed_out(self) -> None:
        wanted = self.spec.responses
        if wanted is None or self.responses >= wanted * self.requests:
            self._done(_TIMED_OUT, "", False)
        else:
            self.error(f"upstream {_TIMED_OUT}")
            self.finish(BAD_GATEWAY, True)

    def finish(self, status: int, failed: bool) -> None:
        """Let go of the peer, and log."""
        if self.over:
            return
        self.over = True
        self.status = status
        front = self.front
        front.timers.drop(self)
        if self._alarm is not None:
            front.timers.drop(self._alarm)
            self._alarm = None
        self.release(failed)
        for log in self.spec.log:
            log(self)
        if self._known:
            self._listener.forget(self)
        front.sessions.discard(self)
        sock, self._sock = self._sock, None
        if sock is not None:
            front.poll.forget(sock.fileno())
            sock.close()
        if front.on_close is not None:
            front.on_close()

    def cut(self) -> None:
        self.finish(OK, False)

    def fault(self, error: Exception) -> None:
        """Something went wrong in upwell itself."""
        self.front.loop.call_exception_handler({"message": "unexpected exception in a session", "exception": error})
        self.finish(INTERNAL, False)

    # What the log asks for

    def local_address(self) -> tuple[str, int]:
        return self.local or ("", 0)

    def from_client(self) -> int:
        return self._from_client

    def to_client(self) -> int:
        return self._to_client

    def from_peer(self) -> int:
        return self._from_peer

    def to_peer(self) -> int:
        return self._to_peer


def _socket_to(address: tuple[str, int] | str) -> socket.socket:
    """A new socket for datagrams to `address`. Raises OSError."""
    inet = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    family = socket.AF_UNIX if isinstance(address, str) else inet
    return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def _shown(name: Any) -> str:
    if isinstance(name, tuple):
        host, port = str(name[0]), int(name[1])
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "unix:"
