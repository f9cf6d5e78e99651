"""The zones of limits as one worker has them: opened with the runtime, closed with it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from hashlib import sha256

from upwell.config.model import Block
from upwell.modules.limit_conn import LimitConnSettings
from upwell.modules.limit_zones import LimitZone, LimitZonesSettings
from upwell.modules.location import PLACES
from upwell.modules.real_ip import RealIpSettings
from upwell.zone.counts import Counts
from upwell.zone.rates import Rates


@dataclass(slots=True)
class Limits:
    """Each zone by its name. `counting` and `believing` are the servers of which some request is counted until it is
    over, or may have another address while it is answered.
    """

    rates: dict[str, tuple[LimitZone, Rates]] = field(default_factory=dict)
    counts: dict[str, tuple[LimitZone, Counts]] = field(default_factory=dict)
    counting: set[Block] = field(default_factory=set)
    believing: set[Block] = field(default_factory=set)

    def close(self) -> None:
        for _, rates in self.rates.values():
            rates.close()
        for _, counts in self.counts.values():
            counts.close()


def file_of(zone: LimitZone) -> str:
    """What the file of `zone` is called: its own name may be as long as anybody likes, and have a slash."""
    said = f"{zone.use} {zone.name} {zone.size} {zone.key_text}"
    return "limit." + sha256(said.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def open_limits(folder: str, http: Block | None) -> Limits:
    """Open the zones of `http` in `folder`. A zone keeps what it knows over a reload, as long as its size and its key
    stay what they are. Raises OSError.
    """
    limits = Limits()
    if http is None:
        return limits
    for zone in http[LimitZonesSettings].zones:
        path = os.path.join(folder, file_of(zone))
        if zone.rate:
            limits.rates[zone.name] = zone, Rates(zone.name, path, zone.size, zone.rate)
        else:
            limits.counts[zone.name] = zone, Counts(zone.name, path, zone.size)
    for server in http.of("server"):
        blocks = [server, *(block for block in server.walk() if block.kind in PLACES)]
        if any(block[LimitConnSettings].limits for block in blocks):
            limits.counting.add(server)
        if any(block[RealIpSettings].networks for block in blocks):
            limits.believing.add(server)
    return limits
