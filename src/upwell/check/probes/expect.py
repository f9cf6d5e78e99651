"""Send something, expect something: a probe of any protocol in which that says enough. Knows no socket."""

from __future__ import annotations

from functools import lru_cache
from time import thread_time
from typing import Final

from upwell.check.probe import Verdict
from upwell.check.rules import Compiled, compiled, quoted
from upwell.check.spec import CheckSpec
from upwell.pcre import PatternTimeout

MOST: Final = 65_536
"""Bytes in which the expected is looked for."""
MOST_TIME: Final = 0.2
"""Seconds of processor for all searches of one probe: a peer that sends byte by byte has each of them searched anew."""


class ExpectProbe:
    """`CheckSpec.request` (if there is one) is sent, `CheckSpec.expect` awaited in what the peer sends; the peer may
    speak first. Without `expect` any word of the peer's will do.
    """

    __slots__ = ("_data", "_expect", "_request", "_spent", "doing", "finished", "reusable")

    sending = "failed to send request to"
    receiving = "failed to receive response from"

    def __init__(self, spec: CheckSpec, name: str) -> None:
        """Raises ValueError for a regular expression that is none."""
        self._request = spec.request
        self._expect = shared(spec.expect) if spec.expect else None
        self._data = b""
        self._spent = 0.0
        self.doing = f"waiting for {self._awaited}"
        self.finished = False
        self.reusable = False

    @property
    def _awaited(self) -> str:
        return self._expect.wanted if self._expect is not None else "an answer"

    def open(self) -> bytes:
        self._data = b""
        self._spent = 0.0
        self.finished = False
        return self._request

    def again(self) -> bytes:
        """Never asked for: what a second question on the same connection would mean, only the protocol knows."""
        return b""

    def feed(self, data: bytes) -> bytes | Verdict:
        if not data:
            came = f" after {self._shown}" if self._data else ""
            return self._over(Verdict(False, "closed", f"connection closed{came}, want {self._awaited}"))
        expect = self._expect
        if expect is None:
            return self._over(Verdict(True))
        self._data = data = (self._data + data)[:MOST]
        began = thread_time()
        try:
            found = expect.found(data)
        except PatternTimeout as error:
            return self._over(Verdict(False, "body", f"{self._awaited}: {error}"))
        if found:
            return self._over(Verdict(True))
        self._spent += thread_time() - began
        if self._spent > MOST_TIME:
            words = (
                f"{self._awaited}: searching it piece by piece takes too long, after {len(data)} bytes {self._shown}"
            )
            return self._over(Verdict(False, "body", words))
        if len(data) >= MOST:
            return self._over(Verdict(False, "body", f"no {self._awaited} in {MOST} bytes, but {self._shown}"))
        return b""

    @property
    def _shown(self) -> str:
        return quoted(self._data[:100].decode("utf-8", "surrogateescape"))

    def _over(self, verdict: Verdict) -> Verdict:
        # Whether more is to come cannot be known; what waits for the next question would wait for ever.
        self.finished = True
        self._data = b""
        return verdict


@lru_cache(maxsize=64)
def shared(expect: str) -> Compiled:
    return compiled(expect)
