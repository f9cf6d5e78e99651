"""The registry of probes: `CheckSpec.type` names a member. A new one is a file and a line here."""

from __future__ import annotations

from collections.abc import Callable

from upwell.check.probes.http import HttpProbe
from upwell.check.probes.https import HttpsProbe
from upwell.check.probes.probe import Probe
from upwell.check.probes.tcp import TcpProbe
from upwell.check.spec import CheckSpec

PROBES: dict[str, Callable[[CheckSpec, str], Probe]] = {
    "http": HttpProbe,
    "https": HttpsProbe,
    "tcp": TcpProbe,
}
"""Each member makes, from a check and a peer's name (for the log), that peer's probe."""
