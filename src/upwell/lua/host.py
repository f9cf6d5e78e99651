"""What a worker lends to its Lua state: upstreams, the way to the checker, shared dictionaries, clock, log.

The Lua layer reaches the rest of the process through this object only. It knows no configuration and no event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from upwell.check.spec import CheckSpec
from upwell.log import ErrorLog
from upwell.peers.peer import PeerKey
from upwell.peers.upstream import Upstream
from upwell.zone.shared_dict import SharedDict


class Control(Protocol):
    """The way to the checker (process/control.py); must never block."""

    def add_check(self, spec: CheckSpec) -> None: ...

    def set_down(self, key: PeerKey, value: bool) -> None: ...


class Handle(Protocol):
    """What `call_later` gives back."""

    def cancel(self) -> None: ...


class CallLater(Protocol):
    """`loop.call_later`: run `callback(*args)` in `delay` seconds."""

    def __call__(self, delay: float, callback: Callable[..., object], *args: Any) -> Handle: ...


def _never() -> bool:
    return False


def _nothing(_: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class LuaHost:
    """Filled by runtime/ once per worker, after the fork.

    `upstreams` are all upstreams in the order of the configuration; implicit ones are left out of `ngx.upstream`.
    `dicts` are the `lua_shared_dict` zones by name. `log` takes lines that belong to no request. `call_later` is the
    worker's loop's; timers and sleeps outside requests use it. `prefix` is nginx's -p with its trailing slash.
    `exiting` tells whether the worker is shutting down. `clock` is the clock of `Upstream.release(now=...)`;
    `time` is wall-clock seconds. `changeable` are the variables that `set` and the like
    declare: `ngx.var.x = ...` may write them. `loads_file` is told of each file that code is about to come from.
    `max_pending_timers`/`max_running_timers` are nginx's lua_max_*_timers; `max_run_time` is lua_max_run_time in
    seconds, 0 for no limit.
    """

    log: ErrorLog
    call_later: CallLater
    control: Control
    upstreams: Sequence[Upstream] = ()
    dicts: Mapping[str, SharedDict] = field(default_factory=dict)
    worker_id: int = 0
    worker_count: int = 1
    prefix: str = ""
    exiting: Callable[[], bool] = _never
    clock: Callable[[], float] = time.monotonic
    time: Callable[[], float] = time.time
    changeable: frozenset[str] = frozenset()
    loads_file: Callable[[str], object] = _nothing
    max_pending_timers: int = 1024
    max_running_timers: int = 256
    max_run_time: float = 0.0
