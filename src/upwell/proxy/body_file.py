"""Content that is too large for memory, in a file: made, written, read back piece by piece, taken away.

Knows files and nginx's names for them; nothing of requests. What is written and read goes through the page cache, which
is quick enough for a loop that serves others too.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from functools import cache

PIECE = 65_536
"""How much is read at once: what a connection to a peer takes before it asks to wait."""

_NUMBERS = 10**10  # nginx's names have ten digits
_MOST_TRIES = 64


@dataclass(frozen=True, slots=True)
class BodyFolder:
    """Where contents go (nginx: client_body_temp_path, client_body_in_file_only).

    An empty `path` is the system's folder for temporary files. `levels` are the digits of each folder below it. `keep`
    "off": only what memory does not take goes to a file, which has no name any more from the start; "clean": each
    content has a file while its request lasts; "on": for good.
    """

    path: str = ""
    levels: tuple[int, ...] = ()
    keep: str = "off"

    @property
    def always(self) -> bool:
        """Whether every content goes to a file."""
        return self.keep != "off"

    def create(self) -> BodyFile:
        """A new, empty file. Raises OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        made_folder = False
        for _ in range(_MOST_TRIES):
            path = self._name(_numbering.next())
            try:
                fd = os.open(path, flags, 0o600)
            except FileExistsError:
                _numbering.jump()  # another worker's, or one that an earlier one has left
            except FileNotFoundError:
                if made_folder or not self.levels:
                    raise
                made_folder = True
                os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
                _numbering.repeat()
            else:
                if not self.always:
                    os.unlink(path)
                return BodyFile(fd, path, self.keep == "clean")
        raise FileExistsError(f"no free name in {self.path}")

    def _name(self, number: int) -> str:
        digits = f"{number % _NUMBERS:010d}"
        if not self.path:
            return os.path.join(_system_folder(), f"upwell-{os.getpid()}-{digits}")
        folders = []
        end = len(digits)
        for level in self.levels:
            folders.append(digits[max(end - level, 0) : end])
            end -= level
        return os.path.join(self.path, *folders, digits)


SYSTEM_FOLDER = BodyFolder()


class _Numbering:
    """The numbers of this process's files."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        self._last += 1
        return self._last

    def repeat(self) -> None:
        self._last -= 1

    def jump(self) -> None:
        self._last += secrets.randbelow(1 << 24)


_numbering = _Numbering()


@cache
def _system_folder() -> str:
    """A folder on a disk first: where /tmp is memory, content in it would fill just that."""
    for folder in (os.environ.get("TMPDIR", ""), "/var/tmp", "/tmp"):
        if folder and os.access(folder, os.W_OK | os.X_OK):
            return folder
    return "/tmp"


class BodyFile:
    """One content. `path` is where it is, or was until it was opened; `size` what was written."""

    __slots__ = ("_clean", "_fd", "_sharers", "path", "size")

    def __init__(self, fd: int, path: str, clean: bool) -> None:
        self._fd = fd
        self._clean = clean
        self._sharers = 1
        self.path = path
        self.size = 0

    def __repr__(self) -> str:
        return f"<BodyFile {self.path} {self.size}>"

    def append(self, content: bytes) -> None:
        """Write `content` behind what is there. Raises OSError when the disk is full."""
        view = memoryview(content)
        while view:
            written = os.pwrite(self._fd, view, self.size)
            self.size += written
            view = view[written:]

    def read(self, at: int) -> bytes:
        """The next piece from `at` on. Raises OSError, also when somebody has cut the file off."""
        piece = os.pread(self._fd, PIECE, at)
        if not piece and at < self.size:
            raise OSError(f"only {at} of {self.size} bytes are there")
        return piece

    def share(self) -> BodyFile:
        """One more has it, and closes it."""
        self._sharers += 1
        return self

    def close(self) -> None:
        """Let go of the file, and take it away if it was for this request only; for the last who has it."""
        self._sharers -= 1
        if self._fd < 0 or self._sharers > 0:
            return
        os.close(self._fd)
        self._fd = -1
        if self._clean:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
