"""Telling others of transitions: a webhook, a command, a function. Each is told by a thread of its own, with patience.

What is told is one JSON document for each transition:

    {"id": "5d0c...", "upstream": "shop", "peer": "10.0.0.7:8080", "role": "primary", "check": "http port 8081",
     "from": "up", "to": "down", "why": "status 503, want 200-399", "since": "2026-11-22T12:01:33.120Z",
     "at": "2026-11-22T13:45:00.123Z", "node": "lb1", "upwell": "0.1.0"}

`since` says when the state before began (null: not known). A webhook gets it as a POST, a command on its standard input
(and as UPWELL_UPSTREAM, UPWELL_PEER, UPWELL_CHECK, UPWELL_FROM, UPWELL_TO, UPWELL_WHY, UPWELL_AT), a function as a
dictionary. Delivered is what is answered by 2xx, ends with status 0, returns. Retries have the same `id`.
"""

from __future__ import annotations

import base64
import json
import os
import random
import select
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from upwell.check.functions import Call, NoThread, resolve, words_of
from upwell.check.listener import Listener, Turn, rfc3339
from upwell.check.match import is_whole, status_of
from upwell.check.spec import NotifySpec
from upwell.log import ERROR, NOTICE, WARN, ErrorLog
from upwell.version import VERSION

WAITING: Final = 1000
"""Transitions that wait for one receiver; beyond it the oldest is dropped."""

_FIRST_PAUSE = 1.0  # seconds before the first retry; then twice as long each time
_LONGEST_PAUSE = 60.0
_LONGEST_ANSWER = 65536
_AGAIN = frozenset((408, 425, 429))  # 4xx that may be otherwise the next time


class NotDelivered(Exception):
    """A receiver was not told; `final`: another try would be of no use."""

    def __init__(self, words: str, final: bool = False) -> None:
        super().__init__(words)
        self.final = final


Deliver = Callable[[Mapping[str, Any], float], None]
"""Tell one document within so many seconds. Raises NotDelivered."""


class Notifier(Listener):
    """`targets` are the receivers of each upstream by its name; upstreams share those that are equal."""

    __slots__ = ("_all", "_channels")

    def __init__(self, targets: Mapping[str, Sequence[NotifySpec]], log: ErrorLog) -> None:
        super().__init__(log)
        channels = {spec: Channel(spec, self.say) for specs in targets.values() for spec in specs}
        self._all = tuple(channels.values())
        self._channels = {
            upstream: tuple(channels[spec] for spec in dict.fromkeys(specs)) for upstream, specs in targets.items()
        }
        self.spawns = any(not spec.url for spec in channels)

    def turned(self, turn: Turn) -> None:
        wall = time.time()
        for channel in self._channels.get(turn.key[0], ()):
            channel.put(turn, wall)

    def end(self, deadline: float) -> None:
        for channel in self._all:
            channel.end(deadline)

    def close(self) -> None:
        for channel in self._all:
            channel.join()
        super().close()


class _Waiting:
    """One document to be, and when it shall be told (`time.monotonic`)."""

    __slots__ = ("due", "turn", "wall", "was_up")

    def __init__(self, turn: Turn, wall: float, due: float) -> None:
        self.turn = turn
        self.wall = wall
        self.due = due
        self.was_up = not turn.up


class Channel:
    """One receiver and the thread that tells it, which begins with the first transition."""

    __slots__ = (
        "_closing",
        "_deliver",
        "_dropping",
        "_lost",
        "_news",
        "_say",
        "_serial",
        "_spec",
        "_thread",
        "_until",
        "_waiting",
    )

    def __init__(self, spec: NotifySpec, say: Callable[[int, str], None]) -> None:
        self._spec = spec
        self._say = say
        self._deliver = _deliver_of(spec)
        self._news = threading.Condition()
        self._waiting: OrderedDict[object, _Waiting] = OrderedDict()  # the first due first
        self._serial = 0
        self._thread: threading.Thread | None = None
        self._closing = False
        self._until = 0.0  # when closing
        self._dropping = False  # transitions, since the queue is full
        self._lost = 0  # since the last delivery

    def __repr__(self) -> str:
        return f"<Channel {self._spec.title} {len(self._waiting)} waiting>"

    def put(self, turn: Turn, wall: float) -> None:
        """Tell of `turn`, which happened at `wall`; later."""
        debounce = self._spec.debounce
        with self._news:
            if debounce:
                key: object = (turn.key, turn.identity)
                earlier = self._waiting.get(key)
                if earlier is not None:
                    # What is told in the end is the step from the state that was told last.
                    earlier.turn = turn._replace(since=earlier.turn.since)
                    earlier.wall = wall
                    return
            else:
                key = self._serial = self._serial + 1
            if len(self._waiting) >= WAITING:
                self._waiting.popitem(last=False)
                self._lost += 1
                if not self._dropping:
                    self._dropping = True
                    self._warn(f"more than {WAITING} transitions wait, the oldest are dropped")
            self._waiting[key] = _Waiting(turn, wall, time.monotonic() + debounce)
            if self._thread is None:
                self._start()
            self._news.notify()

    def end(self, deadline: float) -> None:
        """Tell now what waits, with one try each."""
        with self._news:
            self._closing = True
            self._until = deadline
            self._news.notify()

    def join(self) -> None:
        """Wait for the end."""
        if self._thread is not None:
            self._thread.join(max(self._until - time.monotonic(), 0.0))
            with self._news:
                left = len(self._waiting) + self._thread.is_alive()
            if left:
                self._warn(f"{left} transitions could not be told before the end")

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="upwell-notify", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._warn(str(error))  # the next transition tries again
        else:
            self._thread = thread

    def _run(self) -> None:
        while (item := self._next()) is not None:
            document = document_of(item)
            try:
                self._try(document)
            except NotDelivered as error:
                if not self._lost:
                    self._say(ERROR, f"health_check_notify {self._spec.title}: not delivered: {error}")
                self._lost += 1
            else:
                if self._lost:
                    self._say(NOTICE, f"health_check_notify {self._spec.title}: delivers again, {self._lost} are lost")
                self._lost = 0

    def _next(self) -> _Waiting | None:
        with self._news:
            while True:
                if not self._waiting:
                    self._dropping = False
                    if self._closing:
                        return None
                    self._news.wait()
                    continue
                first = next(iter(self._waiting.values()))
                pause = first.due - time.monotonic()
                if pause > 0 and not self._closing:
                    self._news.wait(pause)
                    continue
                self._waiting.popitem(last=False)
                if first.turn.up != first.was_up:
                    return first

    def _try(self, document: Mapping[str, Any]) -> None:
        """Deliver, with retries. Raises NotDelivered."""
        tries = 0
        while True:
            timeout = self._spec.timeout
            if self._closing:
                timeout = min(timeout, max(self._until - time.monotonic(), 0.001))
            try:
                self._once(document, timeout)
                return
            except NotDelivered as error:
                if error.final or tries >= self._spec.retries:
                    raise
                pause = min(_FIRST_PAUSE * 2**tries, _LONGEST_PAUSE)
                # Not all at once, when many proxies have lost the same receiver. No secret hangs on it.
                pause *= 0.5 + 0.5 * random.random()
                with self._news:
                    if self._closing or self._news.wait_for(lambda: self._closing, pause):
                        raise
            tries += 1

    def _once(self, document: Mapping[str, Any], timeout: float) -> None:
        """Raises NotDelivered, and nothing else: the thread is the only one that this receiver has."""
        try:
            self._deliver(document, timeout)
        except NotDelivered:
            raise
        except Exception as error:
            raise NotDelivered(words_of(error)) from error

    def _warn(self, words: str) -> None:
        self._say(WARN, f"health_check_notify {self._spec.title}: {words}")


def document_of(item: _Waiting) -> dict[str, Any]:
    turn = item.turn
    upstream, role, peer, _ = turn.key
    states = ("down", "up")
    return {
        "id": uuid4().hex,
        "upstream": upstream,
        "peer": peer,
        "role": role,
        "check": turn.spec.title,
        "from": states[item.was_up],
        "to": states[turn.up],
        "why": turn.why,
        "since": rfc3339(item.wall - (turn.at - turn.since) / 1000) if turn.since else None,
        "at": rfc3339(item.wall),
        "node": socket.gethostname(),
        "upwell": VERSION,
    }


def _deliver_of(spec: NotifySpec) -> Deliver:
    if spec.url:
        return Webhook(spec.url)
    return Command(spec.command) if spec.command else Function(spec.function)


class Webhook:
    """POST over a connection of its own. Redirects are not followed, the system's proxies not used."""

    __slots__ = ("_address", "_head", "_name", "_tls")

    def __init__(self, url: str) -> None:
        self._tls: ssl.SSLContext | None = None
        parts = urlsplit(url)
        host = parts.hostname or ""
        self._name = host if parts.scheme == "https" else ""
        self._address = (host, parts.port or (443 if parts.scheme == "https" else 80))
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        user, at, where = parts.netloc.rpartition("@")
        lines = [
            f"POST {target} HTTP/1.1",
            f"Host: {where}",
            f"User-Agent: upwell/{VERSION} (health check)",
            "Content-Type: application/json",
            "Connection: close",
        ]
        if at:
            name, _, password = user.partition(":")
            secret = f"{unquote(name)}:{unquote(password)}".encode()
            lines.append(f"Authorization: Basic {base64.b64encode(secret).decode()}")
        self._head = "\r\n".join(lines).encode()

    def __call__(self, document: Mapping[str, Any], timeout: float) -> None:
        content = json.dumps(document).encode()
        deadline = time.monotonic() + timeout
        try:
            with socket.create_connection(self._address, timeout) as plain, self._secure(plain, deadline) as sock:
                sock.settimeout(_left(deadline))
                sock.sendall(b"%b\r\nContent-Length: %d\r\n\r\n%b" % (self._head, len(content), content))
                status = self._read(sock, deadline)
        except TimeoutError as error:
            raise NotDelivered(f"timeout after {timeout:g} s") from error
        except ssl.SSLCertVerificationError as error:
            raise NotDelivered(f"certificate not trusted: {error.verify_message}") from error
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror or str(error) or type(error).__name__
            raise NotDelivered(str(reason).lower()) from error
        except ValueError as error:  # a host name that is none
            raise NotDelivered(words_of(error), final=True) from error
        if not 200 <= status < 300:
            raise NotDelivered(f"status {status}" if status else "no HTTP", final=status < 500 and status not in _AGAIN)

    def _secure(self, plain: socket.socket, deadline: float) -> socket.socket:
        if not self._name:
            return plain
        if self._tls is None:
            self._tls = ssl.create_default_context()  # here, because to read the system's authorities takes a while
        plain.settimeout(_left(deadline))
        return self._tls.wrap_socket(plain, server_hostname=self._name)

    def _read(self, sock: socket.socket, deadline: float) -> int:
        """The status of the answer, which is read to its end if that is near."""
        data = b""
        status = 0
        while len(data) < _LONGEST_ANSWER:
            try:
                sock.settimeout(_left(deadline))
                piece = sock.recv(16384)
            except OSError:
                if status:
                    break
                raise
            data += piece
            while not status and b"\n" in data:
                found = status_of(data[: data.index(b"\n")])
                if found // 100 != 1:
                    status = found
                    break
                _, end, rest = data.partition(b"\r\n\r\n")  # an interim answer; the real one follows
                if not end:
                    break
                data = rest
            if not piece or (status and is_whole(data, False)):
                break
            if not status and b"\n" in data and status_of(data) == 0:
                break  # no HTTP
        if not status and not data:
            raise ConnectionError("connection closed without an answer")
        return status


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class Command:
    """A process in a session of its own, whose whole group is killed when the time is up."""

    __slots__ = ("_command",)

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command

    def __call__(self, document: Mapping[str, Any], timeout: float) -> None:
        names = ("upstream", "peer", "check", "from", "to", "why", "at")
        environment = {f"UPWELL_{name.upper()}": str(document[name]) for name in names}
        environment["PATH"] = os.environ.get("PATH") or os.defpath
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise NotDelivered(f"cannot run {self._command[0]}: {words_of(error)}") from error
        assert process.stdin is not None
        try:
            # A pipe takes a document whole; a command may have ended without reading it.
            with suppress(OSError), process.stdin:
                process.stdin.write(json.dumps(document).encode() + b"\n")
            code = process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise NotDelivered(f"timeout after {timeout:g} s") from error
        finally:
            if process.returncode is None:
                _kill(process.pid)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(1.0)
        if code:
            raise NotDelivered(f"exit {code}" if code > 0 else f"killed by signal {-code}")


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


class Function:
    """A function in a thread or awaited, as for a probe; while one call that took too long goes on, there is no other.

    It is imported when the checker starts. That it cannot be, is told at each transition.
    """

    __slots__ = ("_call", "_function", "_title", "_wrong")

    def __init__(self, function: str) -> None:
        self._title = function
        self._call: Call | None = None
        self._wrong = ""
        try:
            self._function = resolve(function)
        except ValueError as error:
            self._wrong = str(error)

    def __call__(self, document: Mapping[str, Any], timeout: float) -> None:
        if self._wrong:
            raise NotDelivered(self._wrong, final=True)
        if self._call is not None and self._call.outcome is None:
            raise NotDelivered("an earlier call is still running")
        fd = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            self._call = call = Call(self._function, dict(document), fd, self._title, "notify")
            call.start()
            waiting = select.poll()
            waiting.register(fd, select.POLLIN)
            waiting.poll(timeout * 1000)
            call.give_up()
        except NoThread as error:
            self._call = None
            raise NotDelivered(str(error)) from error
        finally:
            os.close(fd)
        if call.outcome is None or not call.begun:
            raise NotDelivered(f"timeout after {timeout:g} s")
        _, wrong = call.outcome
        if wrong is not None:
            raise NotDelivered(words_of(wrong))
