"""A real master around made-up parts, run as a process by test_process_master.py: `stub_master.py CONF [-f]`.

CONF is JSON: the fields of StubPlan, or {"errors": [...]}. A worker answers each connection with
`worker PID SLOT CHECKER_EPOCH`; a client that sends "slow" first is answered only when it sends "go".
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from upwell.check.named import NamedPeers
from upwell.check.spec import CheckSpec, NotifySpec
from upwell.errors import ConfigError, ConfigErrors, Position
from upwell.log import INFO, ErrorLog
from upwell.modules.workers import WorkersSettings
from upwell.peers.peer import PeerKey, PeerSpec, UpstreamSpec
from upwell.process.control import Control
from upwell.process.journal import Journal, open_boot_log
from upwell.process.master import Master
from upwell.process.parts import LogFile, Parts, Plan, Runtime, table_of
from upwell.proxy.listen import ListenSpec
from upwell.zone.connections import ConnectionTable
from upwell.zone.layout import CHECKER_HEARTBEAT
from upwell.zone.resolvers import ResolverTable
from upwell.zone.table import PeerTable

PEER = PeerSpec("127.0.0.1:81", ("127.0.0.1", 81))


@dataclass
class StubPlan:
    pid: str
    error_log: tuple[ErrorLog, ...]
    listens: tuple[ListenSpec, ...]
    worker_processes: int = 1
    workers: WorkersSettings = field(default_factory=WorkersSettings)
    env: tuple[str, ...] = ()
    daemon: bool = False
    master_process: bool = True
    user: tuple[str, str | None] | None = None
    worker_shutdown_timeout: float = 0.0
    upstreams: tuple[UpstreamSpec, ...] = (UpstreamSpec("backend", (PEER,)),)
    checks: tuple[CheckSpec, ...] = ()
    notified: dict[str, tuple[NotifySpec, ...]] = field(default_factory=dict)
    state_file: str = ""
    names: tuple[NamedPeers, ...] = ()
    lookups: ResolverTable = field(default_factory=lambda: ResolverTable((), 1))
    connections: ConnectionTable = field(default_factory=lambda: ConnectionTable(0))
    logs: tuple[LogFile, ...] = ()
    folders: tuple[str, ...] = ()
    health_check_concurrency: int = 0
    fatal: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def shared_files(self) -> frozenset[str]:
        return frozenset()

    @property
    def likeness(self) -> object:
        return None

    @property
    def without_effect(self) -> tuple[tuple[str, Position], ...]:
        return ()

    def with_upstreams(self, upstreams: tuple[UpstreamSpec, ...]) -> StubPlan:
        return replace(self, upstreams=upstreams)

    @property
    def seats(self) -> int:
        return self.worker_processes * (2 if self.workers.wears else 1)

    def reopen_logs(self) -> None:
        for log in self.error_log:
            log.reopen()


def load(path: str) -> StubPlan:
    with open(path) as file:
        conf = json.load(file)
    if "errors" in conf:
        raise ConfigErrors([ConfigError(text, Position(path, n, 1)) for n, text in enumerate(conf["errors"], 1)])
    path = conf.pop("error_log")
    error_log = (ErrorLog(path, INFO),) if path is not None else ()
    listens = tuple(ListenSpec(x if isinstance(x, str) else (x[0], x[1])) for x in conf.pop("listens"))
    workers = WorkersSettings(**conf.pop("given", {}))
    return StubPlan(workers=workers, error_log=error_log, listens=listens, **conf)


class StubRuntime:
    def __init__(
        self,
        plan: StubPlan,
        table: PeerTable,
        worker: int,
        control: Control,
        sockets: Mapping[ListenSpec, socket.socket],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.plan, self.table, self.worker, self.control = plan, table, worker, control
        self.sockets, self.loop = sockets, loop
        self.servers: list[asyncio.AbstractServer] = []
        self.busy = 0
        self.requests = 0
        self.callback: Callable[[], object] | None = None

    def start(self) -> None:
        if self.plan.fatal:
            raise RuntimeError("made to fail")
        self.control.add_check(CheckSpec("backend"))
        self.loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        for sock in self.sockets.values():
            self.servers.append(await asyncio.start_server(self._answer, sock=sock))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.busy += 1
        self.requests += 1
        try:
            line = (await reader.readline()).strip()
            if line == b"hang":
                time.sleep(3600)  # noqa: ASYNC251 - to hang is the point
            if line == b"eat":
                self.eaten = bytearray(os.urandom(1 << 20) * 64)
            if line == b"slow":
                writer.write(b"wait\n")
                await reader.readline()
            writer.write(f"worker {os.getpid()} {self.worker} {self.table.checker_epoch}\n".encode())
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
            self.busy -= 1
            if self.idle and self.callback is not None:
                self.loop.call_soon(self.callback)

    @property
    def idle(self) -> bool:
        return self.busy == 0

    def stop_accepting(self) -> None:
        for server in self.servers:
            server.close()

    def on_idle(self, callback: Callable[[], object]) -> None:
        self.callback = callback

    def close(self) -> None:
        self.stop_accepting()


class StubChecker:
    """Turns every message into a line of the log, so that tests see what arrived."""

    def __init__(self, table: PeerTable, journal: Journal) -> None:
        table.start_checker(os.getpid())
        self.table = table
        self.journal = journal
        self.epoll = select.epoll()
        self.callbacks: dict[int, Callable[[], object]] = {}

    def add(self, spec: CheckSpec) -> None:
        self.journal.info(f"stub check added to {spec.upstream}")

    def set_down(self, key: PeerKey, value: bool) -> None:
        self.journal.info(f"stub set_down {key.name} {value}")

    def suspect(self, key: PeerKey) -> None:
        self.journal.info(f"stub suspect {key.name}")

    def add_peer(self, upstream: str, spec: PeerSpec) -> None:
        self.journal.info(f"stub add_peer {spec.name}")

    def remove_peer(self, key: PeerKey) -> None:
        self.journal.info(f"stub remove_peer {key.name}")

    def change_peer(self, key: PeerKey, **fields: object) -> None:
        self.journal.info(f"stub change_peer {key.name}")

    def has_peer(self, key: PeerKey) -> bool:
        return False

    def step(self, max_wait: float) -> None:
        self.table.words[CHECKER_HEARTBEAT] += 1
        for fd, _ in self.epoll.poll(max_wait):
            self.callbacks[fd]()

    def fileno(self) -> int:
        return self.epoll.fileno()

    def next_due(self) -> float | None:
        return time.monotonic() + 1.0

    def watch(self, fd: int, callback: Callable[[], object]) -> None:
        self.callbacks[fd] = callback
        self.epoll.register(fd, select.EPOLLIN)

    def close(self) -> None:
        self.epoll.close()


def parts(path: str) -> Parts:
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
        assert isinstance(plan, StubPlan)
        journal.info(f"stub shared folder {shared_dir}")
        return StubRuntime(plan, table, worker, control, sockets, loop)

    def checker(table: PeerTable, plan: Plan, journal: Journal) -> StubChecker:
        return StubChecker(table, journal)

    return Parts(lambda warn: load(path), list, table_of, runtime, checker, lambda: None, lambda: None)


if __name__ == "__main__":
    boot = open_boot_log(os.path.join(os.path.dirname(sys.argv[1]), "boot.log"))
    sys.exit(Master(parts(sys.argv[1]), boot, foreground="-f" in sys.argv).run())
