"""The probe of type "postgres": a StartupMessage is answered by the wish to know who asks. Knows messages, no socket.

That is HAProxy's pgsql-check. An SSLRequest would do with less, but a server answers it while it starts, recovers or
has no connection left; only a StartupMessage shows whether it takes clients.
"""

from __future__ import annotations

from typing import Final

from upwell.check.probe import Verdict
from upwell.check.said import said
from upwell.check.spec import CheckSpec

_PROTOCOL: Final = b"\0\3\0\0"  # 3.0
_MOST: Final = 8192  # bytes of a message
_MOST_READ: Final = 1 << 16

_AUTHENTICATION, _ERROR, _READY = 0x52, 0x45, 0x5A  # "R", "E", "Z"
_ANSWERS: Final = b"RE"
_GREETING: Final = b"EKNSZv"  # errors, the key to cancel with, notices, settings, ready, an older version
_AUTHENTICATED: Final = 0
_TERMINATE: Final = b"X\0\0\0\4"

_USER: Final = "postgres"
_WHO: Final = ("28", "3D")  # SQLSTATE: who asks may not come in, or has no such database


class PostgresProbe:
    """Who asks for a password passes; who lets in without one has to become ready.

    An error fails with the server's words, if a user (and a database) is named in `CheckSpec.params`; without one, that
    a user is refused says nothing against the server.

    The server logs no complaint about a client that hangs up when asked for a password, but it does about one that
    says Terminate there; whom it lets in without one says Terminate, as it should.
    """

    __slots__ = (
        "_data",
        "_first",
        "_let_in",
        "_named",
        "_read",
        "doing",
        "finished",
        "receiving",
        "reusable",
        "sending",
    )

    def __init__(self, spec: CheckSpec, name: str) -> None:
        params = dict(spec.params)
        self.sending = "failed to send StartupMessage to"
        self.reusable = False
        self._named = "user" in params
        self._first = startup_message(params.get("user", _USER), params.get("database", ""))
        self._begin()

    def _begin(self) -> None:
        self.receiving = "failed to receive the answer to StartupMessage from"
        self.doing = "awaiting the answer to StartupMessage"
        self.finished = True
        self._data = b""
        self._read = 0
        self._let_in = False

    def open(self) -> bytes:
        self._begin()
        return self._first

    def again(self) -> bytes:
        """Never asked for: a connection is started once."""
        return b""

    def feed(self, data: bytes) -> bytes | Verdict:
        self.finished = True
        if not data:
            before = "ReadyForQuery" if self._let_in else "the answer to StartupMessage"
            return Verdict(False, "closed", f"connection closed before {before}")
        self._read += len(data)
        data = self._data + data
        while data:
            kind = data[0]
            if kind not in (_GREETING if self._let_in else _ANSWERS):
                return self._wrong(f'the answer begins with "{said(data[:1])}"')
            if len(data) < 5:
                break
            length = int.from_bytes(data[1:5], "big")
            if not 5 <= length <= _MOST:
                if kind == _ERROR and not self._let_in:
                    self._data = data
                    return self._ancient(data)
                return self._wrong(f"message of {length} bytes")
            if len(data) < 1 + length:
                break
            verdict = self._message(kind, data[5 : 1 + length])
            if verdict is not None:
                self._data = b""
                return verdict
            data = data[1 + length :]
        self._data = data
        if self._read > _MOST_READ:
            return self._wrong("too much before ReadyForQuery")
        return b""

    def _message(self, kind: int, content: bytes) -> Verdict | None:
        if kind == _ERROR:
            self.finished = False  # the server hangs up
            return self._refused(content)
        if kind == _READY:
            self.finished = False
            return Verdict(True, farewell=_TERMINATE)
        if kind == _AUTHENTICATION and not self._let_in:
            if len(content) < 4:
                return self._wrong("authentication request cut short")
            if int.from_bytes(content[:4], "big") != _AUTHENTICATED:
                return Verdict(True)
            self._let_in = True
            self.receiving = "failed to receive ReadyForQuery from"
            self.doing = "awaiting ReadyForQuery"
        return None

    def _ancient(self, data: bytes) -> bytes | Verdict:
        """What a server says that cannot even make a process for a client: words up to a NUL and no more."""
        end = data.find(b"\0", 1, _MOST)
        if not data[1:5].isascii() or (end < 0 and len(data) >= _MOST):
            return self._wrong("an error without an end")
        if end < 0:
            return b""
        self._data = b""
        self.finished = False
        return Verdict(False, "status", f"postgres: {said(data[1:end].strip())}")

    def _refused(self, message: bytes) -> Verdict:
        """An ErrorResponse: fields of a letter and words, each ended by a NUL; an empty one at the end."""
        fields: dict[bytes, str] = {}
        if message[-1:] != b"\0":
            return self._wrong("an error without an end")
        for field in message.split(b"\0"):
            fields.setdefault(field[:1], said(field[1:]))
        code = fields.get(b"C", "")[:5]
        if not self._named and code[:2] in _WHO:
            return Verdict(True)
        severity = fields.get(b"S", "ERROR")[:20]
        words = fields.get(b"M", "an error without words")
        return Verdict(False, "status", f"postgres {severity}: {words}" + (f" ({code})" if code else ""))

    def _wrong(self, words: str) -> Verdict:
        self.finished = True
        self._data = b""
        return Verdict(False, "protocol", f"not PostgreSQL: {words}")


def startup_message(user: str, database: str) -> bytes:
    """Without a database the server takes the one that is called like the user."""
    body = _PROTOCOL + b"user\0" + _text(user)
    if database:
        body += b"database\0" + _text(database)
    body += b"\0"
    return (len(body) + 4).to_bytes(4, "big") + body


def _text(value: str) -> bytes:
    return value.encode("utf-8", "replace").replace(b"\0", b"") + b"\0"
