"""Functions of the user's, "module:name": found, and run where they can hold up nobody. Knows no check and no peer.

Ordinary ones run in threads, `async` ones in one event loop in a thread of its own. A thread cannot be ended from
outside: a call that takes too long is given up, and its thread comes back when it does. All threads are daemons, so
none of them keeps the process.
"""

from __future__ import annotations

import importlib
import inspect
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

MOST_THREADS = 512
"""Of a process, with those of calls that were given up."""
_LONGEST = 200  # letters of what a function says


class NoThread(Exception):
    """No thread is to be had."""


def resolve(function: str) -> Callable[..., Any]:
    """The function called "module:name" or "module:name.attribute". Raises ValueError, with all in its sentence."""
    module, _, path = function.partition(":")
    try:
        found: Any = importlib.import_module(module)
    # SystemExit too: whatever a module does while it is imported, it is not the end of the process.
    except BaseException as error:
        raise ValueError(f"cannot import {module}: {words_of(error)}") from None
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ValueError(f'no "{path}" in module {module}') from None
    if not callable(found):
        raise ValueError(f"{function} is not a function")
    return found  # type: ignore[no-any-return]  # callable() has looked


def is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def words_of(error: BaseException) -> str:
    """An exception in one line, cut off where it is too long: "ValueError: no such shop"."""
    try:
        text = str(error)
    except Exception:
        text = ""
    name = type(error).__name__
    return one_line(f"{name}: {text}" if text else name)


def one_line(text: str) -> str:
    """`text` for a log line or a page."""
    text = " ".join(text[: 4 * _LONGEST].split())[:_LONGEST]
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class Call:
    """One call of a function. Its `outcome` (what it returned, or raised) is there once it is over: then the eventfd
    `fd` is written to, unless the call was given up before. `begun` says whether the function was reached yet."""

    __slots__ = ("_fd", "_lock", "_task", "argument", "begun", "function", "outcome")

    def __init__(self, function: Callable[..., Any], argument: object, fd: int) -> None:
        self.function = function
        self.argument = argument
        self.begun = False
        self.outcome: tuple[Any, BaseException | None] | None = None
        self._lock = threading.Lock()
        self._fd = fd
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Raises NoThread."""
        if is_async(self.function):
            _event_loop(os.getpid()).call_soon_threadsafe(self._begin)
        else:
            _threads(os.getpid()).submit(self._run)

    def give_up(self) -> None:
        """Nobody waits any more: an `async` function is cancelled, one that has not begun never will."""
        with self._lock:
            self._fd = -1
            if not self.begun:
                self.outcome = (None, None)
        if self._task is not None:
            _event_loop(os.getpid()).call_soon_threadsafe(self._task.cancel)

    def _may_begin(self) -> bool:
        with self._lock:
            if self.outcome is None:
                self.begun = True
            return self.begun

    def _run(self) -> None:
        """In a thread of the pool."""
        if not self._may_begin():
            return
        try:
            value = self.function(self.argument)
        except BaseException as error:
            self._over(None, error)
            return
        if inspect.isawaitable(value):
            _event_loop(os.getpid()).call_soon_threadsafe(self._go_on, value)
        else:
            self._over(value, None)

    def _begin(self) -> None:
        """In the event loop."""
        if not self._may_begin():
            return
        try:
            awaitable = self.function(self.argument)
        except BaseException as error:
            self._over(None, error)
        else:
            self._go_on(awaitable)

    def _go_on(self, awaitable: Awaitable[Any]) -> None:
        self._task = _event_loop(os.getpid()).create_task(self._await(awaitable))

    async def _await(self, awaitable: Awaitable[Any]) -> None:
        try:
            value = await awaitable
        except BaseException as error:
            self._over(None, error)
        else:
            self._over(value, None)

    def _over(self, value: Any, error: BaseException | None) -> None:
        if error is not None:
            error.__traceback__ = None  # nothing of the call is to live on
        with self._lock:
            self.outcome = (value, error)
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)


class Threads:
    """Threads that wait for work; another one begins when all are busy, up to `most`."""

    __slots__ = ("_count", "_idle", "_lock", "_most", "_work")

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._idle = 0
        self._lock = threading.Lock()
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def __repr__(self) -> str:
        return f"<Threads {self._count - self._idle} busy, {self._idle} idle>"

    def submit(self, job: Callable[[], None]) -> None:
        """Have `job`, which raises nothing, run now. Raises NoThread."""
        with self._lock:
            if self._idle:
                self._idle -= 1
                self._work.put(job)
                return
            if self._count >= self._most:
                raise NoThread(f"{self._most} threads are busy")
            self._count += 1
        try:
            threading.Thread(target=self._live, args=(job,), name="upwell-function", daemon=True).start()
        except RuntimeError as error:
            with self._lock:
                self._count -= 1
            raise NoThread(str(error)) from error

    def _live(self, job: Callable[[], None]) -> None:
        while True:
            job()
            del job  # what it was about is not kept while waiting
            with self._lock:
                self._idle += 1
            job = self._work.get()


_STARTING = threading.Lock()


# By process: after a fork neither threads nor a running loop are there.


@cache
def _threads(pid: int) -> Threads:
    return Threads(MOST_THREADS)


def _event_loop(pid: int) -> asyncio.AbstractEventLoop:
    with _STARTING:
        return _running_loop(pid)


@cache
def _running_loop(pid: int) -> asyncio.AbstractEventLoop:
    import asyncio  # a checker without such functions does without it

    loop = asyncio.new_event_loop()
    try:
        threading.Thread(target=loop.run_forever, name="upwell-async", daemon=True).start()
    except RuntimeError as error:
        loop.close()
        raise NoThread(str(error)) from error
    return loop


def import_trial(function: str, become: Callable[[], None], patience: float = 10.0) -> str:
    """What `resolve(function)` says in a process that did `become` first; "" if all is well.

    The trial is a fork, so that the caller (a master that goes on for years, as root) never runs the user's code, and
    each new checker imports what is in the files then.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if not pid:
        said = "the import did not come to its end"
        with suppress(BaseException):
            said = _try(function, become)
        with suppress(BaseException):
            os.write(writer, said.encode("utf-8", "replace")[:4096])
        os._exit(0)
    os.close(writer)
    try:
        return _hear(reader, patience)
    finally:
        import signal

        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)


def _try(function: str, become: Callable[[], None]) -> str:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    become()
    try:
        resolve(function)
    except ValueError as error:
        return str(error)
    return "ok"


def _hear(reader: int, patience: float) -> str:
    import select

    waiting = select.poll()
    waiting.register(reader, select.POLLIN)
    if not waiting.poll(patience * 1000):
        return f"the import takes longer than {patience:g} s"
    said = os.read(reader, 4096).decode("utf-8", "replace")
    if said == "ok":
        return ""
    return said or "the import ended the process"
