"""What is done about health beyond single checks: `all_down`, `mass_down_threshold`, `health_check_concurrency`.

All three are upwell's own. They reach the workers and the checker in UpstreamSpec; nothing is probed or picked here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.slots import once, parse_number
from upwell.modules.upstream import UpstreamSettings, UpstreamsSettings
from upwell.peers.panic import FAIL, PANIC, SERVE_ALL

_PERCENT = re.compile(r"([1-9][0-9]?|100)%")


@dataclass(frozen=True, slots=True)
class HealthPolicySettings:
    """`all_down` is peers.panic's FAIL, SERVE_ALL or PANIC with a percentage in `panic`; `mass_down` is a percentage.
    `concurrency` bounds the probes at once of all checks, 0: what the checker has descriptors for."""

    all_down: str = field(default=FAIL, metadata=LOCAL)
    panic: int = field(default=0, metadata=LOCAL)
    mass_down: int = 50
    concurrency: int = field(default=0, metadata=LOCAL)


def percent(directive: Directive, text: str) -> int:
    """A percentage from 1% to 100% that `directive` has."""
    match = _PERCENT.fullmatch(text)
    if match is None:
        raise directive.error(f'invalid percentage "{text}" in "{directive.name}", it must be from 1% to 100%', 0)
    return int(match[1])


def _all_down(block: Block, directive: Directive) -> None:
    once(block, directive, HealthPolicySettings, "all_down")
    text = directive.args[0]
    policy = text
    if text.startswith("panic="):
        policy = PANIC
        block.set(HealthPolicySettings, "panic", percent(directive, text.removeprefix("panic=")))
    elif text not in (FAIL, SERVE_ALL):
        raise directive.error(
            f'invalid value "{text}" in "all_down" directive, it must be "fail", "serve_all" or "panic=N%"', 0
        )
    block.set(HealthPolicySettings, "all_down", policy)


def _mass_down(block: Block, directive: Directive) -> None:
    once(block, directive, HealthPolicySettings, "mass_down")
    block.set(HealthPolicySettings, "mass_down", percent(directive, directive.args[0]))


def _concurrency(block: Block, directive: Directive) -> None:
    once(block, directive, HealthPolicySettings, "concurrency")
    try:
        count = parse_number(directive.args[0])
    except ValueError:
        count = 0
    if not count:
        raise directive.error(f'invalid number "{directive.args[0]}" in "{directive.name}", it must be at least 1', 0)
    block.set(HealthPolicySettings, "concurrency", count)


def _close_http(http: Block) -> None:
    """Only now is known what the http block says, which may do so after its upstreams."""
    blocks = [block for block in http.children if block.kind.endswith("upstream")]
    policies = {block[UpstreamSettings].name: block[HealthPolicySettings] for block in blocks}
    common = http[HealthPolicySettings]
    specs = []
    for spec in http[UpstreamsSettings].specs:
        policy = common if spec.implicit else policies.get(spec.local, common)
        specs.append(replace(spec, all_down=policy.all_down, panic=policy.panic, mass_down=policy.mass_down))
    http.set(UpstreamsSettings, "specs", tuple(specs))


MODULE = Module(
    "health_policy",
    (
        command("all_down", "upstream stream_upstream", 1, _all_down),
        command("mass_down_threshold", "http upstream stream stream_upstream", 1, _mass_down),
        command("health_check_concurrency", "http", 1, _concurrency),
    ),
    {"http": _close_http, "stream": _close_http},
)
