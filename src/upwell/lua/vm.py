"""One Lua state for one worker: made after the fork, closed to Python, with upwell's ngx API in it.

Knows how to start and go on with Lua code and whose request it runs for; what the API does is in `api/`, in which order
handlers wait and end is in `phase.py`.
"""

from __future__ import annotations

import resource
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import lupa.luajit21 as luajit

from upwell.log import ALERT, ERROR
from upwell.lua import api
from upwell.lua.bridge import LuaFailure, guarded
from upwell.lua.contexts import CONTEXTS, INIT, MAY_WAIT, WITH_REQUEST
from upwell.lua.host import LuaHost
from upwell.lua.run import FAILED, Chunk, Run
from upwell.lua.timers import Timers
from upwell.lua.turns import counted

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_C_STACK = 96 << 20

_LIBRARIES = {
    "ngx.upstream": "ngx/upstream.lua",
    "resty.upstream.healthcheck": "resty/upstream/healthcheck.lua",
    "cjson": "cjson.lua",
    "cjson.safe": "cjson_safe.lua",
    "resty.core": "resty/core.lua",
}


class Vm:
    """A LuaJIT state. `package_path` and `package_cpath` are the directives' values; `;;` is the default."""

    def __init__(self, host: LuaHost, package_path: str = "", package_cpath: str = "") -> None:
        self.host = host
        self.current: Run | None = None
        self.interrupt: BaseException | None = None
        self.lent_ctx: Any = None
        self.timers = Timers(self)
        _deepen_stack()
        runtime = luajit.LuaRuntime(
            encoding=None,
            register_eval=False,
            register_builtins=False,
            unpack_returned_tuples=True,
            attribute_filter=_deny,
        )
        self._runtime = runtime
        register, load_internal, base = runtime.execute(
            _source("sandbox.lua"), _deny, name=b"=upwell/sandbox", mode="t"
        )
        ngx = runtime.table()
        runtime.globals()[b"ngx"] = ngx
        core_functions: dict[str, Callable[..., Any]] = {
            "log_line": self.log_line,
            "may_wait": self.may_wait,
            "monotonic": host.clock,
            "count_turns": _count_turns,
            "loads_file": self._loads_file,
        }
        for name, function in core_functions.items():
            register(name.encode(), guarded(function, self._report))
        core = load_internal(b"core", _source("core.lua"))(base, ngx)
        self._run = core[b"run"]
        self._run_global = core[b"run_global"]
        self._start = core[b"start"]
        self._proceed = core[b"proceed"]
        self._compile = core[b"compile"]
        self._counts = host.max_run_time > 0
        if self._counts:
            core[b"limit"](host.max_run_time)
        self.forget: Callable[[Any], None] = core[b"forget"]
        self.call_timer = core[b"call_timer"]
        for area in api.API:
            path = f"api/{area.__name__.rpartition('.')[2]}"
            for name, function in area.functions(self).items():
                register(name.encode(), guarded(function, self._report))
            load_internal(path.encode(), _source(f"{path}.lua"))(base, ngx, core)
        for module, path in _LIBRARIES.items():
            base[b"offer"](module.encode(), load_internal(path.encode(), _source(f"lib/{path}")), ngx)
        packages = base[b"package"]
        packages[b"path"] = _path(package_path, packages[b"path"])
        packages[b"cpath"] = _path(package_cpath, packages[b"cpath"])

    def close(self) -> None:
        """The worker ends: pending timers run now, told that it is premature."""
        self.timers.close()

    def __repr__(self) -> str:
        return f"<Vm of worker {self.host.worker_id}>"

    def _loads_file(self, path: bytes) -> None:
        self.host.loads_file(path.decode("utf-8", "surrogateescape"))

    # Running

    def compile(self, source: str, chunk_name: str) -> Chunk:
        """Compile Lua source. `chunk_name` is Lua's: `=content_by_lua(nginx.conf:103)`, or `@/path` for a file."""
        name = chunk_name if chunk_name.startswith(("=", "@")) else f"={chunk_name}"
        made = self._compile(_bytes(source), _bytes(name), _bytes(counted(source)) if self._counts else None)
        if type(made) is tuple:
            return Chunk(chunk_name, None, made[1].decode("utf-8", "replace"))
        return Chunk(chunk_name, made, None)

    def run(self, run: Run, chunk: Chunk) -> tuple[Any, ...]:
        """Start `chunk` with globals of its own; the outcome begins with DONE, FAILED or WAIT (see core.lua)."""
        return self._enter(run, self._run, chunk.maker)

    def run_global(self, run: Run, chunk: Chunk) -> tuple[Any, ...]:
        """Start `chunk` on the real globals (init_by_lua, init_worker_by_lua)."""
        return self._enter(run, self._run_global, chunk.maker)

    def start_timer(self, run: Run, number: int, premature: bool, keep: bool) -> tuple[Any, ...]:
        """Start the callback of timer `number`; `keep` it for another run (ngx.timer.every)."""
        return self._enter(run, self.call_timer, number, premature, keep)

    def proceed(self, run: Run, handle: Any, *reply: Any) -> tuple[Any, ...]:
        """Go on with what waited: `reply` is True and values, or False and a message to raise there."""
        return self._enter(run, self._proceed, handle, *reply)

    def _enter(self, run: Run, function: Any, *args: Any) -> tuple[Any, ...]:
        before, self.current = self.current, run
        try:
            outcome: tuple[Any, ...] = function(*args)
        except (luajit.LuaError, MemoryError, RecursionError) as error:
            return (FAILED, str(error).encode("utf-8", "replace"), b"")
        finally:
            self.current = before
        if self.interrupt is not None:
            interrupt, self.interrupt = self.interrupt, None
            raise interrupt
        return outcome if type(outcome) is tuple else (outcome,)

    # For the API

    def request(self, allowed: int = WITH_REQUEST) -> tuple[Run, Exchange]:
        """The running request. Raises LuaFailure outside of `allowed` contexts or when there is no request."""
        run = self.current
        if run is None or run.phase == INIT:
            raise LuaFailure(b"no request found")
        if not run.phase & allowed or run.exchange is None:
            raise LuaFailure(f"API disabled in the context of {CONTEXTS[run.phase][0]}")
        return run, run.exchange

    def may_wait(self) -> None:
        """Raises LuaFailure where a handler cannot wait."""
        run = self.current
        if run is None or not run.phase & MAY_WAIT:
            where = CONTEXTS[run.phase][0] if run is not None else "(unknown)"
            raise LuaFailure(f"API disabled in the context of {where}")

    def log_line(self, level: int, message: bytes) -> None:
        """A line in the error log, with the request's tail when one is running."""
        text = message.decode("utf-8", "surrogateescape")
        run = self.current
        if run is not None and run.exchange is not None:
            run.exchange.log(level, text)
            return
        if run is not None:
            text += f", context: {CONTEXTS[run.phase][0]}"
        self.host.log.write(level, text)

    def table(self, values: Mapping[Any, Any] | list[Any]) -> Any:
        """A new Lua table of plain values."""
        return self._runtime.table_from(values)

    def is_table(self, value: object) -> bool:
        return bool(luajit.lua_type(value) == "table")

    def _report(self, error: BaseException) -> None:
        if not isinstance(error, Exception):
            self.interrupt = error
        lines = traceback.format_exception_only(error)
        place = traceback.extract_tb(error.__traceback__)[-1:]
        where = f" at {place[0].filename}:{place[0].lineno}" if place else ""
        self.host.log.write(ALERT, f"lua: internal error: {lines[-1].strip()}{where}")

    def log_error(self, message: str) -> None:
        self.host.log.write(ERROR, message)


def _deepen_stack() -> None:
    """Let the process's C stack grow to 96 MiB.

    Lua's own limit stops a callback that calls itself without end (string.gsub holds 16 KiB a call) after 57 MiB, and
    the coroutines below that one may hold 20 MiB (sandbox.lua); with the usual 8 MiB it would be a crash of the worker.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if soft != resource.RLIM_INFINITY and soft < _C_STACK:
        wanted = _C_STACK if hard == resource.RLIM_INFINITY else min(_C_STACK, hard)
        resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))


def _deny(obj: object, name: object, is_setting: bool) -> str:
    raise AttributeError("no Python object has attributes in Lua")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _count_turns(source: bytes) -> bytes:
    return _bytes(counted(source.decode("utf-8", "surrogateescape")))


@cache
def _source(path: str) -> bytes:
    return resources.files("upwell.lua").joinpath(path).read_bytes()


def _path(given: str, default: bytes) -> bytes:
    """lua_package_path's value: `;;` stands for the default (Lua's own rule)."""
    if not given:
        return default
    path = given.encode("utf-8", "surrogateescape").replace(b";;", b";" + default + b";", 1)
    return path.strip(b";") if b";;" in given.encode() else path


def warm() -> None:
    """Read upwell's own Lua files now: once the privileges are dropped, the package may be unreadable."""
    for path in ("sandbox.lua", "core.lua", *(f"api/{area.__name__.rpartition('.')[2]}.lua" for area in api.API)):
        _source(path)
    for path in _LIBRARIES.values():
        _source(f"lib/{path}")
