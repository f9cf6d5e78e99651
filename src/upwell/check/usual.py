"""What a check asks, and the answer that it mostly gets: many peers of one kind say the same, byte for byte. Pure."""

from __future__ import annotations

from typing import Final

from upwell.check.probe import Verdict

READ: Final = 8192  # bytes at once


class Usual:
    """One for all peers of a check whose probes say the same each time. `request` is what they send; `answer` the last
    whole answer that passed and came in one piece (None: there was none), `verdict` what it means, whoever gives it,
    and `keep` whether the connection may be used again after it. `most` is how many bytes are read at once, one more
    than it has: room for many more would cost as much as all else about reading.
    """

    __slots__ = ("answer", "keep", "most", "request", "verdict")

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.answer: bytes | None = None
        self.keep = False
        self.most = READ
        self.verdict = Verdict(True)

    def learn(self, answer: bytes, keep: bool, verdict: Verdict) -> None:
        """This is what the peers say now."""
        self.answer = answer
        self.keep = keep
        self.most = min(len(answer) + 1, READ)
        self.verdict = verdict

    def __repr__(self) -> str:
        return f"<Usual {self.request[:40]!r}>"
