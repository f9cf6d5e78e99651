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

_AUTHENTICATION, _ERROR = 0x52, 0x45  # "R", "E"
_AUTHENTICATED: Final = 0
_TERMINATE: Final = b"X\0\0\0\4"

_USER: Final = "postgres"
_WHO: Final = ("28", "3D")  # SQLSTATE: who asks may not come in, or has no such database


class PostgresProbe:
    """Any authentication request passes. An error fails with the server's words, if a user (and a database) is named
    in `CheckSpec.params`; without one, that a user is refused says nothing against the server.

    The server logs no complaint about a client that hangs up when asked for a password, but it does about one that
    says Terminate there; whom it lets in without one says Terminate, as it should.
    """

    __slots__ = ("_data", "_first", "_named", "doing", "finished", "receiving", "reusable", "sending")

    def __init__(self, spec: CheckSpec, name: str) -> None:
        params = dict(spec.params)
        self.sending = "failed to send StartupMessage to"
        self.receiving = "failed to receive the answer to StartupMessage from"
        self.doing = "awaiting the answer to StartupMessage"
        self.finished = True
        self.reusable = False
        self._data = b""
        self._named = "user" in params
        self._first = startup_message(params.get("user", _USER), params.get("database", ""))

    def open(self) -> bytes:
        self._data = b""
        self.finished = True
        return self._first

    def again(self) -> bytes:
        """Never asked for: a connection is started once."""
        return b""

    def feed(self, data: bytes) -> bytes | Verdict:
        self.finished = True
        if not data:
            return Verdict(False, "closed", "connection closed before the answer to StartupMessage")
        data = self._data = self._data + data
        kind = data[0]
        if kind not in (_AUTHENTICATION, _ERROR):
            return Verdict(False, "protocol", f'not PostgreSQL: the answer begins with "{said(data[:1])}"')
        if len(data) < 5:
            return b""
        length = int.from_bytes(data[1:5], "big")
        if not 8 <= length <= _MOST:
            if kind == _ERROR:
                return self._ancient(data)
            return Verdict(False, "protocol", f"not PostgreSQL: message of {length} bytes")
        if len(data) < 1 + length:
            return b""
        message = data[5 : 1 + length]
        self._data = b""
        if kind == _ERROR:
            self.finished = False  # the server hangs up
            return self._refused(message)
        if int.from_bytes(message[:4], "big") == _AUTHENTICATED:
            self.finished = False
            return Verdict(True, farewell=_TERMINATE)
        return Verdict(True)

    def _ancient(self, data: bytes) -> bytes | Verdict:
        """What a server says that cannot even make a process for a client: words up to a NUL and no more."""
        end = data.find(b"\0", 1, _MOST)
        if not data[1:5].isascii() or (end < 0 and len(data) >= _MOST):
            return Verdict(False, "protocol", "not PostgreSQL: an error without an end")
        if end < 0:
            return b""
        self._data = b""
        self.finished = False
        return Verdict(False, "status", f"postgres: {said(data[1:end].strip())}")

    def _refused(self, message: bytes) -> Verdict:
        """An ErrorResponse: fields of a letter and words, each ended by a NUL; an empty one at the end."""
        fields: dict[bytes, str] = {}
        if message[-1:] != b"\0":
            return Verdict(False, "protocol", "not PostgreSQL: an error without an end")
        for field in message.split(b"\0"):
            fields.setdefault(field[:1], said(field[1:]))
        code = fields.get(b"C", "")
        if not self._named and code[:2] in _WHO:
            return Verdict(True)
        severity = fields.get(b"S", "ERROR")
        words = fields.get(b"M", "an error without words")
        return Verdict(False, "status", f"postgres {severity}: {words}" + (f" ({code})" if code else ""))


def startup_message(user: str, database: str) -> bytes:
    """Without a database the server takes the one that is called like the user."""
    body = _PROTOCOL + b"user\0" + _text(user)
    if database:
        body += b"database\0" + _text(database)
    body += b"\0"
    return (len(body) + 4).to_bytes(4, "big") + body


def _text(value: str) -> bytes:
    return value.encode("utf-8", "replace").replace(b"\0", b"") + b"\0"
