"""Heads of requests and responses: from the bytes up to the empty line to a checked head.

Knows the start lines and which mistakes have which status; the fields are read by `fields`.
"""

from __future__ import annotations

from typing import Final, cast

from upwell.errors import MessageError, RequestLineError
from upwell.http1.fields import FieldReader, FieldSection, shown
from upwell.http1.limits import DEFAULT_LIMITS, Counted, HeadLimits
from upwell.http1.syntax import BARE_LF, FIELD_LINE, REQUEST_LINE, REQUEST_LINE_BEGUN, STATUS_LINE
from upwell.http1.target import Target

_MOST_HEADS: Final = 1024
_LARGEST_HEAD: Final = 2048
"""Whole heads are remembered, as sections are: what a client or a peer says again byte for byte is not read again."""

_MOST_SHOWN: Final = 1748
"""How much of a line that is too long the log shows: nginx leaves room for what else is in its line."""

_OTHERS: Final = (
    (b"\x16", "TLS ClientHello to plain HTTP port"),
    (b"PROXY ", "PROXY protocol header to port without proxy_protocol"),
    (b"\0\r\nQUIT\n", "PROXY protocol header to port without proxy_protocol"),  # empty lines before it are skipped
)
"""How other protocols begin that are often sent here by mistake."""


class RequestHead:
    """A request's head: `version` is 10 or 11; `end` is where the body starts in the bytes that were parsed.

    `line` is the request line without its CRLF. `parsed` is room for whoever takes the target apart. `kept`: the same
    object is given for the same bytes from now on, so what is made of it is worth remembering.
    """

    __slots__ = ("end", "kept", "line", "method", "parsed", "section", "target", "version")

    def __init__(
        self, line: bytes, method: bytes, target: bytes, version: int, section: FieldSection, end: int
    ) -> None:
        self.line: bytes = line
        self.kept = False
        self.parsed: Target | None = None
        self.method: bytes = method
        self.target: bytes = target
        self.version: int = version
        self.section: FieldSection = section
        self.end: int = end

    def __repr__(self) -> str:
        return f"<RequestHead {self.method!r} {self.target!r}>"


class ResponseHead:
    """A response's head: `line` is status and reason as they go into a status line, e.g. b"200 OK"."""

    __slots__ = ("end", "line", "section", "status", "version")

    def __init__(self, version: int, status: int, line: bytes, section: FieldSection, end: int) -> None:
        self.version = version
        self.status = status
        self.line = line
        self.section = section
        self.end = end

    def __repr__(self) -> str:
        return f"<ResponseHead {self.line!r}>"


def parse_request_head(
    data: bytes,
    reader: FieldReader,
    limits: HeadLimits = DEFAULT_LIMITS,
    searched: int = 0,
    counted: Counted | None = None,
) -> RequestHead | None:
    """The request head at the start of `data`, or None while it is not complete.

    `data` must not start with an empty line; `searched` bytes of it were given before and had no end in them, `counted`
    is what was counted of them.
    Raises MessageError: 400 bad syntax, 414 request line over the limits, 494 (nginx's "Request Header Or Cookie Too
    Large") another line or the whole over the limits, 501 unknown Transfer-Encoding, 505 version above 1.
    (RFC 9112, 2-6)
    """
    if not searched:
        known = reader.heads.get(data)
        if known is not None:
            return cast("RequestHead", known)
    end = data.find(b"\r\n\r\n", max(searched - 3, 0))
    if end < 0:
        _check_partial(data, reader, limits, searched, counted)
        return None
    head = data if end + 4 == len(data) else data[: end + 4]
    known = reader.heads.get(head)
    if known is not None:
        return cast("RequestHead", known)
    match = REQUEST_LINE.match(data)
    if match is None:
        raise _bad_request_line(data, limits)
    if end + 4 >= limits.plain:
        _check_size(data, end + 4, limits, counted)
    method, target, major, minor = match.groups()
    if major != b"1":
        raise _bad_version(data, major)
    section = reader.read(data[match.end() : end + 2])
    version = 10 if minor == b"0" else 11
    if version == 10:
        if section.chunked:
            raise MessageError(400, 'HTTP/1.0 request with "Transfer-Encoding" header')
    elif section.host is None:
        raise MessageError(400, 'HTTP/1.1 request without "Host" header')
    read = RequestHead(data[: match.end() - 2], method, target, version, section, end + 4)
    read.kept = _remember(reader, head, read)
    return read


def _remember(reader: FieldReader, head: bytes, read: object) -> bool:
    """Remember a head that comes again; whether it was done."""
    if len(head) > _LARGEST_HEAD or not reader.returning.is_again(head):
        return False
    if len(reader.heads) >= _MOST_HEADS:
        reader.heads.clear()
    reader.heads[head] = read
    return True


def refused_head(data: bytes, only_line: bool = False) -> RequestHead:
    """What is known of a request whose head was refused, for the log: its line as far as it can be read, and, unless
    `only_line`, the values of the field lines before the first that is none.
    """
    line = data.partition(b"\n")[0].rstrip(b"\r")[:2048]
    match = REQUEST_LINE.match(data)
    section = FieldSection((), ())
    if match is None:
        return RequestHead(line, b"", b"", 11, section, 0)
    method, target, _, minor = match.groups()
    end = match.end()
    values = section.values
    while not only_line and (stop := data.find(b"\r\n", end)) >= 0:
        found = FIELD_LINE.fullmatch(data, end, stop)
        if found is None:
            end += 2 * (stop == end)
            break
        name, value = found[1].lower(), found[2]
        values.setdefault(name, value)
        end = stop + 2
    return RequestHead(line, method, target, 10 if minor == b"0" else 11, section, end)


def _check_partial(
    data: bytes, reader: FieldReader, limits: HeadLimits, searched: int, counted: Counted | None
) -> None:
    """Refuse a head that can no longer become a good one, so that nobody waits for its end."""
    first = data.find(b"\n")
    if first < 0:
        if REQUEST_LINE_BEGUN.fullmatch(data) is None or len(data) >= limits.line:
            raise _bad_request_line(data, limits)
        return
    match = REQUEST_LINE.match(data)
    if match is None:
        raise _bad_request_line(data, limits)
    if match[3] != b"1":
        raise _bad_version(data, match[3])
    if BARE_LF.search(data, max(searched - 1, 0)) is not None:
        raise MessageError(400, "bare LF in header")
    _check_size(data, len(data), limits, counted)
    if data.find(b"\n", searched) >= 0:
        _check_lines(data, match.end(), reader, Counted() if counted is None else counted)


def _check_lines(data: bytes, first: int, reader: FieldReader, counted: Counted) -> None:
    """Refuse more field lines than a head may have; the first of them starts at `first`, the last may lack its end."""
    most = reader.max_fields
    start = counted.line or first
    before = counted.lines
    counted.lines += data.count(b"\n", start)
    counted.line = data.rfind(b"\n") + 1
    if counted.lines <= most:
        return
    # Only now is it worth the time to look which of them count.
    counted.fields += reader.count(data[first if before <= most else start : counted.line])
    if counted.fields > most:
        raise MessageError(494, "too many header lines")


def _check_size(data: bytes, end: int, limits: HeadLimits, counted: Counted | None) -> None:
    status = limits.exceeded(data, end, counted)
    if status == 414:
        raise RequestLineError(414, "too long URI")
    if status:
        place = Counted()
        limits.exceeded(data, end, place)
        line = data[place.start : place.start + _MOST_SHOWN].partition(b"\r")[0]
        raise MessageError(status, f'too long header line: "{shown(line)[:_MOST_SHOWN]}..."')


def _bad_request_line(data: bytes, limits: HeadLimits) -> RequestLineError:
    """Which mistake comes first in a request line: a byte that cannot stand there, or too many of them."""
    begun = REQUEST_LINE_BEGUN.match(data)
    good = 0 if begun is None else begun.end()
    if good >= limits.line:
        return RequestLineError(414, "too long URI")
    what = "invalid request" if 32 in data[:good] else "invalid method"
    return RequestLineError(400, next((other for start, other in _OTHERS if data.startswith(start)), what))


def _bad_version(data: bytes, major: bytes) -> RequestLineError:
    if data.startswith(b"PRI * "):
        return RequestLineError(400, "HTTP/2 connection preface to HTTP/1.1 port")
    return RequestLineError(400 if major == b"0" else 505, "invalid version")


def parse_response_head(data: bytes, reader: FieldReader, max_head: int = 65_536) -> ResponseHead | None:
    """The response head at the start of `data`, or None while it is not complete.

    Raises MessageError(502) for whatever is wrong with it: the upstream is at fault. (RFC 9112, 4-6)
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) >= max_head:
            raise MessageError(502, "too big header")
        if BARE_LF.search(data) is not None:
            raise MessageError(502, "bare LF in header")
        if len(data) >= 9 and not data.startswith(b"HTTP/1."):
            raise MessageError(502, "no valid HTTP/1.0 header")
        return None
    if end + 4 > max_head:  # the whole head is to fit into nginx's proxy_buffer_size
        raise MessageError(502, "too big header")
    head = data if end + 4 == len(data) else data[: end + 4]
    known = reader.heads.get(head)
    if known is not None:
        return cast("ResponseHead", known)
    match = STATUS_LINE.match(data)
    if match is None:
        raise MessageError(502, "no valid HTTP/1.0 header")
    minor, status, reason = match.groups()
    try:
        section = reader.read(data[match.end() : end + 2])
    except MessageError as error:
        raise MessageError(502, error.reason) from None
    line = status + (reason if reason is not None else b" ")
    read = ResponseHead(10 if minor == b"0" else 11, int(status), line, section, end + 4)
    _remember(reader, head, read)
    return read
