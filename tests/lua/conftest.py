"""A worker's Lua state and a request to run handlers on, without a loop or a socket: the test is the driver."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, cast

import pytest

from upwell.check.spec import CheckSpec
from upwell.http1.target import make_target
from upwell.log import DEBUG, ErrorLog
from upwell.lua import phase
from upwell.lua.host import LuaHost
from upwell.lua.vm import Vm
from upwell.peers.peer import PeerKey, PeerSpec, UpstreamSpec, peer_keys
from upwell.peers.upstream import Upstream
from upwell.proxy.exchange import Captured, Exchange
from upwell.proxy.suspension import suspend
from upwell.zone.shared_dict import SharedDict
from upwell.zone.stores.memory import MemoryStore
from upwell.zone.table import PeerTable


class Log(ErrorLog):
    """Keeps its lines."""

    __slots__ = ("lines",)

    def __init__(self) -> None:
        super().__init__("memory", DEBUG)
        self.lines: list[tuple[int, str]] = []

    def write(self, level: int, message: str, connection: int = 0) -> None:
        self.lines.append((level, message))

    @property
    def text(self) -> str:
        return "\n".join(message for _, message in self.lines)


class Later:
    """A loop's `call_later` whose time passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._due: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = 0

    class Handle:
        def __init__(self, later: Later, number: int) -> None:
            self.later = later
            self.number = number

        def cancel(self) -> None:
            self.later._due = [due for due in self.later._due if due[1] != self.number]

    def __call__(self, delay: float, callback: Callable[..., object], *args: Any) -> Handle:
        self._count += 1
        self._due.append((self.now + delay, self._count, callback, args))
        return self.Handle(self, self._count)

    def run(self, seconds: float) -> None:
        """Let `seconds` pass and call what is due."""
        end = self.now + seconds
        while True:
            due = sorted(entry for entry in self._due if entry[0] <= end)
            if not due:
                break
            at, number, callback, args = due[0]
            self.now = max(self.now, at)
            self._due = [entry for entry in self._due if entry[1] != number]
            callback(*args)
        self.now = end


class Checks:
    """The way to the checker, kept instead of sent."""

    def __init__(self) -> None:
        self.added: list[CheckSpec] = []
        self.downs: list[tuple[PeerKey, bool]] = []

    def add_check(self, spec: CheckSpec) -> None:
        self.added.append(spec)

    def set_down(self, key: PeerKey, value: bool) -> None:
        self.downs.append((key, value))


class Request:
    """The part of an exchange that handlers touch. `content` is what was written; `waits` what it sleeps for."""

    def __init__(
        self, worker: Worker, method: bytes = b"GET", uri: bytes = b"/", args: bytes = b"", body: bytes | None = None
    ) -> None:
        self.worker = worker
        self.method = method
        self.uri = uri
        self.path = uri + (b"?" + args if args else b"")
        self.target = self.path
        self.args = args
        self.quoted = False
        self.version = 11
        self.fields: Sequence[tuple[bytes, bytes]] = ((b"host", b"localhost"), (b"x-a", b"1"), (b"x-a", b"2"))
        self.fields_set: frozenset[bytes] = frozenset()
        self.special = False
        self.chain = None
        self.host = b"localhost"
        self.request_line = method + b" " + self.path + b" HTTP/1.1"
        self.module: dict[str, Any] | None = None
        self.variables: dict[str, bytes] | None = None
        self.status = 0
        self.out: list[tuple[bytes, bytes]] = []
        self.content_type: bytes | None = None
        self.content_length: int | None = None
        self.head_sent = False
        self.finished = False
        self.aborted = False
        self.internal = False
        self.header_only = method == b"HEAD"
        self.keepalive = True
        self.capture: Captured | None = None
        self.match = None
        self.tries = None
        self.pieces: list[bytes] = []
        self.log_lines: list[tuple[int, str]] = []
        self.sleeps: list[float] = []
        self.body = None if body is None else Body(body)
        self.default_type = b"text/plain"
        self.client = type("Client", (), {"loop": type("Loop", (), {"time": lambda loop: worker.later.now})()})()
        self.started = worker.later.now
        self.done: Callable[[Request], None] | None = None
        self._ended = False
        self._coro: Coroutine[Any, Any, Any] | None = None

    @property
    def content(self) -> bytes:
        return b"".join(self.pieces)

    def run(self, handler: Callable[[Exchange], Any]) -> Request:
        """Start `handler`; go on with `resume` or `worker.later.run(...)` when it waits."""
        self._coro = handler(cast(Exchange, self))
        self.resume()
        return self

    def resume(self, value: Any = None) -> None:
        assert self._coro is not None
        try:
            self._coro.send(value)
        except StopIteration as end:
            self.result = end.value
            self._ended = True
            if self.done is not None:
                self.done(self)

    @property
    def ended(self) -> bool:
        return self._ended

    def variable(self, name: str) -> bytes | None:
        if self.variables is not None and name in self.variables:
            return self.variables[name]
        known = {"uri": self.uri, "args": self.args, "remote_addr": b"127.0.0.1", "proxy_host": b"backend"}
        return known.get(name)

    def field(self, name: bytes) -> bytes | None:
        values = [value for key, value in self.fields if key == name]
        return b", ".join(values) if values else None

    def set_fields(self, fields: Sequence[tuple[bytes, bytes]]) -> None:
        self.fields = tuple(fields)

    def send_head(self) -> None:
        assert not self.head_sent
        self.head_sent = True

    def write(self, data: bytes) -> None:
        assert self.head_sent
        self.pieces.append(data)

    async def drained(self) -> None:
        return None

    def finish(self) -> None:
        self.head_sent = self.finished = True

    def respond_error(self, status: int, fields: Sequence[tuple[bytes, bytes]] = ()) -> None:
        assert not self.head_sent
        self.status = status
        self.out = [field for field in self.out if field[0] == b"Location"] + list(fields)
        self.head_sent = self.finished = True
        self.pieces = [b"page %d" % status]

    def drop(self, status: int) -> None:
        self.abort()

    def abort(self) -> None:
        self.aborted = self.finished = True

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.worker.later(seconds, self.resume)
        await suspend()

    async def read_body(self) -> bytes:
        return self.body.data if self.body is not None else b""

    def aim(self, uri: bytes, args: bytes) -> None:
        target = make_target(uri, args)
        self.uri, self.args, self.path, self.quoted = target.uri, target.args, target.path, True

    def begin_subrequest(
        self, uri: bytes, args: bytes, method: bytes, body: bytes | None, fields: Any, on_done: Any
    ) -> Request:
        inner = Request(self.worker, method, uri, args, body)
        inner.internal = True
        inner.capture = Captured()

        def done(request: Request) -> None:
            assert request.capture is not None
            request.capture.status = request.status
            request.capture.pieces = request.pieces
            request.capture.fields = [(b"Content-Type", request.content_type or b""), *request.out]
            on_done(request)

        inner.done = done
        inner.run(self.worker.locations[uri])
        return inner

    def log(self, level: int, message: str) -> None:
        self.log_lines.append((level, message))

    @property
    def log_text(self) -> str:
        return "\n".join(message for _, message in self.log_lines)


class Body:
    """A request's content that is all there."""

    file = None

    def __init__(self, data: bytes) -> None:
        self.data = data

    def content(self) -> bytes:
        return self.data


def make_upstreams(table_workers: int = 1) -> list[Upstream]:
    """The guide's two upstreams, one with a backup, and an implicit one."""

    def peer(port: int, **more: Any) -> PeerSpec:
        return PeerSpec(f"127.0.0.1:{port}", ("127.0.0.1", port), server=f"127.0.0.1:{port}", **more)

    specs = [
        UpstreamSpec("tomcat_upstream", (peer(81), peer(82, weight=2, max_fails=3, fail_timeout=5.0))),
        UpstreamSpec("nginx_upstream", (peer(83), peer(84, down=True), peer(85, backup=True))),
        UpstreamSpec("127.0.0.1:99", (peer(99),), implicit=True),
    ]
    table = PeerTable.create([key for spec in specs for key in peer_keys(spec)], table_workers)
    return [Upstream(spec, table) for spec in specs]


class Worker:
    """A Lua state with what a worker lends to it."""

    def __init__(self, package_path: str = "", max_run_time: float = 10.0) -> None:
        self.log = Log()
        self.later = Later()
        self.checks = Checks()
        self.upstreams = make_upstreams()
        self.exiting = False
        self.loaded: list[str] = []
        self.locations: dict[bytes, Callable[[Exchange], Any]] = {}
        self.host = LuaHost(
            log=self.log,
            call_later=self.later,
            control=self.checks,
            upstreams=self.upstreams,
            dicts={
                name: SharedDict(name, 1 << 16, MemoryStore(), lambda: self.later.now)
                for name in ("healthcheck", "dogs")
            },
            worker_id=1,
            worker_count=2,
            prefix="/srv/upwell/",
            exiting=lambda: self.exiting,
            clock=lambda: self.later.now,
            time=lambda: 1_700_000_000.25 + self.later.now - 1000.0,
            max_run_time=max_run_time,
            loads_file=self.loaded.append,
        )
        self.vm = Vm(self.host, package_path)

    def init(self, source: str) -> None:
        """Run init_worker_by_lua*."""
        phase.run_init_worker(self.vm, self.vm.compile(source, "=init_worker_by_lua(nginx.conf:9)"))

    def content(self, source: str) -> Callable[[Exchange], Any]:
        return phase.content_handler(self.vm, self.vm.compile(source, "=content_by_lua(nginx.conf:103)"))

    def access(self, source: str) -> Callable[[Exchange], Any]:
        return phase.access_handler(self.vm, self.vm.compile(source, "=access_by_lua(nginx.conf:50)"))

    def get(self, source: str, **request: Any) -> Request:
        """Answer a new request with `source` as its content_by_lua_block."""
        return Request(self, **request).run(self.content(source))

    def say(self, expression: str) -> str:
        """What `ngx.say(expression)` answers, without the line's end."""
        request = self.get(f"ngx.say({expression})")
        assert request.status == 200, request.log_text
        return request.content.decode("utf-8", "replace").removesuffix("\n")


@pytest.fixture(scope="module")
def shared_worker() -> Worker:
    """One state for tests that leave nothing behind."""
    return Worker()


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A state of the test's own."""
    made = Worker()
    yield made
    assert not [line for line in made.log.lines if "internal error" in line[1]]


@pytest.fixture
def make_worker() -> type[Worker]:
    return Worker


@pytest.fixture
def make_request() -> type[Request]:
    return Request
