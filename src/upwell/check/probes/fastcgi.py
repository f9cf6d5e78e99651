"""The probe of type "fastcgi": a request to a responder, judged by its status. Knows FastCGI's records, no socket."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from upwell.check.probe import Verdict
from upwell.check.rules import Rules
from upwell.check.said import said
from upwell.check.spec import TENGINE, CheckSpec, MatchSpec
from upwell.http1.fields import FieldSection

_BEGIN, _END, _PARAMS, _STDIN, _STDOUT, _STDERR = 1, 3, 4, 5, 6, 7
_RESPONDER: Final = 1
_KEEP: Final = 1  # FCGI_KEEP_CONN
_HEADER: Final = 8
_ENDING: Final = 8  # bytes in FCGI_END_REQUEST
_PROTOCOL_STATUS: Final = ("", "cannot multiplex", "overloaded", "unknown role")

_MOST_HEAD: Final = 16_384
_MOST_TOLD: Final = 512  # bytes of what it says on stderr
_MOST: Final = 1 << 20  # bytes that are read for the sake of the connection

_DEFAULT: Final = (("REQUEST_METHOD", "GET"), ("REQUEST_URI", "/"), ("SCRIPT_FILENAME", "index.php"))
"""nginx_upstream_check_module's."""

_EMPTY_LINE: Final = re.compile(rb"(?:^|\n)\r?\n")
_STATUS: Final = re.compile(rb"[ \t]*([1-9]\d\d)(?:[ \t\r]|$)")


class FastcgiProbe:
    """`CheckSpec.params` are the request's, `match` judges the head of the response (not its content).

    A response without a Status field is a 200, or a 302 with a Location (RFC 3875, 6.2). What comes on stderr is told
    where the status fails; in Tengine's dialect it fails by itself if it comes first, as it does there.
    """

    __slots__ = (
        "_data",
        "_ended",
        "_first",
        "_head",
        "_keep",
        "_left",
        "_padding",
        "_read",
        "_rules",
        "_strict",
        "_told",
        "_type",
        "_verdict",
        "doing",
        "finished",
        "receiving",
        "reusable",
        "sending",
    )

    def __init__(self, spec: CheckSpec, name: str) -> None:
        self.sending = "failed to send the FastCGI request to"
        self.receiving = "failed to receive the FastCGI response from"
        self.doing = "awaiting the FastCGI response"
        self._keep = spec.keepalive_time > 0
        self._first = request(spec.params or _DEFAULT, self._keep)
        self._rules = _rules(spec.match)
        self._strict = spec.dialect == TENGINE
        self._begin()

    def _begin(self) -> None:
        self.finished = False
        self.reusable = False
        self._data = b""  # the beginning of a record's header, or of what must be whole
        self._type = 0  # of the record that is being read
        self._left = 0  # bytes of its content to come
        self._padding = 0
        self._read = 0
        self._head = b""
        self._told = b""
        self._ended = False
        self._verdict: Verdict | None = None  # on the head; the rest is read for the sake of the connection

    def open(self) -> bytes:
        self._begin()
        return self._first

    def again(self) -> bytes:
        return self.open()

    def feed(self, data: bytes) -> bytes | Verdict:
        if not data:
            self.finished = True
            if self._verdict is not None:
                return self._verdict
            return Verdict(False, "closed", f"connection closed before the FastCGI response{self._aside()}")
        self._read += len(data)
        verdict = self._records(self._data + data)
        if verdict is not None:
            self._data = b""
            return verdict
        if self._verdict is not None and (not self._keep or self._read > _MOST):
            return self._verdict
        if self._read > _MOST:
            return self._wrong(f"no head in {_MOST} bytes")
        return b""

    def _records(self, data: bytes) -> Verdict | None:
        """Take in what has come. A verdict that needs no more: of a wrong record, or at the end of the request."""
        at = 0
        while at < len(data):
            if self._left:
                if self._type == _END and len(data) - at < self._left:
                    break
                end = min(at + self._left, len(data))
                self._left -= end - at
                verdict = self._content(data[at:end])
                at = end
                if verdict is not None:
                    return verdict
            elif self._padding:
                end = min(at + self._padding, len(data))
                self._padding -= end - at
                at = end
            elif self._ended:
                return self._over(False)
            elif len(data) - at < _HEADER:
                break
            else:
                verdict = self._header(data[at : at + _HEADER])
                at += _HEADER
                if verdict is not None:
                    return verdict
        if self._ended and not self._padding:
            return self._over(True)
        self._data = data[at:]
        return None

    def _header(self, header: bytes) -> Verdict | None:
        version, kind, high, low = header[:4]
        if version != 1:
            return self._wrong(f"version {version}, want 1")
        if kind not in (_END, _STDOUT, _STDERR):
            return self._wrong(f"record of type {kind}")
        if (high, low) != (0, 1):
            return self._wrong(f"request {high << 8 | low}, want 1")
        self._type = kind
        self._left = int.from_bytes(header[4:6], "big")
        self._padding = header[6]
        if kind == _END and self._left != _ENDING:
            return self._wrong(f"FCGI_END_REQUEST of {self._left} bytes, want {_ENDING}")
        if kind == _STDOUT and not self._left and self._verdict is None:
            return self._wrong(f"stdout closed before the end of the head{self._aside()}")
        return None

    def _content(self, content: bytes) -> Verdict | None:
        if self._type == _END:
            self._ended = True
            if self._verdict is not None:
                return None
            status = content[4]
            why = _PROTOCOL_STATUS[status] if status < len(_PROTOCOL_STATUS) else f"protocol status {status}"
            if why:
                return self._failed("status", f"FastCGI: {why}")
            return self._wrong(f"request ended before the end of the head{self._aside()}")
        if self._verdict is not None:
            return None
        if self._type == _STDERR:
            self._told = (self._told + content)[:_MOST_TOLD]
            if self._strict and not self._head and (not self._left or len(self._told) == _MOST_TOLD):
                return self._failed("status", f"FastCGI stderr: {said(self._told.strip())}")
            return None
        known = max(0, len(self._head) - 2)  # no empty line begins before it
        self._head = (self._head + content)[: _MOST_HEAD + 1]
        end = _EMPTY_LINE.search(self._head, known)
        if end is None:
            if len(self._head) > _MOST_HEAD:
                return self._wrong(f"head of more than {_MOST_HEAD} bytes")
            return None
        verdict = self._judged(self._head[: end.start()])
        self._head = b""
        if verdict.kind == "protocol":
            return verdict
        self._verdict = verdict
        return None

    def _judged(self, head: bytes) -> Verdict:
        status, fields = 0, []
        for line in head.split(b"\n"):
            name, colon, value = line.partition(b":")
            if not colon or not name.strip():
                return self._wrong(f'line "{said(line.rstrip())}" in the head')
            name = name.strip().lower()
            fields.append((name, value.strip()))
            if name == b"status" and not status:
                found = _STATUS.match(value)
                if found is None:
                    return self._wrong(f'Status "{said(value.strip())}"')
                status = int(found[1])
        section = FieldSection(tuple(fields), (), False)
        if not status:
            status = 302 if b"location" in section.values else 200
        wrong = self._rules.head(status, section)
        if wrong is None:
            return Verdict(True, status=status)
        return Verdict(False, wrong[0], wrong[1] + self._aside(), status)

    def _over(self, clean: bool) -> Verdict:
        """The request has ended, and nothing came after it if `clean`."""
        self.finished = True
        self.reusable = self._keep and clean
        verdict = self._verdict
        assert verdict is not None
        return verdict

    def _aside(self) -> str:
        """What it said on stderr, to be added to a sentence."""
        words = said(self._told.strip())
        return f" ({words})" if words else ""

    def _wrong(self, words: str) -> Verdict:
        return self._failed("protocol", f"bad FastCGI: {words}")

    def _failed(self, kind: str, why: str) -> Verdict:
        self.finished = True
        return Verdict(False, kind, why)


@lru_cache(maxsize=64)
def _rules(match: MatchSpec | None) -> Rules:
    return Rules(match)


@lru_cache(maxsize=64)
def request(params: tuple[tuple[str, str], ...], keep: bool) -> bytes:
    """FCGI_BEGIN_REQUEST, the parameters, and an empty stdin."""
    content = b"".join(_pair(name, value) for name, value in params)
    records = [_record(_BEGIN, bytes((0, _RESPONDER, _KEEP if keep else 0, 0, 0, 0, 0, 0)))]
    records += [_record(_PARAMS, content[at : at + 0xFFFF]) for at in range(0, len(content), 0xFFFF)]
    return b"".join([*records, _record(_PARAMS, b""), _record(_STDIN, b"")])


def _record(kind: int, content: bytes) -> bytes:
    return bytes((1, kind, 0, 1)) + len(content).to_bytes(2, "big") + b"\0\0" + content


def _pair(name: str, value: str) -> bytes:
    """A name-value pair (FastCGI 1.0, 3.4): both lengths, in one byte or in four, then both."""
    key, text = name.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape")
    lengths = b"".join(
        bytes((len(each),)) if len(each) < 128 else (len(each) | 1 << 31).to_bytes(4, "big") for each in (key, text)
    )
    return lengths + key + text
