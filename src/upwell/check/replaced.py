"""A file that a thread replaces, whole and at once: a new one takes the old one's name. Knows nothing of what is in it.

Whoever has something new says so and goes on; the file is written a moment later, once for all that came meanwhile. One
that cannot be written stops nobody: it is said once, tried again, and said once when it is written again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from upwell.log import ERROR, NOTICE

REST: Final = 1.0
"""Seconds at least between two writes of a file."""
_AGAIN = 10.0  # seconds after which a file that could not be written is tried again
_LARGEST = 64 << 20
_LONGEST_LOCK = 2.0  # seconds

Say = Callable[[int, str], None]


class NotOurs(ValueError):
    """The file is none that could have been written here."""


def read_file(path: str) -> bytes:
    """What the file says. Raises OSError, and NotOurs for what is no file or a huge one."""
    # O_NONBLOCK: a pipe under this name would be waited for.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST:
            raise NotOurs("not a state file")
        return file.read()


def replace_file(path: str, content: bytes, owner: tuple[int, int] | None = None) -> None:
    """Write `content` to a new file that then is `path`, and `owner`'s (user and group). Raises OSError."""
    made = f"{path}.{os.getpid()}.new"
    with suppress(FileNotFoundError):
        os.unlink(made)
    fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            if owner is not None:
                os.fchown(fd, *owner)
            os.fsync(fd)
        os.rename(made, path)
    except OSError:
        with suppress(OSError):
            os.unlink(made)
        raise
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _lock(folder: int) -> None:
    deadline = time.monotonic() + _LONGEST_LOCK
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process has locked its folder") from None
            time.sleep(0.02)
        else:
            return


@contextmanager
def alone(path: str) -> Iterator[None]:
    """While no other process that asks for this as well has to do with the file. Raises OSError, also where one keeps
    it for long: whoever can open the folder can lock it, and the master waits here."""
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(folder)
        yield
    finally:
        os.close(folder)


class Replaced:
    """The file at `path`. In the log it is called by its `title`; `say` is for any thread. A write begins `delay`
    seconds (REST) after what it is for, as more may come with it."""

    __slots__ = (
        "_changed",
        "_closing",
        "_delay",
        "_failing",
        "_say",
        "_thread",
        "_title",
        "_until",
        "_work",
        "_written",
    )

    def __init__(self, path: str, title: str, say: Say, delay: float | None = None) -> None:
        self._title = f'{title} "{path}"'
        self._say = say
        self._delay = REST if delay is None else delay
        self._changed = threading.Condition()
        self._work: Callable[[], None] | None = None
        self._closing = False
        self._until = 0.0
        self._failing = False
        self._written = float("-inf")
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Replaced {self._title}>"

    def write_soon(self, work: Callable[[], None]) -> None:
        """Have the thread do `work`, which raises OSError if it fails, instead of what it has not begun yet."""
        with self._changed:
            self._work = work
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="upwell-state", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    self._fail(str(error))  # the next change tries again
                    return
                self._thread = thread
            self._changed.notify()

    def end(self, deadline: float) -> None:
        """Do what is still to be done at once, until `deadline` (`time.monotonic`)."""
        self._until = deadline
        with self._changed:
            self._closing = True
            self._changed.notify()

    def close(self) -> None:
        """Wait for the end of that."""
        if self._thread is not None:
            self._thread.join(max(self._until - time.monotonic(), 0.0))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._work is not None or self._closing)
                if self._work is None:
                    return
                rest = _AGAIN if self._failing else max(self._delay, self._written + REST - time.monotonic())
                self._changed.wait_for(lambda: self._closing, rest)
                work = self._work
                self._work = None
            wrong = _words_of_failure(work)
            if wrong:
                self._fail(wrong)
                with self._changed:
                    if self._work is None and not self._closing:
                        self._work = work
            elif self._failing:
                self._failing = False
                self._say(NOTICE, f"{self._title} is written again")
            self._written = time.monotonic()

    def _fail(self, words: str) -> None:
        if not self._failing:
            self._failing = True
            self._say(ERROR, f"{self._title} cannot be written: {words}")


def _words_of_failure(work: Callable[[], None]) -> str:
    """What went wrong with `work`, whatever it is: the thread is the only one that the file has. "": nothing."""
    try:
        work()
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    except Exception as other:
        return f"{type(other).__name__}: {other}"
    return ""
