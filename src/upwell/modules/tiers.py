"""`tier_threshold`: when the next tier of peers (`server ... tier=`) joins those in use. upwell's own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.slots import once
from upwell.modules.health_policy import percent
from upwell.modules.upstream import UpstreamSettings, UpstreamsSettings


@dataclass(frozen=True, slots=True)
class TiersSettings:
    """On an `upstream` block: in percent. By default a tier joins when nobody of those before it is healthy."""

    threshold: int = field(default=1, metadata=LOCAL)


def _threshold(block: Block, directive: Directive) -> None:
    once(block, directive, TiersSettings, "threshold")
    block.set(TiersSettings, "threshold", percent(directive, directive.args[0]))


def _close_http(http: Block) -> None:
    given = {
        block[UpstreamSettings].name: block[TiersSettings].threshold
        for block in http.children
        if block.kind.endswith("upstream") and "threshold" in block.own(TiersSettings)
    }
    if given:
        specs = http[UpstreamsSettings].specs
        changed = [
            spec if spec.implicit else replace(spec, tier_threshold=given.get(spec.local, spec.tier_threshold))
            for spec in specs
        ]
        http.set(UpstreamsSettings, "specs", tuple(changed))


MODULE = Module(
    "tiers",
    (command("tier_threshold", "upstream stream_upstream", 1, _threshold),),
    {"http": _close_http, "stream": _close_http},
)
