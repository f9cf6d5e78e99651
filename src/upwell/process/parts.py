"""What the processes are put together from: the shapes they need, and the real things behind them.

The master, a worker and the checker get everything that knows directives, requests or probes from here, so a test can
run real processes around made-up parts. Nothing heavy is imported until a part is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from upwell.check.named import NamedPeers
from upwell.check.spec import CheckSpec, NotifySpec
from upwell.errors import Position
from upwell.log import ErrorLog
from upwell.modules.workers import WorkersSettings
from upwell.peers.peer import PeerKey, PeerSpec, UpstreamSpec
from upwell.process.control import Control
from upwell.process.journal import Journal
from upwell.proxy.listen import ListenSpec
from upwell.zone.connections import ConnectionTable
from upwell.zone.resolvers import ResolverTable
from upwell.zone.table import PeerTable

if TYPE_CHECKING:
    import asyncio
    import socket

    from upwell.check.listener import Listener


class LogFile(Protocol):
    """A log on a file: `fd` is -1 while it is closed."""

    fd: int

    @property
    def path(self) -> str: ...
    def open(self) -> None: ...


class Plan(Protocol):
    """The part of `runtime.build.Plan` that the processes read (nginx's core directives, resolved)."""

    @property
    def worker_processes(self) -> int: ...
    @property
    def workers(self) -> WorkersSettings: ...
    @property
    def seats(self) -> int: ...
    @property
    def env(self) -> tuple[str, ...]: ...
    @property
    def daemon(self) -> bool: ...
    @property
    def master_process(self) -> bool: ...
    @property
    def user(self) -> tuple[str, str | None] | None: ...
    @property
    def pid(self) -> str: ...
    @property
    def error_log(self) -> tuple[ErrorLog, ...]: ...
    @property
    def logs(self) -> Sequence[LogFile]: ...
    @property
    def folders(self) -> tuple[str, ...]: ...
    @property
    def worker_shutdown_timeout(self) -> float: ...
    @property
    def listens(self) -> tuple[ListenSpec, ...]: ...
    @property
    def upstreams(self) -> tuple[UpstreamSpec, ...]: ...
    @property
    def checks(self) -> tuple[CheckSpec, ...]: ...
    @property
    def notified(self) -> Mapping[str, Sequence[NotifySpec]]: ...
    @property
    def state_file(self) -> str: ...
    @property
    def names(self) -> Sequence[NamedPeers]: ...
    @property
    def lookups(self) -> ResolverTable: ...

    @property
    def connections(self) -> ConnectionTable: ...
    @property
    def health_check_concurrency(self) -> int: ...
    @property
    def without_effect(self) -> Sequence[tuple[str, Position]]: ...
    @property
    def shared_files(self) -> frozenset[str]: ...
    @property
    def likeness(self) -> object: ...
    def with_upstreams(self, upstreams: tuple[UpstreamSpec, ...]) -> Plan: ...
    def reopen_logs(self) -> None: ...


class Runtime(Protocol):
    """The part of `runtime.runtime.Runtime` that a worker drives."""

    @property
    def idle(self) -> bool: ...
    @property
    def requests(self) -> int: ...
    def start(self) -> None: ...
    def stop_accepting(self) -> None: ...
    def on_idle(self, callback: Callable[[], object]) -> None: ...
    def close(self) -> None: ...


class Checker(Protocol):
    """The part of `check.checker.Checker` that the checker process drives."""

    def add(self, spec: CheckSpec) -> None: ...
    def set_down(self, key: PeerKey, value: bool) -> None: ...
    def suspect(self, key: PeerKey) -> None: ...
    def add_peer(self, upstream: str, spec: PeerSpec) -> object: ...
    def remove_peer(self, key: PeerKey) -> None: ...
    def change_peer(self, key: PeerKey, **fields: object) -> object: ...
    def has_peer(self, key: PeerKey) -> bool: ...
    def step(self, max_wait: float) -> None: ...
    def fileno(self) -> int: ...
    def next_due(self) -> float | None: ...
    def watch(self, fd: int, callback: Callable[[], object]) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """`load` raises ConfigErrors and gives nginx's `[warn]` sentences to its argument; `files` are the path and text of
    each file that the last load read. `warm_worker` and `warm_checker` import what their process may need later: once
    the privileges are dropped, the packages may be unreadable. `runtime` gets plan, table, worker's number in the
    table, control, its listening sockets, the loop, the folder of the shared dictionaries and the error log."""

    load: Callable[[Callable[[str], None]], Plan]
    files: Callable[[], Sequence[tuple[str, str]]]
    table: Callable[[Sequence[UpstreamSpec], int], PeerTable]
    runtime: Callable[
        [Plan, PeerTable, int, Control, Mapping[ListenSpec, socket.socket], asyncio.AbstractEventLoop, str, Journal],
        Runtime,
    ]
    checker: Callable[[PeerTable, Plan, Journal], Checker]
    warm_worker: Callable[[], None]
    warm_checker: Callable[[], None]


def real_parts(path: str, prefix: str, overrides: str) -> Parts:
    """The parts that serve the file at `path` (from `prefix`, as all paths) with the directives of `-g`."""

    read: list[tuple[str, str]] = []

    def load(warn: Callable[[str], None]) -> Plan:
        from upwell.modules.load import load as load_config
        from upwell.runtime.build import plan

        config = load_config(path, prefix, overrides)
        read[:] = [(source.path, source.text) for source in config.files]
        for warning in config.warnings:
            warn(str(warning))
        return plan(config)

    def runtime(
        plan: Plan,
        table: PeerTable,
        worker: int,
        control: Control,
        sockets: Mapping[ListenSpec, socket.socket],
        loop: asyncio.AbstractEventLoop,
        shared_dir: str,
        journal: Journal,
    ) -> Runtime:
        from upwell.runtime.build import Plan as RealPlan
        from upwell.runtime.runtime import Runtime as RealRuntime

        return RealRuntime(cast(RealPlan, plan), table, worker, control, sockets, loop, shared_dir, journal)

    return Parts(load, lambda: read, table_of, runtime, _checker, _warm_worker, _warm_checker)


def table_of(upstreams: Sequence[UpstreamSpec], workers: int) -> PeerTable:
    """The zone's table with a row for every peer, and as many again (or SPARE) for those that join at run time."""
    from upwell.peers.membership import SPARE
    from upwell.peers.peer import peer_keys

    keys = [key for upstream in upstreams for key in peer_keys(upstream)]
    return PeerTable.create(keys, workers, max(SPARE, len(keys)), [upstream.name for upstream in upstreams])


def _checker(table: PeerTable, plan: Plan, journal: Journal) -> Checker:
    from upwell.check.checker import MOST_AT_ONCE
    from upwell.check.checker import Checker as RealChecker
    from upwell.process.descriptors import limit, room

    listeners: list[Listener] = []
    if plan.notified:
        from upwell.check.notify import Notifier

        listeners.append(Notifier(plan.notified, journal))
    if plan.state_file:
        from upwell.check.state import StateFile

        listeners.append(StateFile(plan.state_file, journal))
    if any(spec.state for spec in plan.upstreams):
        from upwell.check.server_lists import ServerLists

        listeners.append(ServerLists(table, plan.upstreams, journal))
    wanted = plan.health_check_concurrency
    found = room(limit(), wanted, MOST_AT_ONCE)
    if found.probes < wanted:
        journal.warn(f"health_check_concurrency {wanted} is more than the limit of open files allows: {found.probes}")
    checker = RealChecker(
        table, plan.upstreams, journal, checks=plan.checks, most=found.probes, listeners=listeners, kept=found.kept
    )
    if plan.names:
        from upwell.check.names import Names

        lookups = plan.lookups
        checker.name(Names(plan.names, checker, journal, lambda name: lookups.counts(name, lookups.workers)))
    return checker


def _warm_worker() -> None:
    _import(*_LATER, "uvloop", "lupa", "lmdb")
    from upwell.runtime.runtime import warm

    warm()


def _warm_checker() -> None:
    listeners = ("upwell.check.notify", "upwell.check.server_lists", "upwell.check.state")
    _import(*_LATER, "upwell.check.checker", *listeners)


_LATER = (
    "ssl",
    "_strptime",
    "stringprep",
    "encodings.ascii",
    "encodings.idna",
    "encodings.latin_1",
    "encodings.punycode",
    "concurrent.futures.thread",
    "json",
)
"""What the standard library would import in the middle of the work."""


def _import(*names: str) -> None:
    for name in names:
        importlib.import_module(name)
