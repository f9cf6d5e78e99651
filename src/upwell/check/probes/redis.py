"""The probe of type "redis": PING is answered by PONG. Knows RESP's one-line replies, no socket."""

from __future__ import annotations

from typing import Final

from upwell.check.probe import Verdict
from upwell.check.said import said
from upwell.check.spec import CheckSpec

_PING: Final = b"*1\r\n$4\r\nPING\r\n"
_MAX_LINE: Final = 1024  # bytes; Redis cuts its own errors shorter


class RedisProbe:
    """Everything but `+PONG` fails, as for HAProxy's redis-check: a server that wants a password (NOAUTH), is still
    reading its data (LOADING) or in a script (BUSY) says so itself, and its words are the reason."""

    __slots__ = ("_data", "doing", "finished", "receiving", "reusable", "sending")

    def __init__(self, spec: CheckSpec, name: str) -> None:
        self.sending = "failed to send PING to"
        self.receiving = "failed to receive the reply to PING from"
        self.doing = "awaiting the reply to PING"
        self.finished = True
        self.reusable = False
        self._data = b""

    def open(self) -> bytes:
        self._data = b""
        self.reusable = False
        return _PING

    def again(self) -> bytes:
        return self.open()

    def feed(self, data: bytes) -> bytes | Verdict:
        if not data:
            return self._end(Verdict(False, "closed", "connection closed before the reply to PING"))
        data = self._data + data
        if data[0] not in b"+-":
            return self._end(Verdict(False, "protocol", f'not Redis: the reply begins with "{said(data[:1])}"'))
        end = data.find(b"\r\n", 0, _MAX_LINE)
        if end < 0:
            if len(data) >= _MAX_LINE:
                return self._end(Verdict(False, "protocol", "reply to PING too long"))
            self._data = data
            return b""
        words = said(data[1:end])
        if data[:end] == b"+PONG":
            # More than was asked for belongs to no question that could be asked on this connection.
            self.reusable = len(data) == end + 2
            return self._end(Verdict(True))
        if data[0] == 0x2D:
            return self._end(Verdict(False, "status", words or "an error without words"))
        return self._end(Verdict(False, "protocol", f'reply "{words}" to PING, want "PONG"'))

    def _end(self, verdict: Verdict) -> Verdict:
        self._data = b""
        return verdict
