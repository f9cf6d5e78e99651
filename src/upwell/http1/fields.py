"""Field sections: from the bytes between the start line and the empty line to checked names and values.

A field section is checked once and remembered, because clients on kept connections and backends repeat theirs; the
memory is bounded. Knows which fields frame a message and which belong to one hop; not what anybody does with them.
"""

from __future__ import annotations

from typing import Any, Final, cast

from upwell.errors import MessageError, RequestLineError
from upwell.http1.syntax import (
    CONTENT_LENGTH,
    FIELD_LINE,
    FIELD_LINE_BEGUN,
    HOST,
    LINE_END,
    PLAIN_NAME,
    SECRET_NAME,
    UNDERSCORE_NAME,
)
from upwell.log import printable

HOP_BY_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"expect")
)
"""Names that a proxy answers for itself (RFC 9110, 7.6.1; `expect` because nginx answers it)."""

_ONCE: Final = frozenset((b"content-length", b"host", b"transfer-encoding"))
"""Names that decide where a message ends or whom it is for: twice is refused, even with equal values."""

_ONCE_IN_REQUESTS = _ONCE | {
    b"authorization",
    b"content-range",
    b"expect",
    b"if-match",
    b"if-modified-since",
    b"if-none-match",
    b"if-range",
    b"if-unmodified-since",
    b"proxy-authorization",
}
"""What nginx takes only once from a client."""

_SECRET: Final = frozenset((b"authorization", b"proxy-authorization"))

_Line = tuple[tuple[bytes, bytes], bytes]
"""A field line that was read: (lower-case name, value), and the line as it is sent on: empty for one that is ignored,
which is the value then.
"""

_MAX_SECTIONS: Final = 1024
_MAX_SECTION_SIZE: Final = 2048  # larger ones hold cookies and tokens, which seldom repeat
_MAX_LINES: Final = 4096
_MOST_SEEN: Final = 16_384
_MAX_HOSTS: Final = 1024
_hosts: dict[bytes, tuple[bytes, bytes]] = {}
"""Hosts that were found good, as `check_host` gives them."""


class FieldSection:
    """One field section, checked.

    `fields` are (lower-case name, value) in order; `wires` the same as `Name: value\\r\\n` with the name as it was
    written; `ignored` are lines that nginx ignores for their names; `values` maps each name to its value, several
    joined as nginx does (", ", cookies "; "). `content_length` is None when there is none; `chunked` says that
    Transfer-Encoding is exactly "chunked"; `plain` that no content is to follow and no line was ignored. `close` and
    `keep_alive` are the options of Connection, `options` all names in it. `host` is the Host field as sent and
    `host_name` its name in lower case.
    `rendered` is room for whoever sends this section on in a fixed form: it is remembered with the section.
    """

    __slots__ = (
        "chunked",
        "close",
        "content_length",
        "fields",
        "host",
        "host_name",
        "ignored",
        "keep_alive",
        "options",
        "plain",
        "rendered",
        "values",
        "wires",
    )

    def __init__(
        self,
        fields: tuple[tuple[bytes, bytes], ...],
        wires: tuple[bytes, ...],
        request: bool = True,
        ignored: tuple[bytes, ...] = (),
    ) -> None:
        self.fields = fields
        self.wires = wires
        self.ignored = ignored
        self.plain: bool = len(ignored) == 0
        self.values: dict[bytes, bytes] = dict(fields)
        self.content_length: int | None = None
        self.chunked = False
        self.close = False
        self.keep_alive = False
        self.options: frozenset[bytes] = frozenset()
        self.host: bytes | None = None
        self.host_name = b""
        self.rendered: dict[frozenset[bytes], Any] = {}
        if len(self.values) != len(fields):
            self._join(_ONCE_IN_REQUESTS if request else _ONCE)
        self._frame(request)
        host = self.host = self.values.get(b"host")
        if host is not None and request:
            self.host_name = check_host(host)[0]

    def __repr__(self) -> str:
        return f"<FieldSection {len(self.fields)} fields>"

    def first(self, name: bytes) -> bytes | None:
        """The value of the first line named `name`."""
        if name not in self.values:
            return None
        return next(value for known, value in self.fields if known == name)

    def _join(self, once: frozenset[bytes]) -> None:
        """Some name is there more than once: join its values. Raises MessageError(400) for one in `once`."""
        values: dict[bytes, bytes] = {}
        for name, value in self.fields:
            if name in values:
                if name in once:
                    raise MessageError(400, self._duplicate(name, once))
                values[name] += (b"; " if name == b"cookie" else b", ") + value
            else:
                values[name] = value
        self.values = values

    def _duplicate(self, name: bytes, once: frozenset[bytes]) -> str:
        """What to say of two lines called `name`; a client's credentials are none of a log's business."""
        if name in _SECRET:
            return f'duplicate header line: "{name.decode()}"'
        what = "host header" if name == b"host" and once is not _ONCE else "header line"
        first, second = [printable(wire[:-2]) for wire in self.wires if wire.partition(b":")[0].lower() == name][:2]
        return f'duplicate {what}: "{second}", previous value: "{first}"'

    def _frame(self, request: bool) -> None:
        """Work out what the section says of the message's framing and of the connection. Raises
        MessageError(400/501).
        """
        values = self.values
        length = values.get(b"content-length")
        if length is not None:
            # "5, 5" is refused like any other list: RFC 9112, 6.3 rule 5 lets us.
            if CONTENT_LENGTH.fullmatch(length) is None:
                shown = "" if request else f': "Content-Length: {printable(length)}"'
                raise MessageError(400, f'invalid "Content-Length" header{shown}')
            self.content_length = int(length)
            if self.content_length:
                self.plain = False
        coding = values.get(b"transfer-encoding")
        if coding is not None:
            if length is not None:
                raise MessageError(400, '"Content-Length" and "Transfer-Encoding" headers at the same time')
            if coding.lower() != b"chunked":
                raise MessageError(501, f'unknown "Transfer-Encoding": "{printable(coding)}"')
            self.chunked = True
            self.plain = False
        connection = values.get(b"connection")
        if connection is not None:
            options = frozenset(item.strip(b" \t").lower() for item in connection.split(b","))
            self.options = options
            self.close = b"close" in options
            self.keep_alive = b"keep-alive" in options and not self.close

    def wires_without(self, names: frozenset[bytes]) -> list[bytes]:
        """The field lines but those called `names` (lower case) and those that Connection names."""
        unwanted = self.options.union(names) if self.options else names
        return [wire for (name, _), wire in zip(self.fields, self.wires, strict=True) if name not in unwanted]


class Returning:
    """Tells what comes again from what comes once, in bounded memory: only the former is worth remembering.

    To keep what never comes back costs more than to read it: it is written to memory that was not in use, and all of
    it is thrown out before what does come back is needed again.
    """

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def is_again(self, data: bytes) -> bool:
        """Whether `data` was asked about lately. (Two that share their hash are taken for one, which harms nobody.)"""
        number = hash(data)
        if number in self._seen:
            return True
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        self._seen.add(number)
        return False


class FieldReader:
    """Reads field sections under one server's rules for names (nginx: underscores_in_headers, ignore_invalid_headers).

    `read(block)` takes the field lines, each with its CRLF. A
    line longer than `max_line` bytes is refused with 494, nginx's number for too large a request header, and so are
    more than `max_fields` lines (nginx: max_headers).
    `heads` is room for whole heads that were read with this reader (see `head`). Sections, lines and heads are
    remembered when they come again (`returning`).
    """

    __slots__ = (
        "_ignores",
        "_lines",
        "_max_line",
        "_name",
        "_request",
        "_sections",
        "_too_large",
        "heads",
        "max_fields",
        "returning",
    )

    def __init__(
        self,
        underscores: bool = False,
        ignore_invalid: bool = True,
        max_line: int = 8192,
        too_large: int = 494,
        request: bool = True,
        max_fields: int = 1000,
    ) -> None:
        self._request = request
        self.max_fields = max_fields
        self.heads: dict[bytes, object] = {}
        self.returning = Returning()
        self._sections: dict[bytes, FieldSection] = {}
        self._lines: dict[bytes, _Line] = {}
        self._ignores = False
        self._name = (UNDERSCORE_NAME if underscores else PLAIN_NAME) if ignore_invalid else None
        self._max_line = max_line
        self._too_large = too_large

    def read(self, block: bytes) -> FieldSection:
        """The checked section for `block`. Raises MessageError(400) for bad syntax, (494) for too long a line."""
        section = self._sections.get(block)
        if section is None:
            section = self._learn(block)
        return section

    def count(self, block: bytes) -> int:
        """How many of the lines of `block` count as field lines: nginx leaves out those that it ignores."""
        lines = block[:-2].split(b"\r\n") if block else []
        name = self._name
        if name is None:
            return len(lines)
        return len([line for line in lines if name.fullmatch(line.partition(b":")[0]) is not None])

    def _learn(self, block: bytes) -> FieldSection:
        fields: tuple[tuple[bytes, bytes], ...] = ()
        wires: tuple[bytes, ...] = ()
        ignored: tuple[bytes, ...] = ()
        if block:
            lines = block[:-2].split(b"\r\n")
            found = list(map(self._lines.get, lines))
            if None in found:  # most are known: seldom more than one or two have to be read
                found = [known or self._learn_line(line) for known, line in zip(found, lines, strict=True)]
            if self._ignores:
                ignored = tuple([known[0][1] for known in found if known and not known[1]])
                found = [known for known in found if known and known[1]]
            if len(found) > self.max_fields:
                raise MessageError(self._too_large, "too many header lines")
            if found:
                fields, wires = zip(*cast("list[_Line]", found), strict=True)
        section = FieldSection(fields, wires, self._request, ignored)
        if len(block) <= _MAX_SECTION_SIZE and self.returning.is_again(block):
            if len(self._sections) >= _MAX_SECTIONS:
                self._sections.clear()
            self._sections[block] = section
        return section

    def _learn_line(self, line: bytes) -> _Line:
        known = self._line(line)
        if len(line) < 512 and self.returning.is_again(line):
            if len(self._lines) >= _MAX_LINES:
                self._lines.clear()
            self._lines[line] = known
        return known

    def _line(self, line: bytes) -> _Line:
        """One field line, which may be one that nginx ignores."""
        if len(line) > self._max_line:
            raise MessageError(self._too_large, "too long header line")
        match = FIELD_LINE.fullmatch(line)
        if match is None:
            raise MessageError(400, self._invalid(line))
        name, value = match.groups()
        if self._name is not None and self._name.fullmatch(name) is None:
            self._ignores = True
            return (b"", line.rstrip(b" \t")), b""
        return (name.lower(), value), b"%b: %b\r\n" % (name, value)

    def _invalid(self, line: bytes) -> str:
        """nginx's words for a line that is no field: as far as it is good, and the byte that is not."""
        what = "header line" if self._request else "header"
        begun = FIELD_LINE_BEGUN.match(line)
        good = 0 if begun is None else begun.end()
        bad = f"\\x{line[good]:02x}..." if good < len(line) else ""
        return f'invalid {what}: "{shown(line[:good])}{bad}"'


def shown(line: bytes) -> str:
    """A field line, or how far it goes, for a log: without the value where the name says that it may be a secret."""
    name, colon, _ = line.partition(b":")
    return f"{printable(name)}: ..." if colon and SECRET_NAME.search(name) is not None else printable(line)


def one_line(value: bytes) -> bytes:
    """`value` as it may stand in a field line: what would end the line is escaped, whoever put it there."""
    # Numbers, not one-byte strings: CPython 3.11 raises and drops a TypeError inside `bytes in bytes`.
    if 10 not in value and 13 not in value and 0 not in value:
        return value
    return LINE_END.sub(lambda match: b"%%%02X" % match[0][0], value)


def check_host(host: bytes) -> tuple[bytes, bytes]:
    """(name, port) of a Host value: the name lower-cased without a trailing dot, the port as text. Raises
    MessageError(400).
    """
    known = _hosts.get(host)
    if known is not None:
        return known
    match = HOST.fullmatch(host)
    if match is None or match[1].find(b"..") >= 0 or (match[2] and int(match[2]) > 65_535):
        raise MessageError(400, "invalid host header")
    name = match[1].lower()
    if name.endswith(b"."):
        name = name[:-1]
        if not name:
            raise MessageError(400, "invalid host header")
    if len(_hosts) >= _MAX_HOSTS:
        _hosts.clear()
    checked = _hosts[host] = (name, match[2] or b"")
    return checked


def check_line_host(host: bytes) -> bytes:
    """The name in the host of a request line, as `check_host` gives it. Raises RequestLineError(400)."""
    try:
        return check_host(host)[0]
    except MessageError:
        raise RequestLineError(400, "invalid host in request line") from None
