"""The probe of type "http" but lua-resty's: a whole HTTP answer, read strictly and held against rules (`check.rules`).

Tengine's checks look at the status line alone, as does the module, which people have in front of anything that begins
with one: it decides as soon as it is there, unless the whole head is and can be read.

Knows messages, no socket. The verdict comes as soon as it is certain: with the head, unless the content counts. What
comes behind it is read on (`drain`), so that the peer is not met with a reset and the connection can be used again.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from upwell.check.match import status_of
from upwell.check.probe import Verdict
from upwell.check.rules import MOST_CONTENT, Rules, quoted
from upwell.check.spec import TENGINE, CheckSpec
from upwell.check.usual import Usual
from upwell.errors import MessageError
from upwell.http1.fields import FieldReader
from upwell.http1.framing import ChunkedReader, CloseReader, LengthReader, Reader
from upwell.http1.head import ResponseHead, parse_response_head
from upwell.http1.syntax import BARE_LF, STATUS_LINE
from upwell.version import VERSION

MAX_HEAD: Final = 32_768
"""Bytes of an answer's head at most, those of interim answers (1xx) before it included."""

_MOST_HEADS: Final = 256
_LARGEST_HEAD: Final = 1024  # bytes: of what is remembered, one may have to be kept for each peer
_CONNECTION: Final = re.compile(rb"\nconnection:[ \t]*(close|keep-alive)[ \t]*(?:\r|\Z)", re.IGNORECASE)
_DATE: Final = re.compile(rb"[A-Za-z0-9,: ]{29}\r\n")

_CHUNKED: Final = -1
_UNTIL_CLOSE: Final = -2

_LINE: Final = "reading the status line"
_HEADER: Final = "reading the header"
_CONTENT: Final = "reading the content"


class Head:
    """An answer's head that was read and judged. `length` is that of the content, or _CHUNKED or _UNTIL_CLOSE;
    `verdict` is None when the content decides: then `content` is what was looked at last, and `judged` what it meant.
    """

    __slots__ = ("content", "interim", "judged", "keep", "key", "length", "status", "verdict")

    def __init__(self, key: bytes, status: int, length: int, keep: bool, verdict: Verdict | None) -> None:
        self.key = key
        self.status = status
        self.interim = 100 <= status < 200 and status != 101
        self.length = length
        self.keep = keep
        self.verdict = verdict
        self.content: bytes | None = None
        self.judged = _NOTHING


_NOTHING: Final = Verdict(False)
_UNKNOWN: Final = Head(b"", 0, 0, False, None)


class HttpCheck:
    """What all peers of one check share: the question, the rules, and the heads that were read before."""

    __slots__ = (
        "_dated",
        "_fields",
        "_heads",
        "_keep",
        "_no_content",
        "lenient",
        "request",
        "rules",
        "usual",
    )

    def __init__(self, spec: CheckSpec) -> None:
        """Raises ValueError for a rule that cannot be."""
        self.request = spec.request or default_request(spec)
        self.usual = Usual(self.request)
        self.rules = Rules(spec.match)
        self.lenient = spec.dialect == TENGINE
        head = self.request.partition(b"\r\n\r\n")[0]
        option = _CONNECTION.search(head)
        if option is None:
            self._keep = head.partition(b"\r\n")[0].endswith(b" HTTP/1.1")
        else:
            self._keep = option[1].lower() == b"keep-alive"
        self._no_content = head.startswith(b"HEAD ")
        self._dated = self.rules.reads_date
        self._heads: dict[bytes, Head] = {}
        self._fields = FieldReader(ignore_invalid=False, max_line=MAX_HEAD, request=False)

    def __repr__(self) -> str:
        return f"<HttpCheck {self.request[:40]!r}>"

    def key(self, head: bytes) -> bytes:
        """`head` without its date, if that does not count: else no head would ever come twice."""
        if self._dated:
            return head
        at = head.find(b"\r\nDate: ")
        if at < 0:
            at = head.find(b"\r\ndate: ")
        # Only what has the form of a date (29 bytes) may be left out unread.
        if at >= 0 and _DATE.match(head, at + 8) is not None:
            return head[:at] + head[at + 37 :]
        return head

    def read(self, key: bytes, head: bytes) -> Head:
        """The head whose `key` this is. Raises MessageError."""
        known = self._heads.get(key)
        if known is None:
            read = parse_response_head(head, self._fields, MAX_HEAD)
            assert read is not None
            known = self._judge(key, read)
            if len(key) <= _LARGEST_HEAD:
                if len(self._heads) >= _MOST_HEADS:
                    self._heads.clear()
                self._heads[key] = known
        return known

    def _judge(self, key: bytes, read: ResponseHead) -> Head:
        status, section = read.status, read.section
        length = section.content_length
        if self._no_content or status < 200 or status in (204, 304):
            length = 0
        elif section.chunked:
            length = _CHUNKED
        elif length is None:
            length = _UNTIL_CLOSE
        keep = self._keep and length != _UNTIL_CLOSE and status != 101
        keep = keep and (section.keep_alive if read.version == 10 else not section.close)
        wrong = self.rules.head(status, section)
        verdict = None
        if wrong is not None:
            verdict = Verdict(False, *wrong, status)
        elif not self.rules.reads_content:
            verdict = Verdict(True, status=status)
        return Head(key, status, length, keep, verdict)


class HttpMatchProbe:
    """One peer's. `_head` is the last head it sent, which it mostly sends again."""

    __slots__ = ("_buffer", "_check", "_content", "_head", "_reader", "_skipped", "doing", "finished", "reusable")

    sending = "failed to send request to"
    receiving = "failed to receive response from"

    def __init__(self, spec: CheckSpec, name: str) -> None:
        """Raises ValueError for a check that cannot be."""
        self._check = http_check(spec)
        self._head = _UNKNOWN
        self._buffer = b""
        self._skipped = 0  # bytes of interim answers
        self._reader: Reader | None = None  # of the content, when the head is over
        self._content: bytearray | None = None
        self.doing = _LINE
        self.finished = False
        self.reusable = False

    @property
    def usual(self) -> Usual:
        return self._check.usual

    def open(self) -> bytes:
        self._buffer = b""
        self._content = None
        self._skipped = 0
        self._reader = None
        self.doing = _LINE
        self.finished = False
        self.reusable = False
        return self._check.request

    def again(self) -> bytes:
        if self._reader is not None or self._buffer:
            return self.open()
        self.finished = False
        self._skipped = 0
        return self._check.request

    def feed(self, data: bytes) -> bytes | Verdict:
        if self._reader is not None:
            return self._take(data) if data else self._closed()
        if not data:
            return self._closed()
        check = self._check
        searched = len(self._buffer)
        if searched:
            data = self._buffer + data
        start = data
        while True:
            end = data.find(b"\r\n\r\n", searched - 3 if searched > 3 else 0) + 4
            if end < 4:
                return self._wait(data, searched)
            head = self._head
            whole = data[:end]
            key = check.key(whole)
            if key != head.key:
                try:
                    head = check.read(key, whole)
                except MessageError as error:
                    return self._malformed(whole, error)
                if not head.interim:
                    self._head = head
            if not head.interim:
                break
            self._skipped += end
            if self._skipped > MAX_HEAD:
                return self._failed("protocol", "interim answers without end")
            data = data[end:]
            searched = 0
            if not data:
                self._buffer = b""
                self.doing = _LINE
                return b""
        length = head.length
        verdict = head.verdict
        if length == len(data) - end:
            # The whole answer came at once, which is the rule.
            self.finished = True
            self.reusable = head.keep
            if verdict is None:
                verdict = self._judge(head, data[end:])
            if data is start and verdict.passed and len(data) <= _LARGEST_HEAD:
                check.usual.learn(data, head.keep, verdict)
            return verdict
        self._buffer = b""
        self.doing = _CONTENT
        if length >= 0:
            self._reader = LengthReader(length)
        else:
            self._reader = ChunkedReader() if length == _CHUNKED else CloseReader()
        rest = data[end:]
        if verdict is None:
            return self._take(rest)
        if rest:
            self.drain(rest)
        return verdict

    def drain(self, data: bytes) -> bytes:
        reader = self._reader
        try:
            rest = reader.feed(data)[1] if reader is not None else b""
        except MessageError:
            self.finished = True
            return b""
        if reader is None or reader.complete:
            self._end(rest)
        return b""

    def _end(self, rest: bytes | None) -> None:
        """The answer is whole; `rest` is what nobody asked for."""
        self.finished = True
        self.reusable = self._head.keep and not rest

    def _take(self, data: bytes) -> bytes | Verdict:
        """More of the content, which decides."""
        reader = self._reader
        assert reader is not None
        try:
            content, rest = reader.feed(data)
        except MessageError as error:
            return self._failed("protocol", f"bad answer: {error.reason}", self._head.status)
        if self._content is None:
            self._content = bytearray()
        self._content += content
        if reader.complete:
            self._end(rest)
        elif len(self._content) < MOST_CONTENT:
            return b""
        return self._judge_content()

    def _judge_content(self) -> Verdict:
        content = self._content or b""
        self._content = None
        return self._judge(self._head, bytes(content[:MOST_CONTENT]))

    def _judge(self, head: Head, content: bytes) -> Verdict:
        if content == head.content:
            return head.judged
        wrong = self._check.rules.content(content)
        verdict = Verdict(True, status=head.status) if wrong is None else Verdict(False, *wrong, head.status)
        if len(content) <= _LARGEST_HEAD:
            head.content, head.judged = content, verdict
        return verdict

    def _wait(self, data: bytes, searched: int) -> bytes | Verdict:
        """The head is not over; refuse one that can no longer become a good one."""
        if self._check.lenient:
            decided = self._by_line(data)
            if decided is not None:
                return decided
        if not data.startswith(b"HTTP/1."[: len(data)]):
            return self._failed("protocol", f"bad status line: {quoted(_first_line(data))}")
        if BARE_LF.search(data, searched - 1 if searched else 0) is not None:
            return self._failed("protocol", "bad answer: bare LF in header")
        if len(data) > MAX_HEAD:
            return self._failed("protocol", "bad answer: too big header")
        self._buffer = data
        if self.doing is _LINE and b"\r\n" in data:
            self.doing = _HEADER
        return b""

    def _closed(self) -> Verdict:
        reader = self._reader
        if isinstance(reader, CloseReader):
            self.finished = True
            return self._judge_content()
        if reader is not None:
            return self._failed("closed", "connection closed in the content", self._head.status)
        if self._buffer:
            where = "in the header" if self.doing is _HEADER else "in the status line"
        else:
            where = "before the status line"
        return self._failed("closed", f"connection closed {where}")

    def _by_line(self, data: bytes) -> Verdict | None:
        """What the status line alone decides, None as long as it does not; what follows is read without looking."""
        end = data.find(b"\n")
        status = status_of(data[:end]) if end >= 0 else 0
        if status < 200:
            return None
        self._buffer = b""
        self.doing = _CONTENT
        self.reusable = False
        self._reader = CloseReader()
        wrong = self._check.rules.status(status)
        return Verdict(True, status=status) if wrong is None else Verdict(False, *wrong, status)

    def _malformed(self, head: bytes, error: MessageError) -> Verdict:
        if self._check.lenient:
            decided = self._by_line(head)
            if decided is not None:
                return decided
        if head.startswith(b"HTTP/1.") and BARE_LF.search(head) is not None:
            return self._failed("protocol", "bad answer: bare LF in header")
        if STATUS_LINE.match(head) is None:
            return self._failed("protocol", f"bad status line: {quoted(_first_line(head))}")
        return self._failed("protocol", f"bad answer: {error.reason}"[:200])

    def _failed(self, kind: str, why: str, status: int = 0) -> Verdict:
        self.finished = True
        self.reusable = False
        self._buffer = b""
        self._content = None
        return Verdict(False, kind, why, status)


def default_request(spec: CheckSpec) -> bytes:
    """What is asked by a check that does not say what: its host's, or else its upstream's, "/"."""
    host = (spec.host or spec.upstream).encode("utf-8", "surrogateescape")
    close = b"" if spec.keepalive_time else b"Connection: close\r\n"
    agent = f"upwell/{VERSION} (health check)".encode()
    return b"GET / HTTP/1.1\r\nHost: %b\r\nUser-Agent: %b\r\n%b\r\n" % (host, agent, close)


@lru_cache(maxsize=64)
def http_check(spec: CheckSpec) -> HttpCheck:
    """What the peers of this check share. Raises ValueError for a check that cannot be."""
    return HttpCheck(spec)


def _first_line(data: bytes) -> str:
    return data[:200].partition(b"\n")[0].rstrip(b"\r").decode("utf-8", "surrogateescape")
