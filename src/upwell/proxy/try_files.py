"""The first of some files that is there answers, else another URI, a named location or a status (nginx: try_files)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from upwell.log import CRIT, ERROR, printable
from upwell.proxy.files import BY_REGEX, TRIED, Files, NoPath, Value, words_of
from upwell.proxy.location import Content
from upwell.proxy.phases import CLOSE
from upwell.proxy.redirect import redirect, redirect_to_named

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_ABSENT: Final = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG))


class Tried:
    """One file, or folder, of a `try_files`: its name, or the function that gives it."""

    __slots__ = ("folder", "name")

    def __init__(self, name: bytes | Value, folder: bool) -> None:
        self.name: bytes | Value = name
        self.folder: bool = folder


class TryFiles:
    """`try_files` before `content`: `last` is a URI with arguments or "@name", unless it is `code`."""

    __slots__ = ("_code", "_content", "_files", "_last", "_tried")

    def __init__(
        self, files: Files, tried: Sequence[Tried], last: bytes | Value, code: int | None, content: Content
    ) -> None:
        self._files: Files = files
        self._tried: tuple[Tried, ...] = tuple(tried)
        self._last: bytes | Value = last
        self._code: int | None = code
        self._content: Content = content

    def __repr__(self) -> str:
        return f"<TryFiles {len(self._tried)}>"

    async def serve(self, exchange: Exchange) -> None:
        try:
            found = self._find(exchange)
        except NoPath as error:
            exchange.respond_error(error.status)
            return
        if found:
            await self._content(exchange)
        elif self._code is None:
            self._go_on(exchange, self._name(exchange, self._last))
        elif self._code in CLOSE:
            exchange.drop(self._code)
        else:
            exchange.respond_error(self._code)

    def _go_on(self, exchange: Exchange, last: bytes) -> None:
        if last.startswith(b"@"):
            redirect_to_named(exchange, last)
        elif last.startswith(b"/"):
            uri, _, args = last.partition(b"?")
            redirect(exchange, uri, args)
        else:
            # nginx looks for a location all the same, finds the server's own level, and there no such file.
            exchange.log(ERROR, f'"{printable(last)}", the last of "try_files", is no path')
            exchange.respond_error(404)

    def _find(self, exchange: Exchange) -> bool:
        """Look for the files; the one that is there becomes the URI. Raises NoPath."""
        files = self._files
        folder = files.folder(exchange)
        files.rest(exchange)  # which refuses a URI that was rewritten
        for tried in self._tried:
            name = self._name(exchange, tried.name)
            try:
                path = files.inside(exchange, folder, name)
            except NoPath:
                continue
            try:
                there = os.stat(path)
            except OSError as error:
                if error.errno not in _ABSENT:
                    exchange.log(CRIT, f'stat() "{printable(path)}" failed ({words_of(error.errno or 0)})')
                continue
            if stat.S_ISDIR(there.st_mode) != tried.folder:
                continue
            if not files.alias:
                exchange.uri = name
            elif files.alias != BY_REGEX:
                exchange.uri = exchange.uri[: files.alias] + name
            elif not tried.folder:
                exchange.uri = name
                if exchange.module is None:
                    exchange.module = {}
                exchange.module[TRIED] = True
            return True
        return False

    def _name(self, exchange: Exchange, name: bytes | Value) -> bytes:
        if isinstance(name, bytes):
            return name
        text = name(exchange)
        alias = self._files.alias
        # Behind an alias, what the location stands for is taken off again.
        if alias > 0 and text.startswith(exchange.uri[:alias]):
            return text[alias:]
        return text
