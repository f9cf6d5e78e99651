"""A target that is probed by talking to it over a socket: at most one, and where the probe on it stands.

It knows no schedule, no health and no log; what is said is the probe's business. A socket is connected without waiting
and the request written at once: on a fast network that spares a round through epoll. A connection on which the probe
can be repeated is kept, watched for the peer's end of it, as long as the check allows.
"""

from __future__ import annotations

import os
from contextlib import suppress
from errno import EADDRNOTAVAIL, ECONNRESET, EINPROGRESS, ENETDOWN, EPIPE
from os import read, write
from select import EPOLLIN, EPOLLOUT
from socket import AF_INET, AF_INET6, AF_UNIX, SO_ERROR, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, SocketType
from typing import Final

from upwell.check.probe import Draining, Idling, Probe, Verdict
from upwell.check.spec import CheckSpec
from upwell.check.target import (
    CONNECTING,
    IDLE,
    LINGERING,
    RESTING,
    TALKING,
    Loop,
    NoSocket,
    Place,
    Target,
    timed_out,
)
from upwell.check.usual import READ, Usual
from upwell.errors import SHORTAGES
from upwell.peers.peer import PeerSpec

_LINGER: Final = 1 << 20  # bytes of an answer that are read although the verdict is known

_NON_BLOCKING: Final = SOCK_STREAM | SOCK_NONBLOCK

_OURS: Final = SHORTAGES | {EADDRNOTAVAIL, ENETDOWN}
"""Errors of a connection that say nothing about the peer: no free port, no memory, the own network switched off."""


class Conversation(Target):
    """`address` is ("host", port) or the path of a Unix socket, and not the peer's own if the check has a `port`.

    With `usual` the probe needs only be asked about answers that are not the usual one.
    """

    __slots__ = (
        "_family",
        "_fd",
        "_heard",
        "_keep",
        "_left",
        "_most",
        "_opened",
        "_probe",
        "_read",
        "_reused",
        "_socket",
        "_unsent",
        "_until",
        "_usual",
        "_verdict",
        "address",
    )

    def __init__(
        self, spec: CheckSpec, peer: PeerSpec, place: Place, loop: Loop, probe: Probe, usual: Usual | None = None
    ) -> None:
        super().__init__(spec, peer, place, loop)
        address = peer.address
        if spec.port and not isinstance(address, str):
            address = (address[0], spec.port)
        self.address = address
        self._probe = probe
        self._usual = usual
        self._opened = False  # the probe has been since it was fed last, so that the usual answer leaves it as it is
        self._keep = spec.keepalive_time
        self._most = spec.keepalive_requests or -1
        self._socket: SocketType | None = None
        self._fd = -1
        self._unsent = b""
        self._read = 0
        self._heard = -1  # of this answer, when `hears` was asked last
        self._reused = False  # this connection was kept, and is counted in the loop as such
        self._until = 0.0  # how long this connection may be used
        self._left = 0  # and for how many probes more, negative: without end
        self._verdict: Verdict | None = None  # what the probe says as soon as the connection stands
        if isinstance(address, str):
            self._family = AF_UNIX
        else:
            self._family = AF_INET6 if ":" in address[0] else AF_INET

    def __repr__(self) -> str:
        stages = ("idle", "resting", "lingering", "connecting", "talking")
        return f"<Conversation {self.name} {stages[self.stage]}>"

    def hears(self, now: float) -> bool:
        if self.stage != LINGERING or now >= self.deadline or self._heard == self._read:
            return False
        self._heard = self._read
        return True

    def start(self, now: float) -> Verdict | None:
        self.started = now
        self.deadline = now + self.timeout
        if self.stage != RESTING or now >= self._until or not self._left:
            return self._connect(now)
        usual = self._usual
        if usual is not None and self._opened:
            first = usual.request
        else:
            first = self._probe.again()
            self._opened = True
        try:
            # As a file: the methods of a socket cost twice as much before they get to the system.
            sent = write(self._fd, first)
        except OSError:
            return self._connect(now)
        self._left -= 1
        self.stage = TALKING
        if sent != len(first):
            self._unsent = first[sent:]
            self.loop.epoll.modify(self._fd, EPOLLIN | EPOLLOUT)
        return None

    def _connect(self, now: float) -> Verdict | None:
        if self._socket is not None:
            self.close()
        try:
            # Not socket.socket: its Python part costs 2 us. SOCK_NONBLOCK makes it non-blocking from birth.
            sock = SocketType(self._family, SOCK_STREAM | SOCK_NONBLOCK)
        except OSError as error:
            raise NoSocket(_word(error.errno)) from error
        self._socket = sock
        self.stage = CONNECTING
        self._read = 0
        self._verdict = None
        self._unsent = b""
        if self._keep:
            self._until = now + self._keep
            self._left = self._most - 1
        try:
            code = sock.connect_ex(self.address)
        except (OSError, ValueError, OverflowError) as wrong:  # a path too long for a Unix socket comes this way
            return self._unconnected(str(wrong).lower())
        if code and code != EINPROGRESS:
            self._blame(code)
            return self._unconnected(_word(code))
        if self._usual is not None and self._opened:
            first = self._usual.request
        else:
            answer = self._probe.open()
            self._opened = True
            if isinstance(answer, Verdict):
                self._verdict = answer
                if code == 0:
                    return self._finish(answer, now)
                self._watch(EPOLLOUT)
                return None
            first = answer
        if not first:
            # The peer speaks first; whether it is there at all shows when the socket can be written to.
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
            self._blame(error.errno)
            return self._unconnected(_word(error.errno))
        self.stage = TALKING
        self._unsent = first[sent:]
        self._watch(EPOLLIN | EPOLLOUT if self._unsent else EPOLLIN)
        return None

    def _connect_again(self, now: float) -> Verdict | None:
        """The kept connection was over, maybe since long ago and this process late to see it: time begins anew."""
        self.started = now
        self.deadline = now + self.timeout
        return self._connect(now)

    def ready(self, fd: int, events: int, now: float) -> Verdict | None:
        sock = self._socket
        if sock is None:
            return None
        stage = self.stage
        if stage == TALKING:
            if self._unsent and events & EPOLLOUT:
                return self._send(sock, now, armed=EPOLLIN | EPOLLOUT)
            usual = self._usual
            most = READ if usual is None else usual.most
            try:
                data = read(self._fd, most)
            except BlockingIOError:
                return None
            except OSError as error:
                return self._unread(error, now)
            if usual is not None and data == usual.answer and self._opened and not self._unsent:
                if self._reused and usual.keep:
                    self.stage = RESTING
                else:
                    self._rest(usual.keep)
                return usual.verdict
            if len(data) < most or most == READ:
                return self._take(sock, data, now)
            return self._read_on(sock, data, now)
        if stage == LINGERING:
            self._drain(sock)
            return None
        if stage == RESTING:
            self._idle(sock)
            return None
        code = sock.getsockopt(SOL_SOCKET, SO_ERROR)
        if code:
            self._blame(code)
            return self._unconnected(_word(code))
        if self._verdict is not None:
            return self._finish(self._verdict, now)
        self.stage = TALKING
        if not self.whole:
            self.deadline = now + self.timeout
        return self._send(sock, now, armed=EPOLLOUT)

    def _read_on(self, sock: SocketType, data: bytes, now: float) -> Verdict | None:
        """More has come than the usual answer has: take all that one reading would have given."""
        try:
            data += sock.recv(READ - len(data))
        except BlockingIOError:
            pass
        except OSError as error:
            # After what came before it, as if it had been met when next looked. The system tells it only once.
            verdict = self._take(sock, data, now)
            if verdict is None and self._socket is sock:
                return self._unread(error, now)
            return verdict
        return self._take(sock, data, now)

    def _take(self, sock: SocketType, data: bytes, now: float) -> Verdict | None:
        """The peer has said something (b"": its last word)."""
        if not data and self._reused and not self._read:
            # Closed while the question was on its way: that says nothing, a new connection will.
            return self._connect_again(now)
        self._read += len(data)
        self._opened = False
        probe = self._probe
        operation = probe.receiving
        answer = probe.feed(data)
        if isinstance(answer, Verdict):
            return self._ended(answer, now)
        if probe.receiving is not operation and not self.whole:
            self.deadline = now + self.timeout
        if answer:
            armed = EPOLLIN | EPOLLOUT if self._unsent else EPOLLIN
            self._unsent += answer
            return self._send(sock, now, armed)
        return None

    def expire(self, now: float) -> Verdict | None:
        if self.stage == LINGERING:
            self.close()
            return None
        probe = self._probe
        if self.stage == CONNECTING:
            phrase, doing = "failed to connect to", "connecting"
        elif self._unsent:
            phrase, doing = probe.sending, "sending the request"
        else:
            phrase, doing = probe.receiving, probe.doing
        return self._failed(phrase, "timeout", "timeout", timed_out(self.timeout, doing))

    def broken(self, error: Exception, now: float) -> Verdict | None:
        if self.stage == LINGERING:
            self.close()
            return None
        talking = self.stage == TALKING and not self._unsent
        phrase = self._probe.receiving if talking else self._probe.sending
        word = str(error).lower() or type(error).__name__
        return self._failed(phrase, word, "other", word)

    def close(self) -> None:
        """Let go of the socket; epoll forgets a closed one by itself, unless a new process has it too."""
        sock = self._socket
        if sock is None:
            return
        if self._reused:
            self._reused = False
            self.loop.kept -= 1
        if self.loop.targets.pop(self._fd, None) is not None and self.loop.spawns:
            self.loop.epoll.unregister(self._fd)
        self._socket = None
        self._fd = -1
        self.stage = IDLE
        sock.close()

    def _send(self, sock: SocketType, now: float, armed: int) -> Verdict | None:
        """Go on sending; `armed` is what epoll watches now."""
        if self._unsent:
            try:
                sent = sock.send(self._unsent)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                word = _word(error.errno)
                return self._failed(self._probe.sending, word, "closed", f"{word} sending the request")
            self._unsent = self._unsent[sent:]
        wanted = EPOLLIN | EPOLLOUT if self._unsent else EPOLLIN
        if not self._unsent and not self.whole:
            self.deadline = now + self.timeout
        if wanted != armed:
            self.loop.epoll.modify(self._fd, wanted)
        return None

    def _unread(self, error: OSError, now: float) -> Verdict | None:
        """Reading failed."""
        if self._reused and not self._read and error.errno in (ECONNRESET, EPIPE):
            return self._connect_again(now)
        probe = self._probe
        word = _word(error.errno)
        return self._failed(probe.receiving, word, "closed", f"{word} {probe.doing}")

    def _ended(self, verdict: Verdict, now: float) -> Verdict | None:
        """The probe has its verdict, not the usual one."""
        if self._reused and verdict.kind == "closed":
            return self._connect_again(now)  # the same, in the protocol's own way (HTTP/2's GOAWAY)
        return self._finish(verdict, now)

    def _drain(self, sock: SocketType) -> None:
        """Read on, so that a peer which writes its answer in pieces is not met with a reset, but not for ever."""
        try:
            data = sock.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._read += len(data)
        if not data or self._read > _LINGER:
            self.close()
            return
        probe = self._probe
        if isinstance(probe, Draining):
            farewell = probe.drain(data)
            if farewell:
                with suppress(OSError):
                    sock.send(farewell)
            if probe.finished:
                self._rest(probe.reusable)

    def _idle(self, sock: SocketType) -> None:
        """The end of a resting connection, or something that nobody asked for."""
        probe = self._probe
        if isinstance(probe, Idling):
            try:
                data = sock.recv(READ)
                answer = probe.idle(data) if data else None
                if answer is not None and len(answer) == (sock.send(answer) if answer else 0):
                    return
            except BlockingIOError:
                return
            except OSError:
                pass
        self.close()

    def _finish(self, verdict: Verdict, now: float) -> Verdict:
        probe = self._probe
        if verdict.farewell and not self._unsent and self._socket is not None:
            with suppress(OSError):
                self._socket.send(verdict.farewell)
        if not probe.finished:
            if self._unsent:
                self._unsent = b""
                self.loop.epoll.modify(self._fd, EPOLLIN)
            self.stage = LINGERING
            self._heard = -1
            if not self.whole:
                self.deadline = now + self.timeout
        else:
            self._rest(probe.reusable)
        return verdict

    def _rest(self, reusable: bool) -> None:
        """The peer has sent all it will: keep the connection, or not."""
        if not reusable or not self._keep or self._unsent:
            self.close()
            return
        if not self._reused:
            loop = self.loop
            if loop.kept >= loop.most_kept:
                self.close()
                return
            loop.kept += 1
            self._reused = True
        self._read = 0
        self.stage = RESTING

    def _blame(self, code: int | None) -> None:
        """Raise NoSocket if the error is this machine's own, not the peer's."""
        if code in _OURS:
            self.close()
            raise NoSocket(_word(code), "connect from this machine")

    def _unconnected(self, word: str) -> Verdict:
        return self._failed("failed to connect to", word, "connect", word)

    def _failed(self, phrase: str, word: str, kind: str, why: str) -> Verdict:
        self.close()
        return Verdict(False, kind, why, 0, f"{phrase} {self.name}: {word}")

    def _watch(self, events: int) -> None:
        sock = self._socket
        if sock is not None:
            fd = self._fd = sock.fileno()
            self.loop.targets[fd] = self
            try:
                self.loop.epoll.register(fd, events)
            except OSError as error:
                self.loop.targets.pop(fd)
                self._fd = -1
                self.close()
                raise NoSocket(_word(error.errno), "watch a socket") from error


def _word(code: int | None) -> str:
    """The system's words for an error number as OpenResty's cosockets give them: all in lower case."""
    return os.strerror(code or 0).lower()
