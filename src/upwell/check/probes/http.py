"""The probe of type "http": send the request, and the status line decides. Knows HTTP's first line, no socket."""

from __future__ import annotations

from upwell.check.match import MAX_LINE, is_whole, problem, status_of
from upwell.check.probes.probe import Verdict
from upwell.check.spec import CheckSpec


class HttpProbe:
    """lua-resty's conversation: one write, one line. Carriage returns in the line are dropped as cosockets do."""

    __slots__ = (
        "_data",
        "_head_request",
        "_line",
        "_name",
        "_request",
        "_statuses",
        "_verdict",
        "finished",
        "receiving",
        "sending",
    )

    def __init__(self, spec: CheckSpec, name: str) -> None:
        self.sending = "failed to send request to"
        self.receiving = "failed to receive status line from"
        self.finished = False
        self._request = spec.request
        self._head_request = spec.request[:5].upper() == b"HEAD "
        self._statuses = frozenset(spec.statuses)
        self._name = name
        self._data = b""
        # What the peer said last and what that meant: it mostly says the same again.
        self._line = b""
        self._verdict = Verdict(False)

    def open(self) -> bytes:
        self._data = b""
        self.finished = False
        return self._request

    def feed(self, data: bytes) -> bytes | Verdict:
        if not data:
            self.finished = True
            return Verdict(False, f"{self.receiving} {self._name}: closed")
        if self._data:
            data = self._data + data
        end = data.find(b"\n")
        if end < 0:
            if len(data) > MAX_LINE:
                return Verdict(False, f"{self.receiving} {self._name}: line too long")
            self._data = data
            return b""
        self.finished = is_whole(data, self._head_request)
        line = data[: end + 1]
        if line != self._line:
            self._verdict = self._judge(line[:-1].replace(b"\r", b""))
            self._line = line
        return self._verdict

    def _judge(self, line: bytes) -> Verdict:
        status = status_of(line)
        wrong = problem(line, status, self._statuses)
        if wrong is None:
            return Verdict(True, "", status)
        return Verdict(False, f"{wrong[0]} {self._name}: {wrong[1]}", status)
