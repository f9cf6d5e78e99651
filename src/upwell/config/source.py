"""Where configuration text comes from: files, `include` patterns, the text of `-g`. Knows paths, not the language."""

from __future__ import annotations

import glob
import os
from bisect import bisect_right
from pathlib import Path

from upwell.errors import ConfigError, Position

_SHIPPED = Path(__file__).parent / "dialects" / "nginx"
_WILDCARDS = frozenset("*?[")


class Source:
    """One text with its name; turns offsets into positions. `numbered` is False for `-g`, whose errors have no line."""

    __slots__ = ("_starts", "numbered", "path", "text")

    def __init__(self, path: str, text: str, numbered: bool = True) -> None:
        self.path = path
        self.text = text
        self.numbered = numbered
        self._starts: list[int] = []

    def __repr__(self) -> str:
        return f"<Source {self.path} {len(self.text)} characters>"

    def position(self, offset: int) -> Position:
        """The 1-based line and column (in characters) of `offset`."""
        if not self.numbered:
            return Position(self.path, 0)
        if not self._starts:
            starts = [0]
            at = self.text.find("\n")
            while at >= 0:
                starts.append(at + 1)
                at = self.text.find("\n", at + 1)
            self._starts = starts
        line = bisect_right(self._starts, offset)
        return Position(self.path, line, offset - self._starts[line - 1] + 1)

    def line(self, offset: int) -> int:
        return self.position(offset).line


class Sources:
    """Every file that one load reads, in the order of first reading (nginx's `-T` prints them so).

    `folder` is the directory of the main file: relative `include` paths start there, as in nginx.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._read: dict[str, Source] = {}

    @property
    def all(self) -> tuple[Source, ...]:
        return tuple(self._read.values())

    def read(self, path: str, position: Position | None = None) -> Source:
        """The file at `path`. Raises ConfigError with nginx's sentence at `position`, the `include`."""
        known = self._read.get(path)
        if known is not None:
            return known
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(f'open() "{path}" failed ({error.errno}: {error.strerror})', position) from None
        # Configuration files are in any encoding: bytes that are not UTF-8 must come out again as they went in.
        source = Source(path, content.decode("utf-8", "surrogateescape"))
        self._read[path] = source
        return source

    def has(self, path: str) -> bool:
        """Whether the file at `path` was read."""
        return path in self._read

    def find(self, pattern: str) -> list[str]:
        """The paths that an `include` means, in order; empty only for wildcards without a match."""
        path = os.path.join(self.folder, pattern)
        if not _WILDCARDS.isdisjoint(path):
            return sorted(glob.glob(path))
        if path == os.path.join(self.folder, "mime.types") and not os.path.exists(path):
            return [str(_SHIPPED / "mime.types")]
        return [path]
