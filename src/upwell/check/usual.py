"""What a check asks, and the answer that it mostly gets: many peers of one kind say the same, byte for byte. Pure."""

from __future__ import annotations

from upwell.check.probe import Verdict


class Usual:
    """One for all peers of a check whose probes say the same each time. `request` is what they send; `answer` the last
    whole answer that passed and came in one piece (None: there was none), `verdict` what it means, whoever gives it,
    and `keep` whether the connection may be used again after it.
    """

    __slots__ = ("answer", "keep", "request", "verdict")

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.answer: bytes | None = None
        self.keep = False
        self.verdict = Verdict(True)

    def __repr__(self) -> str:
        return f"<Usual {self.request[:40]!r}>"
