"""A worker's running configuration: everything compiled once after the fork, then connections are accepted."""

from __future__ import annotations

import asyncio
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from random import random
from typing import TYPE_CHECKING, Protocol

from upwell.check.report import Report
from upwell.check.spec import CheckSpec
from upwell.config.model import Block
from upwell.log import ALERT, DEBUG, WARN, ErrorLog, ErrorLogs
from upwell.lua import phase
from upwell.lua import vm as lua_vm
from upwell.lua.host import LuaHost
from upwell.lua.loaded import LoadedFiles, list_of
from upwell.lua.vm import Vm
from upwell.modules.core import ErrorLogSettings, LogTarget
from upwell.modules.location import LocationSettings
from upwell.modules.lua import LuaSettings, SetByLua
from upwell.modules.real_ip import RealIpSettings, compile_real_ip
from upwell.modules.rewrite import RewriteSettings
from upwell.modules.server import ProxiedSettings, ServerSettings
from upwell.modules.ssl import SslSettings
from upwell.modules.sticky import told
from upwell.modules.stub_status import StubStatusSettings, census_variables
from upwell.modules.variables import VariableSettings
from upwell.peers.peer import STREAM, PeerKey
from upwell.peers.upstream import Upstream, forget_others, publish_all
from upwell.proxy import phases, variables
from upwell.proxy.client import ClientConnection, Endpoint
from upwell.proxy.clock import Clock
from upwell.proxy.keepalive import Keepalive
from upwell.proxy.listen import ListenSpec
from upwell.proxy.listener import Listener
from upwell.proxy.location import Location, Server
from upwell.proxy.timers import Timers
from upwell.proxy.transport import Poll
from upwell.runtime.access_logs import AccessLogs
from upwell.runtime.build import LOGGING, Plan
from upwell.runtime.census import Census
from upwell.runtime.compile import Compiler
from upwell.runtime.computed import computed_variables
from upwell.runtime.destinations import Destinations, keepalive_of
from upwell.runtime.heads import HeadsByName, HeadSettings
from upwell.runtime.limits import open_limits
from upwell.runtime.locations import Level, Locations, Place
from upwell.runtime.secured import secure
from upwell.runtime.servers import Addresses, Names
from upwell.runtime.stream_targets import Targets
from upwell.runtime.streams import Streams
from upwell.runtime.ways import compile_ways
from upwell.zone.shared_dict import SESSIONS, open_dicts
from upwell.zone.table import PeerTable

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange
    from upwell.resolve.spec import ResolverSpec
    from upwell.runtime.directory import Directory

_ANY = ("0.0.0.0", "::")
_PUBLISH_EVERY = 1.0  # seconds between two writes of a worker's counters into the zone


class Control(Protocol):
    """The way to the checker (process/control.py)."""

    @property
    def specs(self) -> Mapping[int, CheckSpec]: ...

    def add_check(self, spec: CheckSpec) -> None: ...

    def set_down(self, key: PeerKey, value: bool) -> None: ...

    def suspect(self, key: PeerKey) -> None: ...


class Runtime:
    """One worker's servers. `start` compiles nothing any more: that is done here, in the constructor.

    Raises OSError when a shared dictionary cannot be opened, LuaFailure when init_by_lua fails.
    """

    def __init__(
        self,
        plan: Plan,
        table: PeerTable,
        worker: int,
        control: Control,
        sockets: Mapping[ListenSpec, socket.socket],
        loop: asyncio.AbstractEventLoop,
        shared_dir: str,
        log: ErrorLog | None = None,
    ) -> None:
        self._plan = plan
        self._loop = loop
        self._sockets = sockets
        self._log = _worker_log(plan) if log is None else log
        self._timers = Timers(loop)
        self._clock = Clock()
        self._connections: set[ClientConnection] = set()
        self._endpoints: list[Endpoint] = []
        self._poll: Poll | None = None
        self._listeners: list[Listener] = []
        self._idle: list[Callable[[], object]] = []
        self._draining = False
        self.requests = 0
        """How many HTTP requests there were; counted only for `worker_max_requests`."""
        self._publishing: asyncio.TimerHandle | None = None
        self._table = table
        self._worker = worker
        self._shared_dir = shared_dir
        self._dicts = open_dicts(shared_dir, dict(plan.shared_dicts))
        self._sessions = open_dicts(shared_dir, dict(plan.session_zones), SESSIONS)
        self._upstreams: dict[str, tuple[Upstream, Keepalive]] = {}
        streamed: dict[str, Upstream] = {}
        for spec in plan.upstreams:
            upstream = Upstream(spec, table, worker, suspect=control.suspect, chance=random)
            if spec.name.startswith(STREAM):
                streamed[spec.name] = upstream
                continue
            pool = keepalive_of(spec, loop, self._timers)
            upstream.on_leave = pool.drop
            self._upstreams[spec.name] = (upstream, pool)
        forget_others(table, worker, [*(upstream for upstream, _ in self._upstreams.values()), *streamed.values()])
        names = _names(plan, worker, loop)
        self._destinations = Destinations(self._upstreams, loop, self._timers, names)
        self._access_logs = AccessLogs(plan.access_logs, loop, self._log)
        self._http = next(plan.config.main.of("http"), None)
        self._vm = self._make_vm(worker, control) if self._http is not None and _uses_lua(self._http) else None
        stream = next(plan.config.main.of("stream"), None)
        self._streams: Streams | None = None
        if stream is not None:
            self._streams = Streams(
                stream,
                streamed,
                self._access_logs,
                self._error_logs(),
                self._log,
                self._connection_closed,
                Targets(streamed.values(), loop, self._timers, names),
            )
        self._census: Census | None = None
        if self._http is not None and self._http[StubStatusSettings].used:
            self._census = Census(plan.connections, worker, self._connections)
        self._computed = {} if self._http is None else computed_variables(self._http)
        if self._census is not None:
            self._computed |= census_variables(self._census.sums)
        self._limits = open_limits(shared_dir, self._http)
        if self._http is not None:
            compiler = Compiler(
                self._upstreams,
                self._access_logs,
                self._vm,
                self._error_logs(),
                self._destinations,
                plan.config.prefix,
                Report(table, plan.upstreams, plan.checks, lambda: control.specs, plan.lookups, told(self._http)),
                loop.call_soon,
                compile_ways(self._http, self._upstreams, self._sessions, loop),
                self._limits,
                None if self._census is None else self._census.sums,
            )
            self._listen(self._http, compiler)

    def __repr__(self) -> str:
        return f"<Runtime {len(self._endpoints)} listeners, {len(self._connections)} connections>"

    # The life of a worker, as process/ drives it

    def start(self) -> None:
        """Run init_worker_by_lua*, then accept."""
        if self._vm is not None and self._http is not None:
            code = self._http[LuaSettings].init_worker
            if code is not None:
                phase.run_init_worker(self._vm, self._vm.compile(code.source, code.chunk))
        poll = self._poll = Poll(self._loop)
        for endpoint, sock in zip(self._endpoints, self._sockets_of_http().values(), strict=True):
            self._listeners.append(Listener(poll, sock, endpoint, self._log))
        if self._streams is not None:
            limit = self._plan.worker_connections
            self._streams.start(self._sockets, poll, self._loop, self._timers, self._clock, limit)
        self._clock.tick(self._loop)
        self._publish()

    def stop_accepting(self) -> None:
        """Begin a graceful end: no new connections, idle ones are closed, the others end after their exchange."""
        self._draining = True
        for listener in self._listeners:
            listener.close()
        for endpoint in self._endpoints:
            endpoint.draining = True
            endpoint.on_close = self._connection_closed
        if self._streams is not None:
            self._streams.stop_accepting()
        for connection in list(self._connections):
            connection.close_if_idle()

    @property
    def idle(self) -> bool:
        """Whether no connection is open."""
        return not self._connections and (self._streams is None or self._streams.idle)

    def _count(self, exchange: Exchange) -> None:
        self.requests += 1
        phases.begin(exchange)

    def on_idle(self, callback: Callable[[], object]) -> None:
        """Call `callback` once no connection is open any more."""
        self._idle.append(callback)

    def _connection_closed(self) -> None:
        if self._census is not None:
            self._census.closed()
        if self._idle and self.idle:
            callbacks, self._idle = self._idle, []
            for callback in callbacks:
                callback()

    def close(self) -> None:
        """Let go of everything at once."""
        if self._vm is not None:
            self._vm.close()
        for listener in self._listeners:
            listener.close()
        for connection in list(self._connections):
            connection.cut()
        if self._streams is not None:
            self._streams.close()
        if self._poll is not None:
            self._poll.close()
        for _, pool in self._upstreams.values():
            pool.close()
        self._destinations.close()
        self._timers.close()
        self._clock.stop()
        if self._publishing is not None:
            self._publishing.cancel()
            publish_all(self._table, self._worker, self._all_upstreams())  # with those that were cut just now
        self._access_logs.close()
        for shared in (*self._dicts.values(), *self._sessions.values()):
            shared.close()
        self._limits.close()

    def _publish(self) -> None:
        """This worker's counters into the zone, once a second."""
        publish_all(self._table, self._worker, self._all_upstreams())
        if self._census is not None:
            self._census.look()
        self._publishing = self._loop.call_later(_PUBLISH_EVERY, self._publish)

    def _all_upstreams(self) -> list[Upstream]:
        found = [upstream for upstream, _ in self._upstreams.values()]
        return found if self._streams is None else [*found, *self._streams.upstreams.values()]

    # Compiling

    def _error_logs(self) -> dict[tuple[LogTarget, ...], ErrorLog]:
        """For each set of `error_log` lines that a level may have, where its messages go."""
        main = self._plan.config.main[ErrorLogSettings].logs
        files = {(log.path, log.level): log for log in (*self._plan.error_log, *self._plan.inner_error_logs)}
        by_lines = {main: self._log}
        for block in self._plan.config.main.walk():
            if block.kind in LOGGING:
                lines = block[ErrorLogSettings].logs
                if lines not in by_lines:
                    by_lines[lines] = ErrorLogs([files[line.path, line.level] for line in lines])
        return by_lines

    def _make_vm(self, worker: int, control: Control) -> Vm:
        plan = self._plan
        assert self._http is not None
        lua = self._http[LuaSettings]
        host = LuaHost(
            log=self._log,
            call_later=self._loop.call_later,
            control=control,
            upstreams=[upstream for upstream, _ in self._upstreams.values()],
            dicts=self._dicts,
            worker_id=worker % plan.worker_processes,
            worker_count=plan.worker_processes,
            prefix=plan.config.prefix,
            exiting=lambda: self._draining,
            changeable=self._http[VariableSettings].names,
            clock=self._loop.time,
            time=time.time,
            max_run_time=lua.max_run_time,
            loads_file=LoadedFiles(list_of(self._shared_dir, self._table.configurations)).add,
        )
        vm = Vm(host, lua.package_path, lua.package_cpath)
        if lua.init is not None:
            phase.run_init(vm, vm.compile(lua.init.source, lua.init.chunk))
        return vm

    def _listen(self, http: Block, compiler: Compiler) -> None:
        """Compile the servers and give each listening socket those that listen there."""
        by_address: dict[object, Names] = {}
        first: dict[object, Block] = {}
        chosen: set[object] = set()
        heads: dict[Server, HeadSettings] = {}
        blocks: dict[Server, Block] = {}
        for block in http.of("server"):
            server = self._server(block, compiler)
            settings = block[ServerSettings]
            heads[server] = HeadSettings.of(settings)
            blocks[server] = block
            for listen in settings.listens:
                address = listen.spec.address
                names = by_address.get(address)
                if names is None:
                    names = by_address[address] = Names(server)
                    first[address] = block
                if listen.default_server and address not in chosen:
                    chosen.add(address)
                    names.default = server
                    first[address] = block
                for name in settings.names:
                    names.add(name, server)
        for spec in self._sockets_of_http():
            self._endpoints.append(self._endpoint(spec, by_address, first, heads, blocks))

    def _sockets_of_http(self) -> dict[ListenSpec, socket.socket]:
        streams = self._streams
        return {spec: sock for spec, sock in self._sockets.items() if streams is None or not streams.owns(spec)}

    def _endpoint(
        self,
        spec: ListenSpec,
        by_address: Mapping[object, Names],
        first: Mapping[object, Block],
        heads: Mapping[Server, HeadSettings],
        blocks: Mapping[Server, Block],
    ) -> Endpoint:
        address = spec.address
        own = by_address[address]
        specific: dict[tuple[str, int], Names] = {}
        if not isinstance(address, str) and address[0] in _ANY:
            specific = {
                other: names
                for other, names in by_address.items()
                if isinstance(other, tuple) and other[1] == address[1] and other[0] not in _ANY
            }
        settings = first[address][ServerSettings]
        reading = heads[own.default].reading(settings.client_header_buffer_size)
        addresses = Addresses(own, specific)
        different = {heads[server] for names in (own, *specific.values()) for server in names.servers()}
        by_name = None
        if len(different) > 1:
            by_name = HeadsByName(addresses.names, heads, settings.client_header_buffer_size).parse
        endpoint = Endpoint(
            self._loop,
            self._timers,
            self._clock,
            own.default.fallback.error_log or self._log,
            own.default,
            addresses.match if specific else own.match,
            self._count if self._plan.workers.max_requests else phases.begin,
            _variable,
            self._report,
            self._connections,
            limit=self._plan.worker_connections,
            reader=reading.reader,
            header_timeout=settings.client_header_timeout,
            limits=reading.limits,
            merge_slashes=settings.merge_slashes,
            parse=by_name,
        )
        if isinstance(address, str):
            endpoint.is_unix = True
            endpoint.local = ("unix:", 0)
        elif address[0] not in _ANY:
            endpoint.local = address
        endpoint.computed = self._computed
        if self._census is not None:
            endpoint.begin = self._census.counting(endpoint.begin)
            endpoint.on_open = self._census.opened
            endpoint.on_close = self._connection_closed
        endpoint.proxied = self._http is not None and address in self._http[ProxiedSettings].addresses
        takes = ((server, compile_real_ip(block[RealIpSettings])) for server, block in blocks.items())
        believing = {server: take for server, take in takes if take is not None}
        if believing:
            endpoint.begin = _believing(endpoint.begin, believing)
        if self._http is not None and address in self._http[SslSettings].addresses:
            secure(endpoint, lambda client, host: addresses.names(client).fitting(host), blocks)
        return endpoint

    def _server(self, block: Block, compiler: Compiler) -> Server:
        fallback = compiler.location(block, "")
        named: dict[str, Location] = {}
        root = Level.of(_places(block, compiler, named))
        names = block[ServerSettings].names
        name = names[0].written if names else ""
        rewrite = compiler.rewrite(block) if block[RewriteSettings].steps else ()
        return Server(name, fallback, Locations(root, fallback).match, named, rewrite)

    def _report(self, exchange: Exchange, error: Exception) -> None:
        """A handler let an exception out, which is a fault of upwell's: say where, and go on."""
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{place.filename}:{place.lineno}"
        exchange.log(ALERT, f"unexpected {type(error).__name__}: {error} at {where}")
        if self._log.level >= DEBUG:
            for line in "".join(traceback.format_exception(error)).splitlines():
                exchange.log(DEBUG, line)


def _places(block: Block, compiler: Compiler, named: dict[str, Location]) -> list[Place]:
    """The locations of one level, compiled, with those nested in them."""
    places = []
    for inner in block.of("location"):
        settings = inner[LocationSettings]
        location = compiler.location(inner, settings.pattern)
        if settings.is_named:
            named[settings.pattern] = location
            continue
        place = Place(settings.modifier, settings.pattern.encode("utf-8", "surrogateescape"), settings.regex, location)
        nested = _places(inner, compiler, named)
        if nested:
            place.inner = Level.of(nested)
        places.append(place)
    return places + _slash_redirects(block, compiler, places)


def _slash_redirects(block: Block, compiler: Compiler, places: list[Place]) -> list[Place]:
    """nginx's 301 from `/a` to `/a/` where a proxied prefix location is `/a/` and nothing else is `/a`."""
    taken = {place.pattern for place in places if place.regex is None}
    added = []
    for inner in sorted(block.of("location"), key=lambda one: one[LocationSettings].modifier == "="):  # which counts
        settings = inner[LocationSettings]
        pattern = settings.pattern.encode("utf-8", "surrogateescape")
        if (
            settings.modifier in ("", "^~", "=")
            and settings.handler == "proxy_pass"
            and len(pattern) > 1
            and pattern.endswith(b"/")
            and pattern[:-1] not in taken
        ):
            added.append(Place("=", pattern[:-1], None, compiler.slash_redirect(inner, settings.pattern)))
    return added


def _uses_lua(http: Block) -> bool:
    """Whether anything in the configuration needs a Lua state."""
    for block in http.walk():
        lua = block[LuaSettings]
        if any((lua.init, lua.init_worker, lua.rewrite, lua.access, lua.content, lua.header_filter, lua.log)):
            return True
        if any(isinstance(step, SetByLua) for step in block[RewriteSettings].steps):
            return True
    return False


def _believing(
    begin: Callable[[Exchange], None], believing: Mapping[Server, Callable[[Exchange], None]]
) -> Callable[[Exchange], None]:
    """`begin` for requests of which some have another client than their connection (nginx's phase POST_READ)."""

    def begin_believing(exchange: Exchange) -> None:
        take = believing.get(exchange.server)
        if take is not None:
            take(exchange)
        begin(exchange)

    return begin_believing


def _variable(exchange: Exchange, name: str) -> bytes | None:
    compute = exchange.client.endpoint.computed.get(name)
    if compute is not None:
        return compute(exchange)
    known = variables.find(name)
    return None if known is None else known(exchange)


def _names(plan: Plan, worker: int, loop: asyncio.AbstractEventLoop) -> dict[ResolverSpec, Directory]:
    """What this worker knows by each resolver."""
    if not plan.resolvers:
        return {}
    from upwell.runtime.directory import Directory  # it needs a library that is large for who has no resolver

    return {spec: Directory(spec, loop, plan.lookups.counts(spec.name, worker)) for spec in plan.resolvers}


def warm() -> None:
    """Read what a worker would read later from the package's folder, while it may."""
    lua_vm.warm()


def _worker_log(plan: Plan) -> ErrorLog:
    if plan.error_log:
        return plan.error_log[0]
    log = ErrorLog("stderr", WARN)
    log.open()
    return log
