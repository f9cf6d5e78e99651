"""What a checker says in the error log: lua-resty-upstream-healthcheck's lines (v0.08), letter for letter, and more.

Its debug lines need a debug build of OpenResty; here they need an error log that takes `debug`.
"""

from __future__ import annotations

from upwell.check.probe import Verdict
from upwell.check.spec import RESTY, CheckSpec
from upwell.log import DEBUG, ErrorLog, printable
from upwell.peers.health import Thresholds


class Events:
    """One log for all checks. The methods are in the order in which a cycle calls them."""

    __slots__ = ("_log",)

    def __init__(self, log: ErrorLog) -> None:
        self._log = log

    def cycle(self) -> None:
        # The module's own debug() adds the prefix that this line already has.
        self._debug("healthcheck: run a check cycle")

    def upgrading(self, version: int) -> None:
        """Another checker published `version` before: the first cycle after a restart or a reload."""
        self._debug(f"upgrading peers version to {version}")

    def slice(self, words: str) -> None:
        if words:
            self._debug(words)

    def trouble(self, words: str) -> None:
        """Something is wrong with this machine, for which probes get no verdict."""
        self._log.error(f"healthcheck: {words}")

    def crowded(self, words: str) -> None:
        """Probes of a check wait for each other."""
        self._log.warn(f"healthcheck: {words}")

    def late(self, late: float) -> None:
        """The checker itself was late, and began to take time-outs for void (upwell's own line)."""
        self._log.error(f"healthcheck: the checker was {late:.3f}s late, time-outs that this explains do not count")

    def void(self, name: str, late: float) -> None:
        """A time-out that does not count, because the checker was `late` (seconds) itself (upwell's own line)."""
        self._log.info(f"healthcheck: time-out of peer {name} is void, the checker was {late:.3f}s late")

    def dear(self, name: str, seconds: float) -> None:
        """An answer took long to match, for the first time at this peer (upwell's own line)."""
        self._log.warn(
            f"healthcheck: the answer of peer {name} took {seconds:.3f}s to match, it is probed less often for that"
        )

    def passed(self, name: str) -> None:
        self._debug(f"peer {name} was checked to be ok")

    def failed(self, spec: CheckSpec, name: str, verdict: Verdict, was_up: bool) -> None:
        """Why is only told while the peer is up: a dead one would fill the log."""
        if was_up and spec.dialect == RESTY:
            self._log.error(f"healthcheck: {verdict.sentence}")
        elif was_up:
            self._log.error(f'healthcheck: peer {name} in upstream "{spec.upstream}": {verdict.why} ({spec.title})')
        self._debug(f"peer {name} was checked to be not ok")

    def turned(self, spec: CheckSpec, thresholds: Thresholds, name: str, up: bool, verdict: Verdict) -> None:
        """lua-resty's line, and upwell's own with all there is to know in fields."""
        times = f"up after {thresholds.rise} success(es)" if up else f"down after {thresholds.fall} failure(s)"
        self._log.warn(f"healthcheck: peer {name} is turned {times}")
        was, now = ("down", "up") if up else ("up", "down")
        why = f" why={_quoted(verdict.why)}" if verdict.why else ""
        self._log.notice(
            f"healthcheck: transition upstream={_quoted(spec.upstream)} peer={_quoted(name)} "
            f"check={_quoted(spec.title)} from={was} to={now}{why}"
        )

    def mass(self, words: str) -> None:
        """Many peers of one upstream turned down at once."""
        self._log.alert(f"healthcheck: {words}")

    def mass_over(self, words: str) -> None:
        self._log.warn(f"healthcheck: {words}")

    def health_ignored(self, upstream: str, policy: str, up: int, counted: int) -> None:
        """A policy for when too few peers are up is in force."""
        self._log.alert(
            f'healthcheck: {up} of {counted} peers of upstream "{upstream}" are up: health is ignored, '
            f"all get requests (all_down {policy})"
        )

    def health_counts(self, upstream: str, up: int, counted: int) -> None:
        self._log.warn(f'healthcheck: {up} of {counted} peers of upstream "{upstream}" are up: health counts again')

    def publishing(self, version: int) -> None:
        self._debug(f"publishing peers version {version}")

    def refused(self, words: str) -> None:
        """A check that cannot be done (upwell's own line)."""
        self._log.error(f"healthcheck: {words}")

    def _debug(self, words: str) -> None:
        if self._log.level >= DEBUG:
            self._log.debug(f"healthcheck: {words}")


def _quoted(text: str) -> str:
    """`text` as the value of a field in a log line, escaped once."""
    return f'"{printable(text.encode("utf-8", "surrogateescape"))}"'
