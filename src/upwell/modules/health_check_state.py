"""`health_check_state FILE;` in `http`: the file that outlives the machine's end (`check/state.py`).

The workers' user must be able to make files in its folder, for the file is never changed but replaced. A folder that is
not there is made for that user.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.slots import once
from upwell.modules.core import full_path


@dataclass(frozen=True, slots=True)
class StateSettings:
    """The full path, "" for none."""

    path: str = field(default="", metadata=LOCAL)


def _health_check_state(block: Block, directive: Directive) -> None:
    once(block, directive, StateSettings, "path")
    path = directive.args[0]
    if not path or path.endswith("/") or "\0" in path:
        raise directive.error(f'invalid file "{path}"', 0)
    block.set(StateSettings, "path", full_path(block, path))


MODULE = Module("health_check_state", (command("health_check_state", "http", 1, _health_check_state),))
