"""The probe of type "tcp": the connection is the answer. Nothing is sent, nothing is awaited."""

from __future__ import annotations

from upwell.check.probe import Verdict
from upwell.check.spec import CheckSpec


class TcpProbe:
    __slots__ = ("doing", "finished", "receiving", "reusable", "sending")

    def __init__(self, spec: CheckSpec, name: str) -> None:
        self.sending = "failed to send request to"
        self.receiving = "failed to receive from"
        self.doing = "reading"
        self.finished = True
        self.reusable = False

    def open(self) -> Verdict:
        return Verdict(True)

    def again(self) -> bytes:
        """Never asked for: a new connection is the question."""
        return b""

    def feed(self, data: bytes) -> Verdict:
        """Never asked for: `open` has already decided."""
        return Verdict(True)
