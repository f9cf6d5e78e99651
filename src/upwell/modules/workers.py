"""What a worker process is given and what it may take: limits, priority, processors (nginx's ngx_core_module), and when
it is replaced (`worker_max_requests`, `worker_max_memory`, `worker_hang_timeout`: upwell's own)."""

from __future__ import annotations

import re
import resource
from dataclasses import dataclass

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import number, offset, once, time
from upwell.errors import ConfigError
from upwell.modules.core import CoreSettings, EventsSettings, full_path

_SIGNED = re.compile(r"-?[0-9]{1,9}")
_MOST_PROCESSORS = 1024  # CPU_SETSIZE


@dataclass(frozen=True, slots=True)
class WorkersSettings:
    """None: as the master. `affinity` are sets of processors for the workers in turn, the last one for all that follow;
    with `affinity_auto` each worker gets one of those of the first (of all, where there is none). `max_requests`,
    `max_memory` (bytes) and `hang_timeout` (seconds): 0 for no limit."""

    rlimit_nofile: int | None = None
    rlimit_core: int | None = None
    priority: int = 0
    affinity: tuple[frozenset[int], ...] = ()
    affinity_auto: bool = False
    working_directory: str = ""
    max_requests: int = 0
    max_memory: int = 0
    hang_timeout: float = 60.0

    @property
    def wears(self) -> bool:
        """Whether a worker may be replaced while the others go on."""
        return bool(self.max_requests or self.max_memory)

    def processors(self, slot: int, all_of_them: frozenset[int]) -> frozenset[int] | None:
        """Those that worker `slot` runs on; None: whichever it gets."""
        if self.affinity_auto:
            chosen = sorted(self.affinity[0] if self.affinity else all_of_them)
            return frozenset(chosen[slot % len(chosen) :][:1]) if chosen else None
        if not self.affinity:
            return None
        return self.affinity[min(slot, len(self.affinity) - 1)]


def _priority(block: Block, directive: Directive) -> None:
    once(block, directive, WorkersSettings, "priority")
    if _SIGNED.fullmatch(directive.args[0]) is None:
        raise directive.error('"worker_priority" directive invalid number', 0)
    block.set(WorkersSettings, "priority", int(directive.args[0]))


def _affinity(block: Block, directive: Directive) -> None:
    once(block, directive, WorkersSettings, "affinity")
    texts = list(directive.args)
    auto = texts[0] == "auto"
    if auto:
        del texts[0]
        if len(texts) > 1:
            raise directive.error('invalid number of arguments in "worker_cpu_affinity" directive')
    block.set(WorkersSettings, "affinity_auto", auto)
    block.set(WorkersSettings, "affinity", tuple(_mask(directive, text) for text in texts))


def _mask(directive: Directive, text: str) -> frozenset[int]:
    """The processors of a mask, whose last digit is the first one."""
    if len(text) > _MOST_PROCESSORS:
        raise directive.error(f'"worker_cpu_affinity" supports up to {_MOST_PROCESSORS} CPUs only')
    for letter in text:
        if letter not in "01":
            raise directive.error(f'invalid character "{letter}" in "worker_cpu_affinity"')
    return frozenset(place for place, digit in enumerate(reversed(text)) if digit == "1")


def _working_directory(block: Block, directive: Directive) -> None:
    once(block, directive, WorkersSettings, "working_directory")
    block.set(WorkersSettings, "working_directory", full_path(block, directive.args[0]))


def _close_main(block: Block) -> None:
    """nginx's warnings about numbers that do not go together."""
    workers, processes = block[WorkersSettings], block[CoreSettings].worker_processes
    if not workers.affinity_auto and len(workers.affinity) > 1 and len(workers.affinity) != processes:
        _warn(
            block,
            'the number of "worker_processes" is not equal to the number of "worker_cpu_affinity" masks, '
            "using last mask for remaining worker processes",
        )
    events = next(block.of("events"), None)
    if events is None:
        return
    connections = events[EventsSettings].worker_connections
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return
    given = workers.rlimit_nofile
    if connections > allowed and (given is None or connections > given):
        limit = allowed if given is None else given
        _warn(block, f"{connections} worker_connections exceed open file resource limit: {limit}")


def _warn(block: Block, text: str) -> None:
    block.loading.warnings.append(ConfigError(text))


MODULE = Module(
    "workers",
    (
        command("worker_rlimit_nofile", "main", 1, number(WorkersSettings, "rlimit_nofile")),
        command("worker_rlimit_core", "main", 1, offset(WorkersSettings, "rlimit_core")),
        command("worker_priority", "main", 1, _priority),
        command("worker_cpu_affinity", "main", (1, None), _affinity),
        command("working_directory", "main", 1, _working_directory),
        command("worker_max_requests", "main", 1, number(WorkersSettings, "max_requests")),
        command("worker_max_memory", "main", 1, offset(WorkersSettings, "max_memory")),
        command("worker_hang_timeout", "main", 1, time(WorkersSettings, "hang_timeout")),
    ),
    {"main": _close_main},
)
