"""ngx.say, print, flush, eof, send_headers: what a handler answers.

Content is collected while Lua runs and handed to the exchange when it waits or ends: one write, and no other handler's
code (a header filter) inside this one's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from upwell.lua.contexts import MAY_ANSWER

if TYPE_CHECKING:
    from upwell.lua.vm import Vm


def functions(vm: Vm) -> Mapping[str, Callable[..., Any]]:
    def write(data: bytes) -> Any:
        run, exchange = vm.request(MAY_ANSWER)
        if run.ended or exchange.finished:
            return None, b"seen eof"
        if exchange.header_only:
            run.said = run.said or not run.buffering
            return 1
        if not run.buffering:
            run.said = True
        run.parts.append(data)
        return 1

    def output_flush() -> Any:
        run, _ = vm.request(MAY_ANSWER)
        if run.buffering:
            return None, b"buffering"
        run.said = True
        return 1

    def output_eof() -> Any:
        run, exchange = vm.request(MAY_ANSWER)
        if run.ended or exchange.finished:
            return None, b"seen eof"
        run.ended = True
        return 1

    def output_head() -> Any:
        run, _ = vm.request(MAY_ANSWER)
        if not run.buffering:
            run.said = True
        return 1

    return {"write": write, "output_flush": output_flush, "output_eof": output_eof, "output_head": output_head}
