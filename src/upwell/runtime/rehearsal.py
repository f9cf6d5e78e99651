"""What init_worker_by_lua would start, found out by running it in a worker that serves nobody. For `upwell explain`."""

from __future__ import annotations

import asyncio
import tempfile

from upwell.check.spec import CheckSpec
from upwell.log import ErrorLog
from upwell.modules.lua import LuaSettings
from upwell.peers.peer import PeerKey, peer_keys
from upwell.runtime.build import Plan
from upwell.runtime.runtime import Runtime
from upwell.zone.table import PeerTable


class _Recorder:
    """Stands in for the way to the checker: writes down what it is told."""

    def __init__(self) -> None:
        self.specs: dict[int, CheckSpec] = {}

    def add_check(self, spec: CheckSpec) -> None:
        self.specs.setdefault(spec.identity, spec)

    def set_down(self, key: PeerKey, value: bool) -> None:
        """There is no peer to turn down."""

    def suspect(self, key: PeerKey) -> None:
        """There is no request that could fail."""


def lua_checks(plan: Plan, log: ErrorLog) -> tuple[CheckSpec, ...] | None:
    """The checks that the worker's Lua code asks for while it starts (not: later, in timers). Opens no listener and no
    log. None without such code. Raises LuaFailure or OSError when the code cannot be run."""
    http = next(plan.config.main.of("http"), None)
    if http is None or http[LuaSettings].init_worker is None:
        return None
    recorder = _Recorder()
    table = PeerTable.create([key for upstream in plan.upstreams for key in peer_keys(upstream)], 1)
    loop = asyncio.new_event_loop()
    try:
        with tempfile.TemporaryDirectory(prefix="upwell-") as folder:
            runtime = Runtime(plan, table, 0, recorder, {}, loop, folder, log)
            try:
                runtime.start()
            finally:
                runtime.close()
    finally:
        loop.close()
        table.close()
    return tuple(recorder.specs.values())
