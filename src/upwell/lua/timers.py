"""ngx.timer: Lua callbacks that run later, outside of any request. Knows the loop only as `call_later`."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from upwell.lua.bridge import LuaFailure
from upwell.lua.contexts import TIMER
from upwell.lua.phase import Aborted, Exit, follow
from upwell.lua.run import Run

if TYPE_CHECKING:
    from upwell.lua.host import Handle
    from upwell.lua.vm import Vm


class Timers:
    """The timers of one worker. `close()` runs the pending ones at once, `premature`, as nginx does when it exits."""

    __slots__ = ("_last", "_pending", "running", "vm")

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.running = 0
        self._last = 0
        self._pending: dict[int, Handle] = {}

    def __repr__(self) -> str:
        return f"<Timers pending={len(self._pending)} running={self.running}>"

    @property
    def pending(self) -> int:
        return len(self._pending)

    def add(self, delay: float, every: bool) -> tuple[int | None, bytes | None]:
        """A number for a new timer, or None and lua-nginx-module's words for why not."""
        host = self.vm.host
        if host.exiting() and (delay > 0 or every):
            return None, b"process exiting"
        if len(self._pending) >= host.max_pending_timers:
            return None, b"too many pending timers"
        self._last += 1
        self._arm(self._last, delay, every)
        return self._last, None

    def close(self) -> None:
        """The worker shuts down: every pending callback runs now with `premature` true."""
        pending, self._pending = self._pending, {}
        for number, handle in pending.items():
            handle.cancel()
            self._start(number, True, False)

    def _arm(self, number: int, delay: float, every: bool) -> None:
        self._pending[number] = self.vm.host.call_later(delay, self._fire, number, delay, every)

    def _fire(self, number: int, delay: float, every: bool) -> None:
        if self._pending.pop(number, None) is None:
            return
        if every:
            self._arm(number, delay, every)
        if self.running >= self.vm.host.max_running_timers:
            self.vm.host.log.alert(f"{self.vm.host.max_running_timers} lua_max_running_timers are not enough")
            return
        self._start(number, False, every)

    def _start(self, number: int, premature: bool, keep: bool) -> None:
        self.running += 1
        self._step(self._run(number, premature, keep))

    async def _run(self, number: int, premature: bool, keep: bool) -> None:
        run = Run(None, TIMER)
        try:
            await follow(self.vm, run, self.vm.start_timer(run, number, premature, keep))
        except (Exit, Aborted):
            return

    def _step(self, coro: Coroutine[Any, Any, None]) -> None:
        try:
            pause = coro.send(None)
        except StopIteration:
            self.running -= 1
        except LuaFailure as failure:
            self.running -= 1
            self.vm.log_error(f"lua: timer: {failure.message.decode('utf-8', 'replace')}")
        else:
            self.vm.host.call_later(pause.seconds, self._step, coro)
