"""`queue`: how many requests may wait for a peer while all are full (NGINX Plus), for each worker."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.slots import once, parse_number
from upwell.modules.upstream import UpstreamSettings, UpstreamsSettings
from upwell.units import parse_time


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """On an `upstream` block; `timeout` in seconds."""

    most: int = field(default=0, metadata=LOCAL)
    timeout: float = field(default=60.0, metadata=LOCAL)


def _queue(block: Block, directive: Directive) -> None:
    once(block, directive, QueueSettings, "most")
    try:
        most = parse_number(directive.args[0])
    except ValueError:
        most = 0
    if not most:
        raise directive.error(f'invalid value "{directive.args[0]}" in "queue" directive', 0)
    if len(directive.args) == 2:
        name, _, value = directive.args[1].partition("=")
        try:
            timeout = parse_time(value) if name == "timeout" else 0.0
        except ValueError:
            timeout = 0.0
        if not timeout:
            raise directive.error(f'invalid parameter "{directive.args[1]}"', 1)
        block.set(QueueSettings, "timeout", timeout)
    block.set(QueueSettings, "most", most)


def _close_http(http: Block) -> None:
    given = {block[UpstreamSettings].name: block[QueueSettings] for block in http.of("upstream")}
    if not any(settings.most for settings in given.values()):
        return
    specs = []
    for spec in http[UpstreamsSettings].specs:
        settings = None if spec.implicit else given.get(spec.name)
        if settings is not None and settings.most:
            spec = replace(spec, queue=settings.most, queue_timeout=settings.timeout)
        specs.append(spec)
    http.set(UpstreamsSettings, "specs", tuple(specs))


MODULE = Module("queue", (command("queue", "upstream", (1, 2), _queue),), {"http": _close_http})
