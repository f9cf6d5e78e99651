"""A session over TCP from accept() to the log: who may come, TLS, a peer, bytes both ways, the end.

`TcpSession.begin` and what it calls, from top to bottom, is the page to read. How bytes go is in splice.py.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import socket
import ssl
from collections.abc import Callable
from typing import Final

from upwell.errors import MessageError
from upwell.log import ALERT, ERROR, INFO
from upwell.proxy.preread import Preread
from upwell.proxy.proxy_protocol import MOST, header, parse
from upwell.proxy.session import (
    BAD_GATEWAY,
    BAD_REQUEST,
    FORBIDDEN,
    INTERNAL,
    OK,
    WAITING,
    Front,
    Session,
    Stages,
    TlsFacts,
)
from upwell.proxy.splice import EDGE, Pace, Side, Step, TlsSide
from upwell.proxy.tls import blame, judge, peer_trouble, words_of_error

_new_socket: Final = _socket.socket
_EINPROGRESS: Final = errno.EINPROGRESS
_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_NEWS: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET  # what was looked at is still there to be read
_FAILED: Final = select.EPOLLERR | select.EPOLLHUP
_STREAM: Final = int(socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
_UNIX: Final = int(socket.AF_UNIX)
_INET: Final = int(socket.AF_INET)
_INET6: Final = int(socket.AF_INET6)
_TCP: Final = int(socket.IPPROTO_TCP)
_QUICKACK: Final = int(socket.TCP_QUICKACK)
_NO_PORT_YET: Final = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)
_TIMED_OUT: Final = f"timed out ({errno.ETIMEDOUT}: {os.strerror(errno.ETIMEDOUT)})"


def accepted(front: Front, fd: int, peer: object) -> None:
    """Begin the session of the connection `fd`, which accept() gave with the address `peer`."""
    local = front.local
    if front.specific:
        local = _local_of(fd, front.family)
        front = front.specific.get(local, front)
    address, port = ("unix:", 0)
    if isinstance(peer, tuple) and peer:
        address, port = peer[0], peer[1]
    if not front.has_room():
        os.close(fd)
        return
    session = TcpSession(front, fd, address, port, local)
    try:
        session.begin()
    except Exception as error:
        session.fault(error)


def _local_of(fd: int, family: int) -> tuple[str, int]:
    sock = socket.socket(family, socket.SOCK_STREAM, 0, fd)
    try:
        name = sock.getsockname()
    finally:
        sock.detach()
    return (name[0], name[1]) if isinstance(name, tuple) else ("unix:", 0)


class TcpSession(Session):
    """`step` is done when the descriptor that is waited for is ready, with what it says; `passing`: bytes go both
    ways.
    """

    __slots__ = (
        "_client",
        "_far",
        "_far_tls",
        "_fd",
        "_parts",
        "_sock",
        "_tls",
        "_waited",
        "passing",
        "pipes",
        "step",
        "timeout",
    )

    def __init__(self, front: Front, fd: int, address: str, port: int, local: tuple[str, int] | None) -> None:
        super().__init__(front, "TCP", address, port, local)
        self.pipes = front.pipes
        self.timeout: float = front.spec.timeout or 1e9
        self.passing = False
        self.step: Callable[[int], None] = _nothing
        self._fd = fd  # of the client, until a side has it
        self._client: Side | None = None
        self._far: Side | None = None
        self._sock: _socket.socket | None = None  # to the peer, until a side has it
        self._tls: ssl.SSLSocket | None = None
        self._far_tls: ssl.SSLSocket | None = None
        self._waited = 0  # the events that the set is asked for, of the one that is waited for

    def __repr__(self) -> str:
        return f"<TcpSession *{self.number} {self.address}>"

    def begin(self) -> None:
        """A client has connected."""
        front = self.front
        front.sessions.add(self)
        if self.spec.error_log.level >= INFO:
            where = f"{self.address}:{self.port}" if self.port else self.address
            self.note(INFO, f"client {where} connected to {front.text}")
        if front.takes_proxy_protocol:
            self.action = "reading PROXY protocol"
            self.step = self._read_header
            front.timers.arm(self, self.spec.proxy_protocol_timeout)
            self._wait(self._fd, _IN)
        else:
            self._admit()

    def _read_header(self, events: int) -> None:
        """The client's first bytes are to tell whom it speaks for (nginx reads them in one piece, too)."""
        try:
            sock = socket.socket(self.front.family, socket.SOCK_STREAM, 0, self._fd)
            try:
                data = sock.recv(MOST, socket.MSG_PEEK)
                size, self.proxied = parse(data)
                sock.recv(size)
            finally:
                sock.detach()
        except BlockingIOError:
            return
        except OSError as error:
            self.tell(INFO, f"recv() {_reason(error)}")
            self.finish(OK)
            return
        except MessageError as bad:
            self.error(bad.reason)
            self.finish(BAD_REQUEST)
            return
        self._wait_no_more()
        self.front.timers.disarm(self)
        self._admit()

    def _admit(self) -> None:
        spec = self.spec
        self.action = "initializing session"
        if spec.allowed is not None and not spec.allowed(self.address):
            self.error("access forbidden by rule")
            self.finish(FORBIDDEN)
        elif self.front.tls and spec.tls is not None:
            self.action = "SSL handshaking"
            sock = socket.socket(self.front.family, socket.SOCK_STREAM, 0, self._fd)
            sock.setblocking(False)  # which it is, but the object has to know
            try:
                self._tls = spec.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            except OSError as error:  # it has gone
                self._fd = sock.detach()  # -1: closed already
                self.tell(INFO, f"{words_of_error(error)}")
                self.finish(INTERNAL)
                return
            self.front.timers.arm(self, spec.handshake_timeout)
            self.step = self._shake_hands
            self._shake_hands(0)
        else:
            self._serve()

    def _shake_hands(self, events: int) -> None:
        tls = self._tls
        assert tls is not None
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            self._wait(self._fd, _IN)
        except ssl.SSLWantWriteError:
            self._wait(self._fd, _OUT)
        except (OSError, ValueError) as error:
            self.tell(INFO, f"SSL_do_handshake() failed ({words_of_error(error)})")
            self.finish(INTERNAL)
        else:
            self.tls = TlsFacts.of(tls)
            self._wait_no_more()
            self.front.timers.disarm(self)
            trouble = 0 if self.spec.verify == "off" else judge(tls, self.spec.verify)
            if trouble:
                self.tell(INFO, blame(trouble))
                self.finish(INTERNAL)
            else:
                self._serve()

    def _serve(self) -> None:
        """The client may come in."""
        spec = self.spec
        if spec.stages is not None:
            self._stage(spec.stages)
            return
        if spec.returns is None:
            self._connect()
            return
        self.action = "initializing session"
        client = self._client = self._side(self._tls, self._fd, None)
        client.far = Nobody(self, client)
        self.passing = True
        text = spec.returns(self)
        self.action = "sending to client"
        if not text or client.put(text, True):
            self.finish(OK)
        elif not client.deaf:
            self.front.timers.arm(self, spec.timeout)
            self.front.poll.take_over(self._fd, client)  # `put` has asked for what it waits for

    def _stage(self, stages: Stages) -> None:
        stages.begin(self)
        if not stages.size or self._tls is not None:  # what is within TLS is no ClientHello
            self._aim()
            return
        self.action = "prereading client data"
        self.front.timers.arm(self, stages.timeout or 1e9)
        self.step = Preread(self, self._fd, self.front.family, stages.size).look
        self.step(0)

    def preread(self, values: dict[str, bytes], status: int) -> None:
        """What the client has said so far. `status`: 0, it is all there is to know; WAITING; or it ends the session."""
        assert self.variables is not None
        self.variables.update(values)
        if status == WAITING:
            self._wait(self._fd, _NEWS)
        elif status:
            if status == BAD_REQUEST:
                self.error("preread buffer full")
            self.finish(status)
        else:
            self._wait_no_more()
            self.front.timers.disarm(self)
            self._aim()

    def _aim(self) -> None:
        stages = self.spec.stages
        assert stages is not None
        self.action = "initializing session"
        self.step = _nothing
        status = stages.end(self, self._aimed)
        if status != WAITING:
            self._aimed(status)

    def _aimed(self, status: int) -> None:
        if self.over:
            return
        if status:
            self.finish(status)
        else:
            self._serve()

    # The peer

    def _connect(self) -> None:
        """Begin to connect to a peer, or say that there is none."""
        spec = self.spec
        while True:
            peer = self.choose()
            if peer is None:
                self.finish(BAD_GATEWAY)
                return
            address = peer.address
            tls = spec.peer_tls is not None
            try:
                sock = _socket_to(address, tls)
            except OSError as error:
                self.tell(ALERT, f"socket() failed ({error.errno}: {error.strerror})")
                self.finish(INTERNAL)
                return
            self._sock = sock
            try:
                if spec.near is not None or spec.keepalive:
                    self._prepare(sock)
                number = sock.connect_ex(address)
            except OSError as error:
                number = error.errno or errno.EINVAL
            if number == _EINPROGRESS:
                self.step = self._connected
                self.front.timers.arm(self, spec.connect_timeout or 1e9)
                self._wait(sock.fileno(), _OUT if tls else EDGE)
                return
            if not number:  # a unix socket: it is done at once, which its TLS is not
                if tls:
                    self.front.timers.arm(self, spec.connect_timeout or 1e9)
                self._connected(0)
                return
            if not self._failed(f"connect() failed ({number}: {os.strerror(number)})"):
                return

    def _prepare(self, sock: _socket.socket) -> None:
        """Raises OSError."""
        spec = self.spec
        if spec.keepalive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        near = None if spec.near is None else spec.near(self)
        if near is not None:
            if not near[1]:
                sock.setsockopt(socket.IPPROTO_IP, _NO_PORT_YET, 1)
            sock.bind(near)

    def _connected(self, events: int) -> None:
        """`events` are what the set says, 0: nothing."""
        sock = self._sock
        assert sock is not None
        if events & _FAILED and (number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            if self._failed(f"connect() failed ({number}: {os.strerror(number)})"):
                self._connect()
            return
        spec = self.spec
        if spec.error_log.level >= INFO:
            self.note(INFO, f"proxy {_shown(sock.getsockname())} connected to {self.attempts[-1].peer}")
        if spec.peer_tls is not None:
            self._secure(sock)
        else:
            self._pass_on(events)

    def _failed(self, message: str, level: int = ERROR) -> bool:
        """The try has failed before anything was passed on; whether there may be another one."""
        self.tell(level, message)
        self._wait_no_more()
        sock, self._sock = self._sock, None
        self.release(True)
        if sock is not None:
            sock.close()
        self._far_tls = None
        if self.may_try_again():
            return True
        self.finish(BAD_GATEWAY)
        return False

    def _secure(self, sock: _socket.socket) -> None:
        """Begin TLS with the peer, behind the line that tells it of the client."""
        spec = self.spec.peer_tls
        assert spec is not None
        assert isinstance(sock, socket.socket)
        self._wait_no_more()
        self.action = "SSL handshaking to upstream"
        try:
            if self.spec.proxy_protocol:
                sock.send(header(self))  # a new connection takes so little
            name = spec.name(self).decode("ascii", "replace")
            told = name if spec.tells or spec.context.check_hostname else None
            tls = spec.context.wrap_socket(sock, do_handshake_on_connect=False, server_hostname=told)
        except ValueError:  # the name, in which the client may have a say: no peer is to blame
            self.tell(ERROR, "the name for TLS with the peer (proxy_ssl_name) cannot be asked for")
            self.finish(INTERNAL)
            return
        except OSError as error:
            if self._failed(f"SSL_do_handshake() failed ({words_of_error(error)})"):
                self._connect()
            return
        self._sock = self._far_tls = tls
        self.step = self._shake_with_peer
        self._shake_with_peer(0)

    def _shake_with_peer(self, events: int) -> None:
        tls = self._far_tls
        assert tls is not None
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            self._wait(tls.fileno(), _IN)
        except ssl.SSLWantWriteError:
            self._wait(tls.fileno(), _OUT)
        except (OSError, ValueError) as error:
            if self._failed(peer_trouble(error)):
                self._connect()
        else:
            self._pass_on(0)

    # Passing on

    def _pass_on(self, events: int) -> None:
        """Both are connected; `events` is what the set says of the peer's descriptor."""
        front, spec = self.front, self.spec
        sock = self._sock
        assert sock is not None
        plain = self._tls is None and self._far_tls is None
        client = self._client = self._side(self._tls, self._fd, None)
        far = self._far = self._side(self._far_tls, sock.fileno(), sock)
        self._sock = None
        client.far = far
        far.far = client
        client.splices = far.splices = plain
        far.patient = self._far_tls is None and sock.family != _UNIX
        if spec.upload_rate is not None:
            self._pace(client, spec.upload_rate)
        if spec.download_rate is not None:
            self._pace(far, spec.download_rate)
        self.passing = True
        self.action = "proxying connection"
        front.timers.arm(self, self.timeout)
        self.attempts[-1].connected = front.now()
        asked, self._waited = self._waited, 0
        far.begin(asked)
        written = self._far_tls is not None or not spec.proxy_protocol or far.put(header(self), False)
        client.begin(0)
        if not written:
            client.hold()
        elif self._tls is None:
            client.ready(_IN)  # it has most often said something meanwhile
        if not far.sent and far.patient and not self.over:
            sock.setsockopt(_TCP, _QUICKACK, 1)  # nobody has said anything yet: the peer may be the one to begin
        if events & ~_OUT and asked == EDGE and not self.over:
            far.ready(events)  # which was told once

    def _pace(self, side: Side, rate: Callable[[Session], int]) -> None:
        found = rate(self)
        if found:
            side.pace = Pace(side, found)
            side.splices = False

    def _side(self, tls: ssl.SSLSocket | None, fd: int, sock: _socket.socket | None) -> Side:
        if tls is not None:
            return TlsSide(self, self.front.poll, tls, self.spec.buffer_size)
        return Side(self, self.front.poll, fd, sock, self.spec.buffer_size)

    def touch(self) -> None:
        """Something has been passed on."""
        self.deadline = self.front.now() + self.timeout

    def came(self, side: Side) -> None:
        """Something has come from `side`, which it does not count yet."""
        now = self.front.now()
        self.deadline = now + self.timeout
        if not side.received and side is self._far:
            self.attempts[-1].first_byte = now

    def ended(self, side: Side) -> None:
        """Nothing more comes from `side`, or what had come from it has been written now."""
        if self.over:
            return
        far = side.far
        assert far is not None
        if far.waits:
            return  # it tells once that is written
        spec = self.spec
        if spec.returns is not None:
            self.finish(OK)
            return
        if side.error is not None and not side.deaf:  # else it is told already
            self._tell_of(side, side.error, "reading from")
        if spec.half_close and side.error is None and not side.deaf and not far.deaf:
            far.end_writing()
            if self.over or not far.at_end or side.waits:
                return
        if spec.error_log.level >= INFO:
            who = "client" if side is self._client else "upstream"
            self.note(
                INFO,
                f"{who} disconnected, bytes from/to client:{self.from_client()}/{self.to_client()}, "
                f"bytes from/to upstream:{self.from_peer()}/{self.to_peer()}",
            )
        self.finish(OK)

    def deaf(self, side: Side, error: OSError) -> None:
        """Nothing can be sent to `side` any more; it may still have sent something."""
        if self.over:
            return
        self._tell_of(side, error, "sending to")
        far = side.far
        if side.at_end or far is None or far.deaf or self.spec.returns is not None:
            self.finish(OK)

    def _tell_of(self, side: Side, error: OSError, doing: str) -> None:
        of_client = side is self._client
        action = self.action
        self.action = f"proxying and {doing} {'client' if of_client else 'upstream'}"
        call = "recv" if doing.startswith("reading") else "send"
        words = (
            f"SSL failed ({words_of_error(error)})" if isinstance(error, ssl.SSLError) else f"{call}() {_reason(error)}"
        )
        self.tell(INFO if of_client else ERROR, words)
        self.action = action

    def timed_out(self) -> None:
        step = self.action
        if self.passing:
            self.tell(INFO, f"connection {_TIMED_OUT}")
            self.finish(OK)
        elif step in ("reading PROXY protocol", "prereading client data"):
            self.tell(INFO, f"client {_TIMED_OUT}")
            self.finish(OK)
        elif self._sock is None:
            self.tell(INFO, f"client {_TIMED_OUT}")
            self.finish(INTERNAL)
        elif self._failed(f"upstream {_TIMED_OUT}"):
            self._connect()

    # Waiting for one descriptor

    def _wait(self, fd: int, events: int) -> None:
        if self._waited == events:
            return
        poll = self.front.poll
        if self._waited:
            poll.change(fd, self._waited, events)
        else:
            poll.watch(fd, events, Step(self, fd))
        self._waited = events

    def _wait_no_more(self) -> None:
        if self._waited:
            fd = self._fd if self._sock is None else self._sock.fileno()
            self.front.poll.change(fd, self._waited, 0)
            self.front.poll.forget(fd)
            self._waited = 0

    # The end

    def finish(self, status: int) -> None:
        """Let go of both connections, and log."""
        if self.over:
            return
        self.over = True
        self.status = status
        front = self.front
        front.timers.drop(self)
        if self._waited:
            self._wait_no_more()
        self.release(False)
        for log in self.spec.log:
            log(self)
        front.sessions.discard(self)
        client, far = self._client, self._far
        self._client = self._far = None  # else they would know each other for ever
        self.step = _nothing
        if client is None and self._fd >= 0:
            client = self._side(self._tls, self._fd, None)
        if far is not None and client is not None:
            far.part(client.error is not None)
        elif self._sock is not None:
            self._sock.close()
        if client is not None:
            client.part(far is not None and far.error is not None)
        if front.on_close is not None:
            front.on_close()

    def cut(self) -> None:
        """End at once."""
        self.finish(OK)

    def fault(self, error: Exception) -> None:
        """Something went wrong in upwell itself."""
        self.front.loop.call_exception_handler({"message": "unexpected exception in a session", "exception": error})
        self.finish(INTERNAL)

    # What the log asks for

    def local_address(self) -> tuple[str, int]:
        local = self.local
        if local is None:
            local = self.local = _local_of(self._fd, self.front.family)
        return local

    def from_client(self) -> int:
        return 0 if self._client is None else self._client.received

    def to_client(self) -> int:
        return 0 if self._client is None else self._client.sent

    def from_peer(self) -> int:
        return 0 if self._far is None else self._far.received

    def to_peer(self) -> int:
        return 0 if self._far is None else self._far.sent


class Nobody(Side):
    """Stands for the peer where `return` answers."""

    __slots__ = ()

    def __init__(self, session: TcpSession, client: Side) -> None:
        super().__init__(session, session.front.poll, -1, None, 0)
        self.far = client
        self.at_end = True


def _nothing(events: int) -> None:
    """After the end."""


def _socket_to(address: tuple[str, int] | str, tls: bool) -> _socket.socket:
    """A new socket for connections to `address`, an object of Python's for TLS. Raises OSError."""
    family = _UNIX if isinstance(address, str) else _INET6 if ":" in address[0] else _INET
    sock = socket.socket(family, _STREAM) if tls else _new_socket(family, _STREAM, 0)
    if family != _UNIX:
        # The first bytes are to carry what confirms the connection (see _pass_on, where there are none).
        sock.setsockopt(_TCP, _QUICKACK, 0)
        if tls:
            sock.setsockopt(_TCP, socket.TCP_NODELAY, 1)
    return sock


def _shown(name: object) -> str:
    if isinstance(name, tuple):
        host, port = str(name[0]), int(name[1])
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "unix:"


def _reason(error: OSError) -> str:
    return f"failed ({error.errno}: {error.strerror})"
