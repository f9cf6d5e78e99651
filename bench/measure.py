"""CPU time a request: the proxies run beside each other, the load goes to one at a time, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import clients, wrk
from bench.backend import backend, probes_counted
from bench.cases import BadRun, Case, Load, Refused
from bench.contenders import Sizing, forget_log
from bench.cpu import on_cores, process_seconds, split_cores, tree_seconds
from bench.stage import Kind, Proxy, stage, temporary_folder
from bench.tools import Tool
from upwell.contrib.processes import Balancer, await_condition, free_ports

PROBED_PEERS = 200
_WARM_UP = 1.0
_PROBE_INTERVAL_MS = 50

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Figures:
    """Requests a second, CPU microseconds a request (user and system, all of the proxy's processes), p99 in ms."""

    rate: float
    cpu: float
    p99: float


def medians(samples: Sequence[Figures]) -> Figures:
    """The median of each figure by itself."""
    return Figures(
        median(sample.rate for sample in samples),
        median(sample.cpu for sample in samples),
        median(sample.p99 for sample in samples),
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, with which programs, how long and how often; `programs` has the proxies in order, and "wrk"."""

    programs: Mapping[str, Tool]
    names: tuple[str, ...]
    cases: tuple[Case, ...]
    logs: tuple[bool, ...]
    seconds: float
    repeats: int
    connections: int


@dataclass(frozen=True, slots=True)
class Cell:
    """Whose figures: the case, the proxy, and whether it logged."""

    case: Case
    name: str
    log: bool


Results = Mapping[Cell, Figures | str]
"""Figures, or "refused" or why there are none."""


def measure(plan: Plan, progress: Progress) -> Results:
    """Median figures for every case, proxy and way of logging. Raises NotReached when the apps do not start."""
    samples: dict[Cell, list[Figures]] = {}
    trouble: dict[Cell, str] = {}
    kinds = [Kind(app, log) for app in {case.upgrade for case in plan.cases} for log in plan.logs]
    with stage(plan.programs, plan.names, kinds, Sizing()) as on:
        for name, reason in on.absent.items():
            trouble.update({Cell(case, name, log): reason for case in plan.cases for log in plan.logs})
        for repeat in range(plan.repeats):
            for case in plan.cases:
                for log in plan.logs:
                    # Each round starts with another proxy, so that none is always the one after a rest.
                    turn = repeat % max(1, len(on.proxies))
                    for proxy in [*on.proxies[turn:], *on.proxies[:turn]]:
                        cell = Cell(case, proxy.name, log)
                        if cell in trouble:
                            continue
                        logging = "on" if log else "off"
                        progress(f"{repeat + 1}/{plan.repeats} {case.title}, log {logging}: {proxy.name}")
                        try:
                            with on_cores(on.load_cores):
                                sample = _sample(plan, cell, proxy, on.folder, warm=repeat == 0)
                        except Refused:
                            trouble[cell] = "refused"
                        except BadRun as error:
                            trouble[cell] = str(error)
                            progress(f"  {error}")
                        else:
                            samples.setdefault(cell, []).append(sample)
                        forget_log(proxy.process)
    return {**{cell: medians(taken) for cell, taken in samples.items()}, **trouble}


def _sample(plan: Plan, cell: Cell, proxy: Proxy, folder: Path, warm: bool) -> Figures:
    port = proxy.ports[Kind(cell.case.upgrade, cell.log)]
    connections = min(plan.connections, cell.case.connections)

    def run(seconds: float) -> Load:
        if cell.case.upgrade:
            return clients.echo(port, connections, seconds)
        return wrk.run(plan.programs["wrk"].command, cell.case, port, seconds, connections, folder)

    if warm:
        run(_WARM_UP)
    before = tree_seconds(proxy.process.pid)
    load = run(plan.seconds)
    spent = tree_seconds(proxy.process.pid) - before
    return Figures(load.rate, spent / max(1, load.requests) * 1e6, load.p99)


def _probing_configuration(front: int, peer_port: int) -> str:
    peers = "\n".join(f"        server 127.0.1.{number}:{peer_port};" for number in range(1, PROBED_PEERS + 1))
    return f"""
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    upstream many {{
{peers}
    }}
    lua_shared_dict healthcheck 1m;
    init_worker_by_lua_block {{
        local hc = require "resty.upstream.healthcheck"
        local ok, err = hc.spawn_checker {{
            shm = "healthcheck", type = "http", upstream = "many",
            http_req = "GET /probe HTTP/1.0\\r\\nHost: bench\\r\\n\\r\\n",
            interval = {_PROBE_INTERVAL_MS}, timeout = 2000, fall = 3, rise = 2,
            valid_statuses = {{200}}, concurrency = 50,
        }}
        if not ok then ngx.log(ngx.ERR, "no checker: ", err) end
    }}
    server {{
        listen {front};
        location / {{ proxy_pass http://many; }}
    }}
}}
"""


def measure_probes(plan: Plan, progress: Progress) -> tuple[float, float]:
    """Probes a second and CPU microseconds a probe in upwell's checker process: medians over the repeats."""
    proxy_cores, load_cores = split_cores()
    rates, costs = [], []
    with temporary_folder() as folder, ExitStack() as started:
        peer_port, front = free_ports(2)
        with on_cores(load_cores):
            behind = started.enter_context(backend(folder / "apps", [peer_port], plan.programs.get("nginx")))
        with on_cores(proxy_cores):
            text = _probing_configuration(front, peer_port)
            upwell = started.enter_context(Balancer(folder / "proxy", text, [front], plan.programs["upwell"].command))

        def counted() -> int:
            return probes_counted(behind.prefix)

        await_condition(lambda: counted() >= 2 * PROBED_PEERS, f"probes\n{upwell.story()}", seconds=15)
        for repeat in range(plan.repeats):
            progress(f"{repeat + 1}/{plan.repeats} probes of {PROBED_PEERS} peers")
            before, probes = {pid: process_seconds(pid) for pid in upwell.workers}, counted()
            started_at = time.monotonic()
            time.sleep(plan.seconds)
            taken, probes = time.monotonic() - started_at, counted() - probes
            # Without traffic the checker is the one that works; its siblings sleep.
            spent = max(process_seconds(pid) - seconds for pid, seconds in before.items())
            rates.append(probes / taken)
            costs.append(spent / max(1, probes) * 1e6)
    return median(rates), median(costs)
