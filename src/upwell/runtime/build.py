"""What a configuration asks of the processes, and the files that are opened before privileges are dropped."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from upwell.check.named import NamedPeers
from upwell.check.spec import CheckSpec, NotifySpec
from upwell.config.model import Block, Config
from upwell.errors import Position
from upwell.log import ErrorLog
from upwell.modules.access_log import AccessLogSettings
from upwell.modules.checks import ChecksSettings
from upwell.modules.client_body import ClientBodySettings, body_folder
from upwell.modules.core import CoreSettings, ErrorLogSettings, EventsSettings
from upwell.modules.health_check_notify import receivers
from upwell.modules.health_check_state import StateSettings
from upwell.modules.health_policy import HealthPolicySettings
from upwell.modules.limit_zones import LimitZonesSettings
from upwell.modules.location import PLACES
from upwell.modules.lua import LuaSettings
from upwell.modules.resolver import NamesSettings, resolvers
from upwell.modules.server import ServerSettings
from upwell.modules.sticky import zones
from upwell.modules.stream.server import StreamServerSettings
from upwell.modules.stub_status import StubStatusSettings
from upwell.modules.upstream import UpstreamsSettings
from upwell.modules.workers import WorkersSettings
from upwell.peers.peer import UpstreamSpec
from upwell.proxy.listen import ListenSpec
from upwell.resolve.spec import ResolverSpec
from upwell.runtime import limits
from upwell.runtime.logs import AccessLogFile
from upwell.zone.connections import ConnectionTable
from upwell.zone.resolvers import ResolverTable
from upwell.zone.shared_dict import SESSIONS, files_of


@dataclass(frozen=True, slots=True)
class Plan:
    """One configuration as the processes see it. `config` is what each worker compiles its Runtime from.

    `seats` is how many workers may count at the same time: one in each place, and one that takes over from it where
    workers are replaced one by one.
    `worker_shutdown_timeout` is in seconds, 0: none. `listens` has each address once, with the options that were given.
    `access_logs` are one for each path, `inner_error_logs` those that only http, servers and locations write.
    `shared_dicts` are (name, bytes), and so are `session_zones` (`sticky learn`). `folders` are those that workers
    write into. `notified` says who is told of the peers of each upstream; `state_file` is the path of the checker's,
    "" for none. `names` are the peers that are known by name, `resolvers` whom anybody may ask, and `lookups` what is
    counted of it, for each `name` of a resolver. `connections` is what workers count of those of clients,
    if somebody wants to know.
    """

    config: Config
    worker_processes: int
    worker_connections: int
    workers: WorkersSettings
    seats: int
    env: tuple[str, ...]
    daemon: bool
    master_process: bool
    user: tuple[str, str | None] | None
    pid: str
    error_log: tuple[ErrorLog, ...]
    worker_shutdown_timeout: float
    listens: tuple[ListenSpec, ...]
    upstreams: tuple[UpstreamSpec, ...]
    checks: tuple[CheckSpec, ...]
    notified: Mapping[str, tuple[NotifySpec, ...]]
    state_file: str
    names: tuple[NamedPeers, ...]
    resolvers: tuple[ResolverSpec, ...]
    lookups: ResolverTable
    connections: ConnectionTable
    health_check_concurrency: int
    shared_dicts: tuple[tuple[str, int], ...]
    limit_files: tuple[str, ...]
    session_zones: tuple[tuple[str, int], ...]
    access_logs: tuple[AccessLogFile, ...]
    inner_error_logs: tuple[ErrorLog, ...]
    folders: tuple[str, ...]

    @property
    def without_effect(self) -> tuple[tuple[str, Position], ...]:
        """The directives that change nothing, as written, and where."""
        return self.config.idle

    @property
    def likeness(self) -> object:
        """What two configurations must have in common for workers of one to serve for the other: all but who belongs to
        the upstreams."""
        return (
            self.config.shape,
            self.worker_processes,
            self.listens,
            self.checks,
            self.names,
            self.resolvers,
            tuple(replace(spec, peers=()) for spec in self.upstreams),
        )

    @property
    def shared_files(self) -> frozenset[str]:
        """The names of the files in which its workers share what they know: dictionaries, sessions, limits."""
        dicts = (files_of(*one) for one in self.shared_dicts)
        sessions = (files_of(*one, SESSIONS) for one in self.session_zones)
        return frozenset(self.limit_files).union(*dicts, *sessions)

    def with_upstreams(self, upstreams: tuple[UpstreamSpec, ...]) -> Plan:
        """The same plan, logs and look-ups with other peers."""
        return replace(self, upstreams=upstreams)

    @property
    def logs(self) -> tuple[AccessLogFile | ErrorLog, ...]:
        """Every log file but the main error log's."""
        return (*self.access_logs, *self.inner_error_logs)

    def reopen_logs(self) -> None:
        """Open every log file anew; each is tried. Raises the last OSError."""
        failed: OSError | None = None
        for reopen in [log.reopen for log in self.error_log] + [log.reopen for log in self.logs]:
            try:
                reopen()
            except OSError as error:
                failed = error
        if failed is not None:
            raise failed


def plan(config: Config) -> Plan:
    """The plan of a loaded configuration; opens nothing."""
    main = config.main
    core = main[CoreSettings]
    events = next(main.of("events"), None)
    http = next(main.of("http"), None)
    sections = [block for block in main.children if block.kind in ("http", "stream")]
    asked = tuple(dict.fromkeys(spec for section in sections for spec in resolvers(section)))
    if asked:
        # Here, for all processes: those that serve have no privileges to read a package's files with.
        for name in ("upwell.check.names", "upwell.runtime.directory"):
            importlib.import_module(name)
    workers = main[WorkersSettings]
    seats = core.worker_processes * (2 if workers.wears else 1)
    return Plan(
        config=config,
        worker_processes=core.worker_processes,
        worker_connections=events[EventsSettings].worker_connections if events is not None else 512,
        workers=workers,
        seats=seats,
        env=core.env,
        daemon=core.daemon,
        master_process=core.master_process,
        user=(core.user, core.group) if core.user is not None else None,
        pid=core.pid,
        error_log=tuple(ErrorLog(target.path, target.level) for target in main[ErrorLogSettings].logs),
        worker_shutdown_timeout=core.worker_shutdown_timeout or 0.0,
        listens=tuple(spec for section in sections for spec in _LISTENS[section.kind](section)),
        upstreams=tuple(spec for section in sections for spec in section[UpstreamsSettings].specs),
        checks=tuple(spec for section in sections for spec in section[ChecksSettings].specs),
        notified=receivers(http) if http is not None else {},
        state_file=http[StateSettings].path if http is not None else "",
        names=tuple(line for section in sections for line in section[NamesSettings].lines),
        resolvers=asked,
        connections=ConnectionTable(seats if http is not None and http[StubStatusSettings].used else 0),
        lookups=ResolverTable(list(dict.fromkeys(spec.name for spec in asked)), seats),
        health_check_concurrency=http[HealthPolicySettings].concurrency if http is not None else 0,
        shared_dicts=tuple((one.name, one.size) for one in http[LuaSettings].shared_dicts) if http is not None else (),
        limit_files=tuple(map(limits.file_of, http[LimitZonesSettings].zones)) if http is not None else (),
        access_logs=tuple(_access_logs(sections)),
        session_zones=tuple((zone.name, zone.size) for zone in zones(http)) if http is not None else (),
        inner_error_logs=tuple(_error_logs(main)),
        folders=tuple(_folders(main, config.prefix)),
    )


def _listens(http: Block) -> Iterator[ListenSpec]:
    """Each address once; where several servers share it, the `listen` that has options counts."""
    chosen: dict[object, tuple[bool, ListenSpec]] = {}
    for server in http.of("server"):
        for listen in server[ServerSettings].listens:
            address = listen.spec.address
            if address not in chosen or (listen.explicit and not chosen[address][0]):
                chosen[address] = (listen.explicit, listen.spec)
    return (spec for _, spec in chosen.values())


def _stream_listens(stream: Block) -> Iterator[ListenSpec]:
    return (listen.spec for server in stream.of("stream_server") for listen in server[StreamServerSettings].listens)


_LISTENS: Mapping[str, Callable[[Block], Iterator[ListenSpec]]] = {"http": _listens, "stream": _stream_listens}

LOGGING = ("http", "server", "location", "if", "limit_except", "stream", "stream_server")
"""The kinds of blocks that may have logs of their own."""


def _error_logs(main: Block) -> Iterator[ErrorLog]:
    """The error logs of inner levels, each path and level once, without those of the main level."""
    outer = {(target.path, target.level) for target in main[ErrorLogSettings].logs}
    inner = {
        (target.path, target.level): None
        for block in main.walk()
        if block.kind in LOGGING
        for target in block[ErrorLogSettings].logs
    }
    return (ErrorLog(path, level) for path, level in inner if (path, level) not in outer)


def _folders(main: Block, prefix: str) -> Iterator[str]:
    paths = {
        body_folder(block[ClientBodySettings], prefix).path: None
        for block in main.walk()
        if block.kind in ("http", "server", *PLACES)
    }
    return (path for path in paths if path)


def _access_logs(sections: list[Block]) -> Iterator[AccessLogFile]:
    files: dict[str, AccessLogFile] = {}
    for block in (block for section in sections for block in section.walk()):
        # A log that nobody inherits is not opened, unless the http block names it itself.
        if block.kind in LOGGING:
            for log in block[AccessLogSettings].logs:
                if not log.is_file or (block.kind == "http" and log.position is None):
                    continue
                known = files.get(log.path)
                if known is None or (log.buffer and not known.buffer):
                    files[log.path] = AccessLogFile(log.path, log.buffer, log.flush)
    return iter(files.values())
