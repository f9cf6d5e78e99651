"""The probe of type "python": a function of the user's is called for each peer. Knows functions, no socket.

    def shop_is_open(peer):             # or: async def
        with socket.create_connection(peer.address, timeout=1) as sock:
            ...
        if queue > 100:
            return f"{queue} orders are waiting"

It gets a `CheckedPeer`. Returning None or True passes, False or a text (the reason) fails, and so does raising. It is
looked for where Python looks, and then in the prefix (`-p`), and imported by the checker when the check is made, as the
user that workers run as; a reload (HUP) imports it anew. An ordinary function runs in a thread, an `async` one in an
event loop that all calls of this function share, and which it should not block: a call that was held up by another one
says nothing about its peer, and so does one for which this machine had no descriptor, memory or port. It shares the
checker's processor time with all other probes: what needs much of it is better a command (`exec`).

A function that is not back in time is given up (an `async` one is cancelled), and the peer has failed. As long as it is
still going, each further probe fails at once and says so.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from errno import EADDRNOTAVAIL, ENETDOWN
from select import EPOLLIN
from typing import Any

from upwell.check.functions import Call, NoThread, one_line, resolve, words_of
from upwell.check.probe import Verdict
from upwell.check.spec import CheckSpec
from upwell.check.target import IDLE, TALKING, Loop, NoSocket, Place, Target, timed_out
from upwell.errors import SHORTAGES
from upwell.peers.peer import PeerSpec

AT_ONCE = 32
"""Calls for one check at once, unless it says otherwise."""

_OURS = SHORTAGES | {EADDRNOTAVAIL, ENETDOWN}
"""Numbers of an OSError that say nothing about the peer."""


@dataclass(frozen=True, slots=True)
class CheckedPeer:
    """What a function is told: the upstream's name, the peer's name, the address to ask at (("host", port) or the path
    of a Unix socket; the port is the check's if it has one) and the text of the peer's `server` line."""

    upstream: str
    name: str
    address: tuple[str, int] | str
    server: str


class PythonTarget(Target):
    """An eventfd tells the loop that a call is over; there is one for each call that is waited for."""

    __slots__ = ("_call", "_called", "_fd", "_function", "_peer", "_spared", "_title", "_whose", "_wrong")

    def __init__(self, spec: CheckSpec, peer: PeerSpec, place: Place, loop: Loop) -> None:
        super().__init__(spec, peer, place, loop)
        loop.spawns = True  # who knows what the function does
        address = peer.address
        if spec.port and not isinstance(address, str):
            address = (address[0], spec.port)
        self._peer = CheckedPeer(spec.upstream, peer.name, address, peer.server)
        self._title = spec.function
        self._whose = spec.identity
        self._wrong = ""
        try:
            self._function = resolve(spec.function)
        except ValueError as error:
            self._wrong = str(error)
        self._call: Call | None = None  # that goes on, waited for or not
        self._called = 0.0  # when it began
        self._fd = -1
        self._spared = False

    def __repr__(self) -> str:
        return f"<PythonTarget {self.name} {'running' if self._fd >= 0 else 'idle'}>"

    def start(self, now: float) -> Verdict | None:
        self.started = now
        call = self._call
        if call is not None and call.outcome is None and not call.lost:
            if call.blocker:
                raise self._blocked(call)
            return Verdict(False, "timeout", f"still running since {now - self._called:.0f} s")
        self._call = None
        self._spared = False
        self.deadline = now + self.timeout
        if self._wrong:
            return Verdict(False, "function", self._wrong)
        try:
            self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as error:
            raise NoSocket(os.strerror(error.errno or 0).lower(), "call a function") from error
        try:
            self.loop.epoll.register(self._fd, EPOLLIN)
        except OSError as error:
            os.close(self._fd)
            self._fd = -1
            raise NoSocket(os.strerror(error.errno or 0).lower(), "watch a call") from error
        self.loop.targets[self._fd] = self
        self.stage = TALKING
        call = Call(self._function, self._peer, self._fd, self._title, whose=self._whose)
        try:
            call.start()
        except NoThread as lacking:
            self._let_go()
            raise NoSocket(str(lacking), "call a function") from lacking
        self._call = call
        self._called = now
        return None

    def ready(self, fd: int, events: int, now: float) -> Verdict | None:
        call = self._call
        if call is None or call.outcome is None or self._fd < 0:
            return None
        value, error = call.outcome
        self._call = None
        self._let_go()
        if isinstance(error, NoThread):
            # A plain function that gave something to await, and no event loop was free for it.
            raise NoSocket(str(error), "call a function")
        if isinstance(error, OSError) and error.errno in _OURS:
            raise NoSocket(os.strerror(error.errno).lower(), f"call {self._title}")
        return judge(value, error)

    def expire(self, now: float) -> Verdict | None:
        """Raises NoSocket if it was another call that took the time."""
        call = self._call
        if call is not None and call.blocker:
            self.close()
            raise self._blocked(call)
        if call is not None and call.delayed > 0 and not self._spared:
            # What others took away is given back, once.
            self._spared = True
            self.deadline = now + min(call.delayed, self.timeout)
            return None
        begun = call is not None and call.begun
        self.close()
        if not begun:
            raise NoSocket("no thread came to it in time", f"call {self._title}")
        return Verdict(False, "timeout", timed_out(self.timeout, f"running {self._title}"))

    def _blocked(self, call: Call) -> NoSocket:
        return NoSocket(f"{call.blocker} blocks the event loop", f"call {self._title}")

    def broken(self, error: Exception, now: float) -> Verdict | None:
        probing = self.probing
        self.close()
        return Verdict(False, "other", words_of(error)) if probing else None

    def close(self) -> None:
        """Give the call up; that it may go on is remembered."""
        if self._fd < 0:
            return
        if self._call is not None:
            self._call.give_up()
        self._let_go()

    def _let_go(self) -> None:
        del self.loop.targets[self._fd]
        self.loop.epoll.unregister(self._fd)
        os.close(self._fd)
        self._fd = -1
        self.stage = IDLE


def judge(value: Any, error: BaseException | None) -> Verdict:
    """What a function returned or raised, as a verdict."""
    if error is not None:
        return Verdict(False, "function", words_of(error))
    if value is None or value is True:
        return Verdict(True)
    if value is False:
        return Verdict(False, "function", "returned False")
    if isinstance(value, str) and value.strip():
        return Verdict(False, "function", one_line(value))
    return Verdict(False, "function", f"returned {one_line(type(value).__name__)}, want None, True, False or a text")
