"""The probe of type "ajp": AJP/1.3's CPing is answered by CPong. Knows those two packets, no socket."""

from __future__ import annotations

from typing import Final

from upwell.check.probe import Verdict
from upwell.check.said import said
from upwell.check.spec import CheckSpec

_CPING: Final = b"\x12\x34\x00\x01\x0a"  # to the container: its magic, one byte of content, CPing
_MAGIC: Final = b"AB"  # from the container
_CPONG: Final = 9


class AjpProbe:
    __slots__ = ("_data", "doing", "finished", "receiving", "reusable", "sending")

    def __init__(self, spec: CheckSpec, name: str) -> None:
        self.sending = "failed to send CPing to"
        self.receiving = "failed to receive CPong from"
        self.doing = "awaiting CPong"
        self.finished = True
        self.reusable = False
        self._data = b""

    def open(self) -> bytes:
        self._data = b""
        self.reusable = False
        return _CPING

    def again(self) -> bytes:
        return self.open()

    def feed(self, data: bytes) -> bytes | Verdict:
        if not data:
            return Verdict(False, "closed", "connection closed before CPong")
        size = len(self._data) + len(data)
        data = self._data = (self._data + data)[:5]
        # Judged byte by byte in order, so that the pieces in which they come make no difference.
        for at, (got, want) in enumerate(zip(data, _MAGIC, strict=False)):
            if got != want:
                shown = said(data[: at + 1])
                return Verdict(False, "protocol", f'not AJP: the answer begins with "{shown}"')
        if len(data) >= 4 and data[2:4] != b"\0\1":
            length = int.from_bytes(data[2:4], "big")
            return Verdict(False, "protocol", f"AJP packet of {length} bytes, want CPong's 1")
        if len(data) < 5:
            return b""
        if data[4] != _CPONG:
            return Verdict(False, "protocol", f"AJP packet of type {data[4]}, want CPong (9)")
        self.reusable = size == 5
        return Verdict(True)
