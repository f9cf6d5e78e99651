"""The probe of type "http": send the request, and the status line decides. Knows HTTP's first line, no socket."""

from __future__ import annotations

from upwell.check.match import MAX_LINE, is_whole, problem, status_of
from upwell.check.probe import Verdict
from upwell.check.spec import CheckSpec
from upwell.log import printable


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
        "doing",
        "finished",
        "receiving",
        "reusable",
        "sending",
    )

    def __init__(self, spec: CheckSpec, name: str) -> None:
        self.sending = "failed to send request to"
        self.receiving = "failed to receive status line from"
        self.doing = "reading the status line"
        self.finished = False
        self.reusable = False
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

    def again(self) -> bytes:
        return self.open()

    def feed(self, data: bytes) -> bytes | Verdict:
        if not data:
            self.finished = True
            return self._failed("closed", "connection closed before the status line", "closed")
        if self._data:
            data = self._data + data
        end = data.find(b"\n")
        if end < 0:
            if len(data) > MAX_LINE:
                return self._failed("protocol", "status line too long", "line too long")
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
            return Verdict(True, status=status)
        if status:
            want = " or ".join(str(one) for one in sorted(self._statuses))
            kind, why = "status", f"status {status}, want {want}"
        else:
            kind, why = "protocol", f"bad status line: {printable(line[:80])}"
        return Verdict(False, kind, why, status, f"{wrong[0]} {self._name}: {wrong[1]}")

    def _failed(self, kind: str, why: str, word: str) -> Verdict:
        return Verdict(False, kind, why, 0, f"{self.receiving} {self._name}: {word}")
