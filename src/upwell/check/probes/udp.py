"""The probe of `health_check udp`: one datagram on a socket of its own. Knows no stream and no schedule.

Without `CheckSpec.expect` silence is what a healthy peer most often answers: it passes when the time is up, sooner when
anything comes, and fails where ICMP says that nobody is there (IP_RECVERR: hosts and networks that cannot be reached,
too, which are kept from a socket otherwise). With `expect` each datagram is looked at by itself until one has it.
"""

from __future__ import annotations

import os
from errno import EADDRNOTAVAIL, EAGAIN, ENETDOWN, EPERM
from select import EPOLLIN
from socket import AF_INET, AF_INET6, AF_UNIX, IPPROTO_IP, IPPROTO_IPV6, SOCK_DGRAM, SOCK_NONBLOCK, SocketType
from time import thread_time
from typing import Final

from upwell.check.probe import Verdict
from upwell.check.probes.expect import MOST, MOST_TIME, shared
from upwell.check.rules import quoted
from upwell.check.spec import CheckSpec
from upwell.check.target import IDLE, TALKING, Loop, NoSocket, Place, Target, timed_out
from upwell.errors import SHORTAGES
from upwell.pcre import PatternTimeout
from upwell.peers.peer import PeerSpec

_IP_RECVERR: Final = 11
_IPV6_RECVERR: Final = 25

_OURS: Final = SHORTAGES | {EADDRNOTAVAIL, EAGAIN, ENETDOWN, EPERM}
"""Errors that say nothing about the peer; EPERM is the own packet filter's."""


class UdpTarget(Target):
    """`CheckSpec.request` is the datagram."""

    __slots__ = ("_address", "_came", "_expect", "_family", "_fd", "_request", "_socket", "_spent")

    def __init__(self, spec: CheckSpec, peer: PeerSpec, place: Place, loop: Loop) -> None:
        """Raises ValueError for a regular expression that is none."""
        super().__init__(spec, peer, place, loop)
        address = peer.address
        if isinstance(address, str):
            self._family = AF_UNIX
        else:
            self._family = AF_INET6 if ":" in address[0] else AF_INET
            if spec.port:
                address = (address[0], spec.port)
        self._address = address
        self._request = spec.request
        self._expect = shared(spec.expect) if spec.expect else None
        self._socket: SocketType | None = None
        self._fd = -1
        self._came = b""  # the last datagram that did not do
        self._spent = 0.0

    def __repr__(self) -> str:
        return f"<UdpTarget {self.name} {'idle' if self._socket is None else 'waiting'}>"

    def start(self, now: float) -> Verdict | None:
        self.close()
        self.started = now
        self.deadline = now + self.timeout
        self._came = b""
        self._spent = 0.0
        try:
            sock = self._socket = SocketType(self._family, SOCK_DGRAM | SOCK_NONBLOCK)
            if self._family == AF_INET:
                sock.setsockopt(IPPROTO_IP, _IP_RECVERR, 1)
            elif self._family == AF_INET6:
                sock.setsockopt(IPPROTO_IPV6, _IPV6_RECVERR, 1)
        except OSError as error:
            self.close()
            raise NoSocket(_word(error), "create datagram socket") from error
        try:
            sock.connect(self._address)
            sock.send(self._request)
        except (OSError, ValueError, OverflowError) as wrong:  # a path too long for a Unix socket comes this way
            self.close()
            if self._family == AF_UNIX and isinstance(wrong, BlockingIOError):
                # It is the peer that has no room: who sends to a Unix socket waits for who reads there.
                return Verdict(False, "connect", "its queue of datagrams is full")
            if isinstance(wrong, OSError) and wrong.errno in _OURS:
                raise NoSocket(_word(wrong), "send a datagram") from wrong
            return Verdict(False, "connect", _word(wrong))
        self.stage = TALKING
        fd = self._fd = sock.fileno()
        self.loop.targets[fd] = self
        try:
            self.loop.epoll.register(fd, EPOLLIN)
        except OSError as refused:
            del self.loop.targets[fd]
            self._fd = -1
            self.close()
            raise NoSocket(_word(refused), "watch a socket") from refused
        return None

    def ready(self, fd: int, events: int, now: float) -> Verdict | None:
        sock = self._socket
        if sock is None:
            return None
        try:
            data = sock.recv(MOST)
        except BlockingIOError:
            return None
        except OSError as error:
            self.close()
            return Verdict(False, "connect", _word(error))
        why = self._judge(data)
        if why is None:
            return None
        self.close()
        return Verdict(False, "body", why) if why else Verdict(True)

    def _judge(self, data: bytes) -> str | None:
        """Why `data` is a failure ("": it passes), None: whether something better comes has to be seen."""
        expect = self._expect
        if expect is None:
            return ""
        began = thread_time()
        try:
            if expect.found(data):
                return ""
        except PatternTimeout as error:
            return f"{expect.wanted}: {error}"
        self._came = data
        self._spent += thread_time() - began
        if self._spent > MOST_TIME:
            return f"{expect.wanted}: searching so many datagrams takes too long, the last is {self._shown}"
        return None

    @property
    def _shown(self) -> str:
        return quoted(self._came[:100].decode("utf-8", "surrogateescape"))

    def expire(self, now: float) -> Verdict | None:
        self.close()
        expect = self._expect
        if expect is None:
            return Verdict(True)
        if self._came:
            return Verdict(False, "body", f"no {expect.wanted}, but {self._shown}")
        return Verdict(False, "timeout", timed_out(self.timeout, f"waiting for {expect.wanted}"))

    def broken(self, error: Exception, now: float) -> Verdict | None:
        probing = self.probing
        self.close()
        return Verdict(False, "other", str(error).lower() or type(error).__name__) if probing else None

    def close(self) -> None:
        sock = self._socket
        if sock is None:
            return
        if self.loop.targets.pop(self._fd, None) is not None and self.loop.spawns:
            self.loop.epoll.unregister(self._fd)
        self._socket = None
        self._fd = -1
        self.stage = IDLE
        sock.close()


def _word(error: Exception) -> str:
    """The system's words for an error, in lower case like all reasons."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error).lower()
