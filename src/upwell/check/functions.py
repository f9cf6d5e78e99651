"""Functions of the user's, "module:name": found, and run where they can hold up nobody. Knows no check and no peer.

Ordinary ones run in threads, `async` ones in event loops, of which each function has its own: one that blocks holds up
no other. A thread cannot be ended from outside: a call that takes too long is given up, and its thread comes back when
it does; a loop that such a call blocks is replaced. All threads are daemons, so none of them keeps the process.
"""

from __future__ import annotations

import importlib
import inspect
import os
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from functools import cache
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

MOST_THREADS = 512
"""Of a process, with those of calls that were given up."""
MOST_LOOPS = 64
"""Event loops of a process, with those that are blocked; more functions than that share them."""
_HELD = 0.05  # seconds; a loop that one call holds for less has delayed nobody
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
    """One call of a function, for `whose` sake (a check's). Its `outcome` (what it returned, or raised) is there once
    it is over: then the eventfd `fd` is written to, unless the call was given up before. `begun` says whether the
    function was reached yet. `title` is the function's name; calls of one `kind` and title have one event loop."""

    __slots__ = (
        "_before",
        "_cancelling",
        "_fd",
        "_lock",
        "_loop",
        "_own",
        "_task",
        "argument",
        "begun",
        "function",
        "kind",
        "outcome",
        "title",
        "whose",
    )

    def __init__(
        self,
        function: Callable[..., Any],
        argument: object,
        fd: int,
        title: str = "",
        kind: str = "",
        whose: object = None,
    ) -> None:
        self.function = function
        self.argument = argument
        self.title = title
        self.kind = kind
        self.whose = whose
        self.begun = False
        self.outcome: tuple[Any, BaseException | None] | None = None
        self._lock = threading.Lock()
        self._fd = fd
        self._cancelling = False
        self._task: asyncio.Task[None] | None = None
        self._loop: EventLoop | None = None
        self._before = 0.0  # how long the loop had been held in all when this call came to it
        self._own = 0.0  # how long this call itself held it

    def start(self) -> None:
        """Raises NoThread."""
        if is_async(self.function):
            self._enter().call(self._begin)
        else:
            _threads(os.getpid()).submit(self._run, self.whose)

    def give_up(self) -> None:
        """Nobody waits any more: an `async` function is cancelled, one that has not begun never will."""
        with self._lock:
            self._fd = -1
            if not self.begun:
                self.outcome = (None, None)
        self._cancelling = True
        if self._loop is not None:
            self._loop.call(self._cancel)

    def _cancel(self) -> None:
        """In the event loop: after the first step of a task that is just made, or all of it would never run."""
        if self._loop is not None:
            self._loop.loop.call_soon(self._cancel_task)

    def _cancel_task(self) -> None:
        # Where a step came first, that has done it.
        if self._task is not None and self.is_cancelled():
            self._task.cancel()

    def is_cancelled(self) -> bool:
        """Whether it is to be cancelled now: said once."""
        cancelled, self._cancelling = self._cancelling, False
        return cancelled

    @property
    def given_up(self) -> bool:
        return self._fd < 0

    @property
    def blocker(self) -> str:
        """The function of another call that blocks this one now; "" if there is none."""
        held = self._loop.holder if self._loop is not None else None
        return held.title if held is not None and held is not self else ""

    @property
    def lost(self) -> bool:
        """Whether another call that nobody waits for blocks its event loop. The next call gets another loop, and this
        one, given up, is cancelled before it goes on."""
        return self._loop is not None and self._loop.blocked and bool(self.blocker)

    @property
    def delayed(self) -> float:
        """For how many seconds other calls have held the loop since this one was there."""
        return self._loop.lag - self._before - self._own if self._loop is not None else 0.0

    def _enter(self) -> EventLoop:
        self._loop = loop = _event_loops(os.getpid()).of(self.kind, self.title)
        self._before = loop.lag
        return loop

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
            if inspect.isawaitable(value):
                self._enter().call(self._go_on, value)
                return
        except BaseException as error:
            self._over(None, error)
            return
        self._over(value, None)

    def _begin(self) -> None:
        """In the event loop."""
        assert self._loop is not None
        self._task = self._loop.loop.create_task(self._live())

    async def _live(self) -> None:
        # All in the task, which others may keep from its first step: only there it has begun.
        loop = self._loop
        assert loop is not None
        if not self._may_begin():
            loop.less()
            return
        loop.hold(self)
        try:
            awaitable = self.function(self.argument)
        except BaseException as error:
            self._over(None, error)
            loop.less()
            return
        finally:
            self._own += loop.release()
        await self._await(awaitable)

    def _go_on(self, awaitable: Awaitable[Any]) -> None:
        assert self._loop is not None
        self._task = self._loop.loop.create_task(self._await(awaitable))

    async def _await(self, awaitable: Awaitable[Any]) -> None:
        loop = self._loop
        assert loop is not None
        try:
            value = await _Steps(self, loop, awaitable)
        except BaseException as error:
            self._over(None, error)
        else:
            self._over(value, None)
        finally:
            loop.less()

    def took(self, seconds: float) -> None:
        """This call itself held the loop."""
        self._own += seconds

    def _over(self, value: Any, error: BaseException | None) -> None:
        if error is not None:
            error.__traceback__ = None  # nothing of the call is to live on
        with self._lock:
            self.outcome = (value, error)
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)


class _Steps:
    """An awaitable, of which each step is noted in the loop: who it is that holds it."""

    __slots__ = ("_awaitable", "_call", "_inner", "_loop")

    def __init__(self, call: Call, loop: EventLoop, awaitable: Awaitable[Any]) -> None:
        self._call = call
        self._loop = loop
        self._awaitable = awaitable
        self._inner = _awaiting(awaitable).__await__()

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self)

    def __iter__(self) -> _Steps:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        if self._call.is_cancelled():
            return self._cancel()
        self._loop.hold(self._call)
        try:
            return self._inner.send(value)
        finally:
            self._call.took(self._loop.release())

    def _cancel(self) -> Any:
        """As `Task.cancel` does it, which would come after the steps that are due already."""
        import asyncio

        if inspect.iscoroutine(self._awaitable) and inspect.getcoroutinestate(self._awaitable) == inspect.CORO_CREATED:
            self._awaitable.close()  # else Python complains that nobody has awaited it
        return self.throw(asyncio.CancelledError())

    def throw(self, *error: Any) -> Any:
        self._loop.hold(self._call)
        try:
            return self._inner.throw(*error)
        finally:
            self._call.took(self._loop.release())

    def close(self) -> None:
        self._inner.close()


async def _awaiting(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


class EventLoop:
    """An event loop in a thread of its own. `held` is the call that has it now; `lag` is for how many seconds calls
    have held it in all, if it was for long. Once `replaced`, it ends with the last of its calls."""

    __slots__ = ("_calls", "_lock", "_since", "held", "kind", "lag", "loop", "replaced")

    def __init__(self, kind: str) -> None:
        """Raises NoThread."""
        import asyncio  # a checker without such functions does without it

        self.kind = kind
        try:
            self.loop = asyncio.new_event_loop()
        except OSError as lacking:  # it takes three descriptors
            raise NoThread(os.strerror(lacking.errno or 0).lower()) from lacking
        self.held: Call | None = None
        self.lag = 0.0
        self.replaced = False
        self._since = 0.0
        self._calls = 0
        self._lock = threading.Lock()
        try:
            threading.Thread(target=self._live, name="upwell-async", daemon=True).start()
        except RuntimeError as error:
            self.loop.close()
            raise NoThread(str(error)) from error

    def __repr__(self) -> str:
        return f"<EventLoop {self._calls} calls>"

    @property
    def calls(self) -> int:
        return self._calls

    @property
    def blocked(self) -> bool:
        """Whether a call holds it that nobody waits for any more."""
        held = self.holder
        return held is not None and held.given_up

    @property
    def holder(self) -> Call | None:
        """The call that has held it for a while."""
        held = self.held
        return held if held is not None and time.monotonic() - self._since > _HELD else None

    @property
    def ended(self) -> bool:
        return self.loop.is_closed()

    def more(self) -> None:
        """One more call."""
        with self._lock:
            self._calls += 1

    def less(self) -> None:
        """A call is over."""
        with self._lock:
            self._calls -= 1
            last = self.replaced and not self._calls
        if last:
            self.loop.call_soon_threadsafe(self.loop.stop)

    def replace(self) -> None:
        """Another one takes over from now on."""
        with self._lock:
            self.replaced = True
            last = not self._calls
        if last:
            self.loop.call_soon_threadsafe(self.loop.stop)

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        with suppress(RuntimeError):  # it has ended, and so have all of its calls
            self.loop.call_soon_threadsafe(function, *arguments)

    def hold(self, call: Call) -> None:
        self._since = time.monotonic()
        self.held = call

    def release(self) -> float:
        """For how long it was held, 0.0 if it was for a moment."""
        self.held = None
        seconds = time.monotonic() - self._since
        if seconds < _HELD:
            return 0.0
        self.lag += seconds
        return seconds

    def _live(self) -> None:
        self.loop.run_forever()
        self.loop.close()


class EventLoops:
    """One for each function (by kind and name), `most` in all; if there are more, those of one kind share."""

    __slots__ = ("_all", "_by_name", "_lock", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._by_name: dict[tuple[str, str], EventLoop] = {}
        self._all: list[EventLoop] = []

    def __repr__(self) -> str:
        return f"<EventLoops {len(self._all)}>"

    def of(self, kind: str, title: str) -> EventLoop:
        """The loop for one more call, which is counted in it. Raises NoThread."""
        with self._lock:
            loop = self._by_name.get((kind, title))
            if loop is None or loop.replaced or loop.blocked:
                loop = self._by_name[kind, title] = self._another(kind, loop)
            loop.more()
            return loop

    def _another(self, kind: str, blocked: EventLoop | None) -> EventLoop:
        self._all = [loop for loop in self._all if not loop.ended]
        if len(self._all) < self._most:
            loop = EventLoop(kind)
            self._all.append(loop)
            if blocked is not None:
                blocked.replace()
            return loop
        others = [loop for loop in self._all if loop.kind == kind and not loop.replaced and not loop.blocked]
        if not others:
            raise NoThread(f"{self._most} event loops are blocked")
        return min(others, key=lambda loop: loop.calls)


class Threads:
    """Threads that wait for work; another one begins when all are busy, up to `most`.

    The jobs of one (`whose`) may hold as many threads as are left to all others. Jobs that never end so take half of
    them and not all, those of the next one half of the rest: who has a few is always let in.
    """

    __slots__ = ("_busy", "_count", "_idle", "_lock", "_most", "_work")

    def __init__(self, most: int) -> None:
        self._most = most
        self._busy: dict[object, int] = {}
        self._count = 0
        self._idle = 0
        self._lock = threading.Lock()
        self._work: SimpleQueue[tuple[Callable[[], None], object]] = SimpleQueue()

    def __repr__(self) -> str:
        return f"<Threads {self._count - self._idle} busy, {self._idle} idle>"

    def submit(self, job: Callable[[], None], whose: object = None) -> None:
        """Have `job`, which raises nothing, run now. Raises NoThread."""
        with self._lock:
            mine = self._busy.get(whose, 0)
            free = self._most - self._count + self._idle
            if not free:
                raise NoThread(f"{self._most} threads are busy")
            if whose is not None and mine >= free:
                raise NoThread("calls that have not come back hold its share of the threads")
            self._busy[whose] = mine + 1
            if self._idle:
                self._idle -= 1
                self._work.put((job, whose))
                return
            self._count += 1
        try:
            threading.Thread(target=self._live, args=(job, whose), name="upwell-function", daemon=True).start()
        except RuntimeError as error:
            with self._lock:
                self._count -= 1
                self._over(whose)
            raise NoThread(str(error)) from error

    def _live(self, job: Callable[[], None], whose: object) -> None:
        while True:
            job()
            del job  # what it was about is not kept while waiting
            with self._lock:
                self._idle += 1
                self._over(whose)
            job, whose = self._work.get()

    def _over(self, whose: object) -> None:
        left = self._busy[whose] - 1
        if left:
            self._busy[whose] = left
        else:
            del self._busy[whose]


# By process: after a fork neither threads nor a running loop are there.


@cache
def _threads(pid: int) -> Threads:
    return Threads(MOST_THREADS)


@cache
def _event_loops(pid: int) -> EventLoops:
    return EventLoops(MOST_LOOPS)


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
