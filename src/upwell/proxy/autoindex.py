"""What a folder holds, as a page, JSON or XML (nginx: ngx_http_autoindex_module). Knows folders, no directive."""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_from_bytes

from upwell.log import CRIT, ERROR, printable
from upwell.proxy.clock import http_date

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

HTML: Final = "html"
JSON: Final = "json"
XML: Final = "xml"

_MEDIA: Final = {HTML: b"text/html", JSON: b"application/json", XML: b"text/xml; charset=utf-8"}
_MONTHS: Final = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_NAME_WIDTH: Final = 50
_AT_ONCE: Final = 200  # entries of a folder between two rounds of the loop
_MARKUP: Final = re.compile(rb'[<>&"]')
_ENTITIES: Final = {b"<": b"&lt;", b">": b"&gt;", b"&": b"&amp;", b'"': b"&quot;"}
_UNSAFE_JSON: Final = re.compile(rb'[\x00-\x1f"\\]')
_JSON: Final = {b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t", b"\b": b"\\b", b"\f": b"\\f", b'"': b'\\"', b"\\": b"\\\\"}
_ABSENT: Final = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG))


class Entry:
    """One thing in a folder; `kind` is nginx's word for it."""

    __slots__ = ("kind", "modified", "name", "size")

    def __init__(self, name: bytes, found: os.stat_result) -> None:
        self.name: bytes = name
        self.modified: int = int(found.st_mtime)
        self.size: int = found.st_size
        self.kind: bytes = b"other"
        if stat.S_ISDIR(found.st_mode):
            self.kind = b"directory"
        elif stat.S_ISREG(found.st_mode):
            self.kind = b"file"

    @property
    def order(self) -> tuple[bool, bytes]:
        return self.kind != b"directory", self.name


class Listing:
    """How a location shows folders: with `exact` sizes, times as here (`local`) or GMT; for HTML only."""

    __slots__ = ("exact", "form", "local")

    def __init__(self, form: str = HTML, exact: bool = True, local: bool = False) -> None:
        self.form: str = form
        self.exact: bool = exact
        self.local: bool = local

    def __repr__(self) -> str:
        return f"<Listing {self.form}>"

    async def show(self, exchange: Exchange, path: bytes) -> None:
        """Answer with what is in the folder `path`."""
        folder = path[:-1] if len(path) > 1 else path
        try:
            names = os.listdir(folder)
        except OSError as error:
            _tell(exchange, folder, error.errno or 0)
            return
        exchange.content_type = _MEDIA[self.form]
        exchange.send_head()
        if exchange.header_only:
            exchange.finish()
            return
        entries: list[Entry] = []
        for count, name in enumerate(names, 1):
            if not name.startswith(b"."):
                entry = _look(exchange, os.path.join(folder, name), name)
                if entry is not None:
                    entries.append(entry)
            if count % _AT_ONCE == 0:
                await exchange.sleep(0.0)
        entries.sort(key=_order)
        if self.form == JSON:
            exchange.write(_json(entries))
        elif self.form == XML:
            exchange.write(_xml(entries))
        else:
            exchange.write(self._html(exchange.uri, entries))
        exchange.finish()

    def _html(self, uri: bytes, entries: list[Entry]) -> bytes:
        title = _markup(uri)
        lines = [
            b"<html>\r\n<head><title>Index of %b</title></head>\r\n<body>\r\n" % title,
            b'<h1>Index of %b</h1><hr><pre><a href="../">../</a>\r\n' % title,
        ]
        for entry in entries:
            slash = b"/" if entry.kind == b"directory" else b""
            name = entry.name
            if len(name) > _NAME_WIDTH:
                shown, pad = _markup(name[: _NAME_WIDTH - 3]) + b"..&gt;", 0
            else:
                pad = _NAME_WIDTH - len(name)
                shown = _markup(name)
                if pad and slash:
                    shown, pad = shown + slash, pad - 1
            t = time.localtime(entry.modified) if self.local else time.gmtime(entry.modified)
            when = b"%02d-%b-%d %02d:%02d" % (t.tm_mday, _MONTHS[t.tm_mon - 1], t.tm_year, t.tm_hour, t.tm_min)
            lines.append(
                b'<a href="%b%b">%b</a>%b %b %b\r\n'
                % (quote_from_bytes(name, b"").encode(), slash, shown, b" " * pad, when, self._size(entry))
            )
        lines.append(b"</pre><hr></body>\r\n</html>\r\n")
        return b"".join(lines)

    def _size(self, entry: Entry) -> bytes:
        folder = entry.kind == b"directory"
        if self.exact:
            return b"-".rjust(19) if folder else b"%19d" % entry.size
        return b"-".rjust(7) if folder else _rounded(entry.size)


def _order(entry: Entry) -> tuple[bool, bytes]:
    return entry.order


def _rounded(size: int) -> bytes:
    for unit, sign, least in ((1 << 30, b"G", (1 << 30) - 1), (1 << 20, b"M", (1 << 20) - 1), (1 << 10, b"K", 9999)):
        if size > least:
            whole, rest = divmod(size, unit)
            return b"%6d%b" % (whole + (1 if rest > unit // 2 - 1 else 0), sign)
    return b" %6d" % size


def _look(exchange: Exchange, path: bytes, name: bytes) -> Entry | None:
    """What is there; a link that leads nowhere is one itself. None: it cannot be seen, or is gone."""
    try:
        return Entry(name, os.stat(path))
    except OSError as error:
        number = error.errno or 0
    if number in (errno.ENOENT, errno.ELOOP):
        try:
            return Entry(name, os.lstat(path))
        except OSError:
            return None
    exchange.log(CRIT, f'stat() "{printable(path)}" failed ({number}: {os.strerror(number)})')
    return None


def _tell(exchange: Exchange, folder: bytes, number: int) -> None:
    level, status = CRIT, 500
    if number in _ABSENT:
        level, status = ERROR, 404
    elif number == errno.EACCES:
        level, status = ERROR, 403
    exchange.log(level, f'opendir() "{printable(folder)}" failed ({number}: {os.strerror(number)})')
    exchange.respond_error(status)


def _markup(text: bytes) -> bytes:
    return _MARKUP.sub(_entity, text)


def _entity(match: re.Match[bytes]) -> bytes:
    return _ENTITIES[match[0]]


def _json_escape(match: re.Match[bytes]) -> bytes:
    return _JSON.get(match[0]) or b"\\u%04X" % match[0][0]


def _json(entries: list[Entry]) -> bytes:
    lines = []
    for entry in entries:
        size = b', "size":%d' % entry.size if entry.kind == b"file" else b""
        lines.append(
            b'{ "name":"%b", "type":"%b", "mtime":"%b"%b }'
            % (_UNSAFE_JSON.sub(_json_escape, entry.name), entry.kind, http_date(entry.modified), size)
        )
    return b"[\r\n%b]" % (b",\r\n".join(lines) + b"\r\n" if lines else b"")


def _xml(entries: list[Entry]) -> bytes:
    lines = [b'<?xml version="1.0"?>\r\n<list>\r\n']
    for entry in entries:
        size = b' size="%d"' % entry.size if entry.kind == b"file" else b""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.modified)).encode()
        kind = entry.kind
        lines.append(b'<%b mtime="%b"%b>%b</%b>\r\n' % (kind, when, size, _markup(entry.name), kind))
    lines.append(b"</list>\r\n")
    return b"".join(lines)
