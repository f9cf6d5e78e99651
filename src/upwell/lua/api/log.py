"""ngx.log and print: lines in the error log, with the request's tail. The levels are those of upwell.log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upwell.lua.vm import Vm


def functions(vm: Vm) -> Mapping[str, Callable[..., Any]]:
    log = vm.host.log

    def log_takes(level: int) -> bool:
        return level <= log.level

    return {"log_takes": log_takes}
