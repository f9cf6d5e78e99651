"""The contexts: how a handler's Lua code starts, waits and ends, and what that does to its request.

`OPERATIONS` are the things a handler can wait for. Coroutines here are driven by hand (proxy/suspension.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from upwell.errors import MessageError
from upwell.log import ERROR
from upwell.lua.bridge import LuaFailure
from upwell.lua.contexts import ACCESS, CONTENT, HEADER_FILTER, INIT, INIT_WORKER, LOG, REWRITE, SET
from upwell.lua.run import FAILED, WAIT, Chunk, Run
from upwell.proxy.suspension import suspend

if TYPE_CHECKING:
    from upwell.lua.vm import Vm
    from upwell.proxy.exchange import Captured, Exchange

_STATE = "lua"
_OK, _ERROR, _DECLINED = 0, -1, -5
_CLOSE = (408, 444, 499)
_REFUSALS = (401, 403)

Handler = Callable[["Exchange"], Awaitable[None]]
Decision = Callable[["Exchange"], "Awaitable[int | None]"]


class Exit(Exception):
    """The handler called ngx.exit (or what ends it alike): `status` is its argument."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Aborted(Exception):
    """The handler raised an error; it is in the log already."""


def run_of(vm: Vm, exchange: Exchange) -> Run:
    """The Lua state of a request, the same in all its phases."""
    module = exchange.module
    if module is None:
        module = exchange.module = {}
    run = module.get(_STATE)
    if run is None:
        run = module[_STATE] = Run(exchange, CONTENT)
        run.ctx, vm.lent_ctx = vm.lent_ctx, None
    assert isinstance(run, Run)
    return run


# Handlers


def content_handler(vm: Vm, chunk: Chunk) -> Handler:
    """content_by_lua*: the handler answers the request."""

    async def handle(exchange: Exchange) -> None:
        run = run_of(vm, exchange)
        run.phase = CONTENT
        try:
            await drive(vm, run, chunk)
        except Exit as ended:
            _leave(run, exchange, ended.status)
        except Aborted:
            _fail(run, exchange)
        else:
            _complete(run, exchange)

    return handle


def access_handler(vm: Vm, chunk: Chunk, passes: int | None = None, decides: bool = False) -> Decision:
    """access_by_lua*: None lets the request pass; afterwards `exchange.finished` says that it was answered here.

    `passes` is what it says of a request that it lets in, None of one that it leaves to others. `decides`: 401 and 403
    are for the caller to answer with.
    """
    return _deciding(vm, chunk, ACCESS, passes, decides)


def rewrite_handler(vm: Vm, chunk: Chunk) -> Decision:
    """rewrite_by_lua*: like access_by_lua*, before it."""
    return _deciding(vm, chunk, REWRITE)


def _deciding(vm: Vm, chunk: Chunk, phase: int, passes: int | None = None, decides: bool = False) -> Decision:
    async def handle(exchange: Exchange) -> int | None:
        run = run_of(vm, exchange)
        run.phase = phase
        try:
            await drive(vm, run, chunk)
        except Exit as ended:
            if ended.status in (_OK, _DECLINED):
                return passes if ended.status == _OK else None
            if decides and ended.status in _REFUSALS and not (run.said or run.parts or exchange.head_sent):
                exchange.keep([field for field in exchange.out if field[0] != b"Location"])
                exchange.out = []
                return ended.status
            _leave(run, exchange, ended.status)
        except Aborted:
            _fail(run, exchange)
        else:
            if run.said or run.parts or exchange.head_sent:
                _complete(run, exchange)
            else:
                return passes
        return None

    return handle


def header_filter(vm: Vm, chunk: Chunk) -> Callable[[Exchange], None]:
    """header_filter_by_lua*: sees and changes `exchange.status`, `out` and the like before the head is sent.

    Raises MessageError(500) when the code fails: an answer that was not filtered must not go out.
    """

    def apply(exchange: Exchange) -> None:
        if _at_once(vm, exchange, chunk, HEADER_FILTER) is None:
            raise MessageError(500, "client gets no answer whose head was not filtered")

    return apply


def log_handler(vm: Vm, chunk: Chunk) -> Callable[[Exchange], None]:
    """log_by_lua*: runs when the request has ended."""

    def record(exchange: Exchange) -> None:
        _at_once(vm, exchange, chunk, LOG)

    return record


def set_handler(vm: Vm, chunk: Chunk) -> Callable[[Exchange, Sequence[bytes]], bytes]:
    """set_by_lua*: the value for the directive's variable; the arguments are ngx.arg[1], ngx.arg[2], ...

    Raises MessageError(500) when the code fails: what it decides about may be who is let in.
    """

    def evaluate(exchange: Exchange, arguments: Sequence[bytes] = ()) -> bytes:
        result = _at_once(vm, exchange, chunk, SET, arguments)
        if result is None:
            raise MessageError(500, "client gets no answer that a variable is missing for")
        value = result[0] if result else None
        if isinstance(value, bytes):
            return value
        if value is True or value is False:
            return b"true" if value else b"false"
        if isinstance(value, int | float):
            return b"%.14g" % value
        return b""

    return evaluate


def run_init(vm: Vm, chunk: Chunk) -> None:
    """init_by_lua*, in each worker, as there is no Lua in the master. Raises LuaFailure: the worker must not start."""
    message = _start_worker(vm, chunk, INIT)
    if message is not None:
        raise LuaFailure(f"init_by_lua error: {message}")


def run_init_worker(vm: Vm, chunk: Chunk) -> None:
    """init_worker_by_lua*; an error is logged and the worker goes on (as in lua-nginx-module)."""
    message = _start_worker(vm, chunk, INIT_WORKER)
    if message is not None:
        vm.log_error(f"init_worker_by_lua error: {message}")


def _start_worker(vm: Vm, chunk: Chunk, phase: int) -> str | None:
    if chunk.error is not None:
        return chunk.error
    outcome = vm.run_global(Run(None, phase), chunk)
    if outcome[0] == FAILED:
        return f"{_text(outcome[1])}\n{_text(outcome[2])}"
    if outcome[0] == WAIT:
        vm.forget(outcome[1])
        return "attempt to yield in a context that cannot wait"
    return None


def _at_once(
    vm: Vm, exchange: Exchange, chunk: Chunk, phase: int, arguments: Sequence[bytes] = ()
) -> tuple[Any, ...] | None:
    """Run code that may not wait; its results, or None after an error (which is logged)."""
    run = run_of(vm, exchange)
    before, run.phase = run.phase, phase
    run.arguments = arguments
    try:
        if chunk.error is not None:
            exchange.log(ERROR, f"failed to load inlined Lua code: {chunk.error}")
            return None
        outcome = vm.run(run, chunk)
        if outcome[0] == WAIT:
            vm.forget(outcome[1])
            if outcome[2] == b"exit":
                return ()
            exchange.log(ERROR, "attempt to yield in a context that cannot wait")
            return None
        if outcome[0] == FAILED:
            directive = {HEADER_FILTER: "header_filter_by_lua*", LOG: "log_by_lua*", SET: "set_by_lua*"}[phase]
            exchange.log(ERROR, f"failed to run {directive}: {_text(outcome[1])}\n{_text(outcome[2])}")
            return None
        return outcome[1:]
    finally:
        run.phase = before


# Running and waiting


async def drive(vm: Vm, run: Run, chunk: Chunk) -> None:
    """Run `chunk` to its end, waiting where it waits. Raises Exit, or Aborted after logging an error."""
    if chunk.error is not None:
        report(vm, run, f"failed to load inlined Lua code: {chunk.error}")
        raise Aborted
    outcome = vm.run(run, chunk)
    if outcome[0] == 0:
        return
    await follow(vm, run, outcome)


async def follow(vm: Vm, run: Run, outcome: tuple[Any, ...]) -> None:
    """Go on from the outcome of a start until the code has ended. Raises Exit, or Aborted after logging an error."""
    phase = run.phase
    while outcome[0] == WAIT:
        handle, name = outcome[1], outcome[2]
        try:
            if name == b"exit":
                raise Exit(outcome[3])
            write_parts(run)
            try:
                reply = await OPERATIONS[name](vm, run, *outcome[3:])
            except LuaFailure as failure:
                reply = (False, failure.message)
            run.phase = phase
            outcome = vm.proceed(run, handle, *reply)
            handle = None
        finally:
            if handle is not None:
                vm.forget(handle)
    if outcome[0] == FAILED:
        report(vm, run, f"lua entry thread aborted: runtime error: {_text(outcome[1])}\n{_text(outcome[2])}")
        raise Aborted


def report(vm: Vm, run: Run, message: str) -> None:
    """An error of a handler, in the log of its request or of the worker."""
    if run.exchange is not None:
        run.exchange.log(ERROR, message)
    else:
        vm.log_error(message + ", context: ngx.timer")


async def _sleep(vm: Vm, run: Run, seconds: float) -> tuple[Any, ...]:
    if run.exchange is not None:
        await run.exchange.sleep(seconds)
    else:
        await wait_detached(vm, seconds)
    return (True,)


async def wait_detached(vm: Vm, seconds: float) -> None:
    """Sleep in code that belongs to no request: the driver of timers (api/timer.py) takes the bare yield."""
    await _Pause(seconds)


class _Pause:
    """Yields itself up to the driver of a timer, which resumes in `seconds`."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __await__(self) -> Any:
        yield self


async def _give_way(vm: Vm, run: Run) -> tuple[Any, ...]:
    return await _sleep(vm, run, 0.0)


async def _read_body(vm: Vm, run: Run) -> tuple[Any, ...]:
    assert run.exchange is not None
    await run.exchange.read_body()
    run.body_read = True
    return (True,)


async def _flush(vm: Vm, run: Run) -> tuple[Any, ...]:
    assert run.exchange is not None
    if run.exchange.chain is not None:
        run.exchange.chain.flush()
    await run.exchange.drained()
    return (True, 1)


class _Captures:
    """Subrequests under way at once; the last to end resumes the one who waits."""

    __slots__ = ("left", "parent", "waits")

    def __init__(self, parent: Exchange, count: int) -> None:
        self.parent = parent
        self.left = count
        self.waits = False

    def done(self, inner: Exchange) -> None:
        capture = inner.capture
        assert capture is not None
        capture.body = b"".join(capture.pieces)
        self.left -= 1
        if self.left == 0 and self.waits:
            self.parent.resume()


async def _capture(vm: Vm, run: Run, *requests: Any) -> tuple[Any, ...]:
    """`requests` are groups of six: uri, args, method, body or nil, whether ngx.ctx is given, ngx.ctx."""
    exchange = run.exchange
    assert exchange is not None
    count = len(requests) // 6
    captures = _Captures(exchange, count)
    inners: list[Exchange] = []
    for index in range(count):
        uri, args, method, body, share, ctx = requests[index * 6 : index * 6 + 6]
        # The subrequest may run to its end inside this call, so what it shall find must be there before.
        vm.lent_ctx = ctx if share else None
        try:
            inners.append(exchange.begin_subrequest(uri, args, method, body, None, captures.done))
        except RuntimeError as error:
            raise LuaFailure(str(error)) from error
        finally:
            vm.lent_ctx = None
    if captures.left:
        captures.waits = True
        await suspend()
    reply: list[Any] = [True]
    for inner in inners:
        captured = inner.capture
        assert captured is not None
        reply.extend(_captured(vm, captured))
    return tuple(reply)


def _captured(vm: Vm, captured: Captured) -> tuple[Any, ...]:
    fields: dict[bytes, list[bytes]] = {}
    for name, value in captured.fields:
        fields.setdefault(name, []).append(value)
    table = vm.table(
        {name: values[0] if len(values) == 1 else vm.table(values) for name, values in fields.items()},
    )
    return captured.status, captured.body, captured.truncated, table


OPERATIONS: dict[bytes, Callable[..., Coroutine[Any, Any, tuple[Any, ...]]]] = {
    b"sleep": _sleep,
    b"give_way": _give_way,
    b"read_body": _read_body,
    b"flush": _flush,
    b"capture": _capture,
}


# Answering


def prepare_head(run: Run, exchange: Exchange) -> None:
    """What OpenResty fills in when a handler's answer begins: status 200 and the location's default type."""
    if exchange.status == 0:
        exchange.status = 200
    if exchange.content_type is None and not run.typeless:
        exchange.content_type = exchange.default_type


def write_parts(run: Run) -> None:
    """Hand what the handler has said so far to the exchange (an HTTP/1.0 answer waits for its length instead)."""
    exchange = run.exchange
    if exchange is None or (run.buffering and not run.said):
        return
    if run.said and not exchange.head_sent:
        prepare_head(run, exchange)
        exchange.send_head()
    if run.parts:
        data = b"".join(run.parts)
        run.parts.clear()
        exchange.write(data)
    if run.ended:
        exchange.finish()


def _complete(run: Run, exchange: Exchange) -> None:
    """The handler is done: the rest of its content, and the end of the answer."""
    if exchange.finished:
        return
    if not exchange.head_sent:
        prepare_head(run, exchange)
        if run.buffering and not run.said and exchange.content_length is None:
            exchange.content_length = sum(map(len, run.parts))
        if run.said or run.parts:
            exchange.send_head()
    run.said = True
    write_parts(run)
    exchange.finish()


def _leave(run: Run, exchange: Exchange, status: int) -> None:
    """ngx.exit(status) in a context that may answer."""
    if status == _ERROR:
        exchange.abort()
        return
    if status in _CLOSE:
        exchange.drop(status)
        return
    if status >= 300 and not (run.said or run.parts or exchange.head_sent):
        exchange.content_length = None
        # respond_error keeps a Location that is there by itself.
        exchange.respond_error(status, [field for field in exchange.out if field[0] != b"Location"])
        return
    if status >= 200 and exchange.status == 0:
        exchange.status = status if status < 300 else 200
    _complete(run, exchange)


def _fail(run: Run, exchange: Exchange) -> None:
    """The handler raised an error: a 500, or a cut connection when a part of the answer is on its way."""
    run.parts.clear()
    run.said = False
    if exchange.head_sent:
        exchange.abort()
    else:
        exchange.out = []
        exchange.content_length = None
        exchange.respond_error(500)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return str(value)
