"""One peer under one check: its socket, at most one at a time, and where its probe stands.

This is the only place of the check layer that calls a socket. It knows no schedule, no health and no log; it answers
each step with a verdict or None (not yet). A socket is connected without waiting and the request written at once: on a
fast network that spares a round through epoll.
"""

from __future__ import annotations

import os
from errno import EINPROGRESS
from select import EPOLLIN, EPOLLOUT, epoll
from socket import AF_INET, AF_INET6, AF_UNIX, SO_ERROR, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, SocketType

from upwell.check.probes.probe import Probe, Verdict

_READ = 8192  # bytes at once
_LINGER = 65536  # bytes of an answer that are read although the verdict is known

_IDLE, _CONNECTING, _TALKING, _LINGERING = range(4)


class NoSocket(Exception):
    """The system gave no socket (`word` says why); this says nothing about the peer."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class Target:
    """`address` is ("host", port) or the path of a Unix socket; `timeout` is for each operation: connect, handshake,
    send, receive.

    `row` and `at` are the peer's row and the first word of the check's slot in the zone. While `busy`, `deadline` says
    when the present operation has taken too long; the owner then calls `expire`. `queued` belongs to the owner.
    """

    __slots__ = (
        "_epoll",
        "_family",
        "_fd",
        "_probe",
        "_read",
        "_socket",
        "_stage",
        "_started",
        "_targets",
        "_unsent",
        "_verdict",
        "address",
        "at",
        "deadline",
        "name",
        "queued",
        "row",
        "timeout",
    )

    def __init__(
        self,
        name: str,
        address: tuple[str, int] | str,
        timeout: float,
        probe: Probe,
        row: int,
        at: int,
        poll: epoll,
        targets: dict[int, Target],
    ) -> None:
        self.name = name
        self.address = address
        self.timeout = timeout
        self.row = row
        self.at = at
        self.deadline = 0.0
        self.queued = False
        self._probe = probe
        self._epoll = poll
        self._targets = targets
        self._socket: SocketType | None = None
        self._fd = -1
        self._stage = _IDLE
        self._started = 0.0
        self._unsent = b""
        self._read = 0
        self._verdict: Verdict | None = None  # what the probe says as soon as the connection stands
        if isinstance(address, str):
            self._family = AF_UNIX
        else:
            self._family = AF_INET6 if ":" in address[0] else AF_INET

    def __repr__(self) -> str:
        return f"<Target {self.name} {('idle', 'connecting', 'talking', 'lingering')[self._stage]}>"

    @property
    def busy(self) -> bool:
        """Whether a socket is open, be it only to let the peer finish."""
        return self._stage != _IDLE

    @property
    def probing(self) -> bool:
        """Whether a verdict is still to come."""
        return _IDLE < self._stage < _LINGERING

    def start(self, now: float) -> Verdict | None:
        """Begin a probe. Raises NoSocket."""
        if self._socket is not None:
            self.close()
        self._started = now
        self.deadline = now + self.timeout
        try:
            # Not socket.socket: its Python part costs 2 us. SOCK_NONBLOCK makes it non-blocking from birth.
            sock = SocketType(self._family, SOCK_STREAM | SOCK_NONBLOCK)
        except OSError as error:
            raise NoSocket(_word(error.errno)) from error
        self._socket = sock
        self._stage = _CONNECTING
        self._read = 0
        self._verdict = None
        self._unsent = b""
        try:
            code = sock.connect_ex(self.address)
        except (OSError, ValueError, OverflowError) as error:  # a path too long for a Unix socket comes this way
            return self._fail("failed to connect to", str(error).lower(), now)
        if code and code != EINPROGRESS:
            return self._fail("failed to connect to", _word(code), now)
        first = self._probe.open()
        if isinstance(first, Verdict):
            self._verdict = first
            if code == 0:
                return self._finish(first, now)
            self._watch(EPOLLOUT)
            return None
        try:
            sent = sock.send(first)
        except BlockingIOError:
            self._unsent = first
            self._watch(EPOLLOUT)
            return None
        except OSError as error:
            # Nothing was sent before, so this is how the connection itself ended.
            return self._fail("failed to connect to", _word(error.errno), now)
        self._stage = _TALKING
        self._unsent = first[sent:]
        self._watch(EPOLLIN | EPOLLOUT if self._unsent else EPOLLIN)
        return None

    def ready(self, events: int, now: float) -> Verdict | None:
        """epoll reported `events` for this target's socket."""
        sock = self._socket
        if sock is None:
            return None
        if self._stage == _LINGERING:
            self._drain(sock)
            return None
        if self._stage == _CONNECTING:
            code = sock.getsockopt(SOL_SOCKET, SO_ERROR)
            if code:
                return self._fail("failed to connect to", _word(code), now)
            if self._verdict is not None:
                return self._finish(self._verdict, now)
            self._stage = _TALKING
            self.deadline = now + self.timeout
            return self._send(sock, now, armed=EPOLLOUT)
        if self._unsent and events & EPOLLOUT:
            return self._send(sock, now, armed=EPOLLIN | EPOLLOUT)
        return self._receive(sock, now)

    def expire(self, now: float) -> Verdict | None:
        """`deadline` has passed."""
        if self._stage == _LINGERING:
            self.close()
            return None
        if self._stage == _CONNECTING:
            return self._fail("failed to connect to", "timeout", now)
        probe = self._probe
        return self._fail(probe.sending if self._unsent else probe.receiving, "timeout", now)

    def broken(self, error: Exception, now: float) -> Verdict | None:
        """`start` or `ready` raised `error`: the failure of this probe, or None if its verdict was given before."""
        if self._stage == _LINGERING:
            self.close()
            return None
        talking = self._stage == _TALKING and not self._unsent
        phrase = self._probe.receiving if talking else self._probe.sending
        return self._fail(phrase, str(error).lower() or type(error).__name__, now)

    def close(self) -> None:
        """Let go of the socket; epoll forgets a closed one by itself."""
        sock = self._socket
        if sock is None:
            return
        self._targets.pop(self._fd, None)
        self._socket = None
        self._fd = -1
        self._stage = _IDLE
        sock.close()

    def _send(self, sock: SocketType, now: float, armed: int) -> Verdict | None:
        """Go on sending; `armed` is what epoll watches now."""
        try:
            sent = sock.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            return self._fail(self._probe.sending, _word(error.errno), now)
        self._unsent = self._unsent[sent:]
        wanted = EPOLLIN | EPOLLOUT if self._unsent else EPOLLIN
        if not self._unsent:
            self.deadline = now + self.timeout
        if wanted != armed:
            self._epoll.modify(self._fd, wanted)
        return None

    def _receive(self, sock: SocketType, now: float) -> Verdict | None:
        probe = self._probe
        try:
            data = sock.recv(_READ)
        except BlockingIOError:
            return None
        except OSError as error:
            return self._fail(probe.receiving, _word(error.errno), now)
        self._read += len(data)
        operation = probe.receiving
        answer = probe.feed(data)
        if isinstance(answer, Verdict):
            return self._finish(answer, now)
        if probe.receiving is not operation:
            self.deadline = now + self.timeout
        if answer:
            armed = EPOLLIN | EPOLLOUT if self._unsent else EPOLLIN
            self._unsent += answer
            return self._send(sock, now, armed)
        return None

    def _drain(self, sock: SocketType) -> None:
        """Read on, so that a peer which writes its answer in pieces is not met with a reset, but not for ever."""
        try:
            data = sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._read += len(data)
        if not data or self._read > _LINGER:
            self.close()

    def _finish(self, verdict: Verdict, now: float) -> Verdict:
        if self._probe.finished:
            self.close()
        else:
            if self._unsent:
                self._unsent = b""
                self._epoll.modify(self._fd, EPOLLIN)
            self._stage = _LINGERING
            self.deadline = now + self.timeout
        return Verdict(verdict.passed, verdict.reason, verdict.status, now - self._started)

    def _fail(self, phrase: str, word: str, now: float) -> Verdict:
        self.close()
        return Verdict(False, f"{phrase} {self.name}: {word}", 0, now - self._started)

    def _watch(self, events: int) -> None:
        sock = self._socket
        if sock is not None:
            fd = self._fd = sock.fileno()
            self._targets[fd] = self
            self._epoll.register(fd, events)


def _word(code: int | None) -> str:
    """The system's words for an error number as OpenResty's cosockets give them: all in lower case."""
    return os.strerror(code or 0).lower()
