"""Plain files as answers: which file a URI means, indexes, conditions, ranges (nginx: the core's map_uri_to_path, the
index, gzip_static, static, not_modified and range modules).

Knows one location's root, no directive. How a file's bytes get to the client is file_answer.py's.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from upwell.http1.conditions import BEFORE, parse_date, verdict
from upwell.http1.ranges import is_of_bytes, parse_ranges, part_head, parts_end
from upwell.http1.target import escape_uri
from upwell.log import ALERT, CRIT, ERROR, printable
from upwell.proxy.absolute import absolute
from upwell.proxy.autoindex import Listing
from upwell.proxy.clock import http_date
from upwell.proxy.file_answer import send_file
from upwell.proxy.gzip import Packed, takes_gzip, tell_of_vary
from upwell.proxy.redirect import redirect

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

Value = Callable[["Exchange"], bytes]

TRIED: Final = "file tried"
"""Where an exchange's `module` says that `try_files` has put a file's name behind an alias in its URI."""
BY_REGEX: Final = -1
UNLIMITED: Final = (1 << 31) - 1

_READ: Final = frozenset((b"GET", b"HEAD", b"POST"))
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_CLIMBS: Final = re.compile(rb"/\.\.(?:/|\Z)")
_ABSENT: Final = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG))
_CLOSED: Final = frozenset((errno.EACCES, errno.EMLINK, errno.ELOOP))
_BAD_INDEX: Final = frozenset((errno.ENOTDIR, errno.ENAMETOOLONG, errno.EACCES))


class NoPath(Exception):
    """The URI means no path; the answer is `status`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status: int = status


class Files:
    """One location's files. `root` is the folder as it is, or `value(exchange)` where variables are in it; `alias` how
    much of the URI it stands for (0: a root; `BY_REGEX`: all of it). `prefix` is where other paths begin. `index` are
    names, or functions that give them; `listing` shows a folder that has none. `since` is a constant of
    http1/conditions.py. `packed`: beside a file may stand the same one in gzip, for whom that says.
    """

    __slots__ = (
        "alias",
        "etag",
        "index",
        "listing",
        "log_absent",
        "most_ranges",
        "name",
        "packed",
        "prefix",
        "root",
        "since",
        "value",
    )

    def __init__(
        self,
        root: bytes,
        value: Value | None = None,
        alias: int = 0,
        prefix: bytes = b"",
        index: Sequence[bytes | Value] = (b"index.html",),
        etag: bool = True,
        since: int = BEFORE,
        most_ranges: int = UNLIMITED,
        log_absent: bool = True,
        name: str = "",
        listing: Listing | None = None,
        packed: Packed | None = None,
    ) -> None:
        self.root: bytes = root
        self.value: Value | None = value
        self.alias: int = alias
        self.prefix: bytes = prefix
        self.index: tuple[bytes | Value, ...] = tuple(index)
        self.etag: bool = etag
        self.since: int = since
        self.most_ranges: int = most_ranges
        self.log_absent: bool = log_absent
        self.name: str = name
        self.listing: Listing | None = listing
        self.packed: Packed | None = packed

    def __repr__(self) -> str:
        return f"<Files {printable(self.root)}>"

    # Paths

    def folder(self, exchange: Exchange) -> bytes:
        """nginx's $document_root."""
        value = self.value
        if value is None:
            return self.root
        path = value(exchange)
        return path if path.startswith(b"/") else self.prefix + path

    def path(self, exchange: Exchange) -> bytes:
        """The path that the URI means (nginx: $request_filename). Raises NoPath."""
        rest = self.rest(exchange)
        folder = self.folder(exchange)
        if self.alias != BY_REGEX:
            return self.inside(exchange, folder, rest)
        module = exchange.module
        if module is not None and TRIED in module:
            return self.inside(exchange, folder, exchange.uri)
        return self.inside(exchange, folder, b"")

    def rest(self, exchange: Exchange) -> bytes:
        """What of the URI comes behind the folder, if that does not stand for all of it. Raises NoPath."""
        alias = self.alias
        if not alias:
            return exchange.uri
        if not exchange.located or len(exchange.uri) < alias:
            exchange.log(ALERT, f'"alias" cannot be used in location "{self.name}" where URI was rewritten')
            raise NoPath(500)
        return exchange.uri[alias:] if alias > 0 else b""

    def inside(self, exchange: Exchange, folder: bytes, rest: bytes) -> bytes:
        """`rest` behind `folder`, out of which it must not lead. Raises NoPath.

        Of what a client sends, dot segments are gone; variables in a rewrite, or an alias without the slash that its
        location has, would bring them back, and nginx follows them.
        """
        path = folder + rest
        if b"/.." in path and _CLIMBS.search(path, max(len(folder) - 1, 0)) is not None:
            exchange.log(ERROR, f'"{printable(path)}" leads out of "{printable(folder)}"')
            raise NoPath(404)
        if b"\0" in path:
            raise NoPath(404)
        return path

    # Answering

    async def serve(self, exchange: Exchange) -> None:
        """The content handler of a location that has no other."""
        method = exchange.method
        try:
            if exchange.uri.endswith(b"/"):
                if method not in _READ:
                    exchange.respond_error(405)
                    return
                if self._show_index(exchange):
                    return
                path = self.path(exchange)
                if self.listing is not None and method != b"POST":
                    await self.listing.show(exchange, path)
                else:
                    exchange.log(ERROR, f'directory index of "{printable(path)}" is forbidden')
                    exchange.respond_error(403)
                return
            if method not in _READ:
                exchange.respond_error(405)
                return
            path = self.path(exchange)
        except NoPath as no_path:  # mypyc keeps one type for each name of a function
            exchange.respond_error(no_path.status)
            return
        packed = self.packed
        if packed is not None and method != b"POST" and await self._serve_packed(exchange, path + b".gz", packed):
            return
        try:
            fd = os.open(path, _FLAGS)
        except OSError as error:
            self._tell_of_open(exchange, path, error.errno or 0)
            return
        try:
            await self._answer(exchange, path, fd)
        finally:
            os.close(fd)

    async def _serve_packed(self, exchange: Exchange, path: bytes, packed: Packed) -> bool:
        """Answer with the file `path`, which is in gzip; false if there is none, or none for this client."""
        takes = packed.always or takes_gzip(exchange, packed.taking)
        if not takes and not packed.taking.vary:
            return False
        try:
            fd = os.open(path, _FLAGS)
        except OSError as error:
            number = error.errno or 0
            if number not in _ABSENT:
                _log_open(exchange, path, number)
            return False
        try:
            if not packed.always:
                tell_of_vary(exchange, packed.taking)
            if not takes or stat.S_ISDIR(os.fstat(fd).st_mode):
                return False
            await self._answer(exchange, path, fd, b"gzip")
        finally:
            os.close(fd)
        return True

    def _tell_of_open(self, exchange: Exchange, path: bytes, number: int) -> None:
        status = 500
        if number in _ABSENT:
            status = 404
        elif number in _CLOSED:
            status = 403
        if status != 404 or self.log_absent:
            _log_open(exchange, path, number)
        exchange.respond_error(status)

    async def _answer(self, exchange: Exchange, path: bytes, fd: int, encoding: bytes = b"") -> None:
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            address = escape_uri(exchange.uri) + b"/"
            if exchange.args:
                address = address + b"?" + exchange.args
            exchange.respond_error(301, ((b"Location", absolute(exchange, address)),))
            return
        if not stat.S_ISREG(found.st_mode):
            exchange.log(CRIT, f'"{printable(path)}" is not a regular file')
            exchange.respond_error(404)
            return
        if exchange.method == b"POST":
            exchange.respond_error(405)
            return
        size = found.st_size
        modified = int(found.st_mtime)
        usual = exchange.forced_status in (0, 200)  # else it is the page for an error
        out = list(exchange.out)
        tag = None
        if usual:
            out.append((b"Last-Modified", _date(modified)))
        if self.etag:
            tag = b'"%x-%x"' % (modified, size)
            out.append((b"ETag", tag))
        if usual and exchange.capture is None and len(exchange.values) > 1:
            status = verdict(exchange.values, tag, modified, self.since)
            if status == 412:
                exchange.respond_error(412)
                return
            if status == 304:
                exchange.out = [line for line in out if line[0] != b"Accept-Ranges"]
                exchange.status = 304
                exchange.forced_status = 0
                exchange.content_type = None
                exchange.finish()
                return
        if encoding:
            out.append((b"Content-Encoding", encoding))
        exchange.content_type = exchange.default_type
        exchange.content_length = size
        exchange.out = out
        exchange.filter_head()
        # Of one in gzip there are no ranges: nginx's gzip_static allows none.
        if usual and not encoding and exchange.capture is None and exchange.status == 200 and self.most_ranges:
            length = _length(exchange)
            if length is not None:
                ranges = self._ranges(exchange, length)
                if ranges is not None:
                    await _send_ranges(exchange, path, fd, ranges, length)
                    return
                exchange.out = [line for line in exchange.out if line[0] != b"Accept-Ranges"]
                exchange.out.append((b"Accept-Ranges", b"bytes"))
        exchange.send_head()
        await send_file(exchange, path, fd, 0, size)
        exchange.finish()

    def _ranges(self, exchange: Exchange, length: int) -> Sequence[tuple[int, int]] | None:
        """What the request wants of the content, None for all of it."""
        wanted = exchange.values.get(b"range")
        if wanted is None:
            return None
        for name, value in exchange.fields:
            if name == b"range":
                wanted = value  # the first of several
                break
        if not is_of_bytes(wanted):
            return None
        condition = exchange.values.get(b"if-range")
        if condition is not None:
            if len(condition) >= 2 and condition.endswith(b'"'):
                if _said(exchange, b"etag") != condition:
                    return None
            else:
                modified = _said(exchange, b"last-modified")
                if modified is None or parse_date(condition) is None or parse_date(modified) != parse_date(condition):
                    return None
        return parse_ranges(wanted, length, self.most_ranges)

    # Indexes

    def _show_index(self, exchange: Exchange) -> bool:
        """Go on at the folder's index, or answer for what is wrong; false if it has none. Raises NoPath."""
        base: bytes | None = None
        for one in self.index:
            name = one if isinstance(one, bytes) else one(exchange)
            if name.startswith(b"/"):
                redirect(exchange, name, exchange.args)
                return True
            first = base is None
            if base is None:
                base = self.path(exchange)
            path = self.inside(exchange, base, name)
            try:
                os.stat(path)
            except OSError as error:
                number = error.errno or 0
            else:
                redirect(exchange, exchange.uri + name, exchange.args)
                return True
            if number == errno.ELOOP:
                exchange.respond_error(403)
                return True
            if number in _BAD_INDEX:
                self._tell_of_index(exchange, path, number)
                return True
            if first and not self._has_folder(exchange, base, path):
                return True
            if number != errno.ENOENT:
                exchange.log(CRIT, f'stat() "{printable(path)}" failed ({words_of(number)})')
                exchange.respond_error(500)
                return True
        return False

    def _has_folder(self, exchange: Exchange, base: bytes, path: bytes) -> bool:
        """Whether the folder is one; if not, the answer has been given."""
        folder = base[:-1] if base.endswith(b"/") and len(base) > 1 else base
        try:
            found = os.stat(folder)
        except OSError as error:
            number = error.errno or 0
            if number == errno.ENOENT:
                self._tell_of_index(exchange, path, number)
                return False
            if number != errno.ELOOP:
                exchange.log(CRIT, f'stat() "{printable(folder)}" failed ({words_of(number)})')
            exchange.respond_error(403 if number == errno.ELOOP else 500)
            return False
        if stat.S_ISDIR(found.st_mode):
            return True
        exchange.log(ALERT, f'"{printable(folder)}" is not a directory')
        exchange.respond_error(500)
        return False

    def _tell_of_index(self, exchange: Exchange, path: bytes, number: int) -> None:
        if number == errno.EACCES:
            exchange.log(ERROR, f'"{printable(path)}" is forbidden ({words_of(number)})')
            exchange.respond_error(403)
            return
        if self.log_absent:
            exchange.log(ERROR, f'"{printable(path)}" is not found ({words_of(number)})')
        exchange.respond_error(404)


def _log_open(exchange: Exchange, path: bytes, number: int) -> None:
    level = ERROR if number in _ABSENT or number in _CLOSED else CRIT
    exchange.log(level, f'open() "{printable(path)}" failed ({words_of(number)})')


def words_of(number: int) -> str:
    """An error's number as nginx's log has it."""
    return f"{number}: {os.strerror(number)}"


@lru_cache(maxsize=1024)
def _date(seconds: int) -> bytes:
    return http_date(seconds)


def _length(exchange: Exchange) -> int | None:
    """The content's length, of which a filter may have made an unknown one: in the function that has set it, mypyc
    knows better.
    """
    return exchange.content_length


def _said(exchange: Exchange, name: bytes) -> bytes | None:
    """The answer's field `name`, which a filter may have changed."""
    for known, value in exchange.out:
        if known.lower() == name:
            return value
    return None


async def _send_ranges(
    exchange: Exchange, path: bytes, fd: int, ranges: Sequence[tuple[int, int]], length: int
) -> None:
    if not ranges:
        fields = [line for line in exchange.out if line[0] not in (b"Last-Modified", b"ETag")]
        fields.append((b"Content-Range", b"bytes */%d" % length))
        exchange.out = []
        exchange.filtered = False  # nginx's filters see the page as well, and what they gave the file stays
        exchange.respond_error(416, fields)
        return
    exchange.out = [line for line in exchange.out if line[0] != b"Accept-Ranges"]
    exchange.status = 206
    exchange.forced_status = 0
    if len(ranges) == 1:
        start, end = ranges[0]
        exchange.content_length = end - start
        exchange.out.append((b"Content-Range", b"bytes %d-%d/%d" % (start, end - 1, length)))
        exchange.send_head()
        await send_file(exchange, path, fd, start, end)
        exchange.finish()
        return
    boundary = b"%020d" % secrets.randbelow(10**20)
    heads = [part_head(boundary, exchange.content_type, start, end, length) for start, end in ranges]
    last = parts_end(boundary)
    exchange.content_length = sum([len(head) for head in heads]) + len(last) + sum([e - s for s, e in ranges])
    exchange.content_type = b"multipart/byteranges; boundary=" + boundary
    exchange.send_head()
    for head, (start, end) in zip(heads, ranges, strict=True):
        exchange.write(head)
        await send_file(exchange, path, fd, start, end)
        if exchange.finished:
            return
    exchange.write(last)
    exchange.finish()
