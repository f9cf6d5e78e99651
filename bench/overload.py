"""Beyond capacity: throughput and p99 with ever more clients that ask as fast as they are answered, and whether the
checks go on as they should while the workers have no time for anything.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from bench import wrk
from bench.backend import backend
from bench.cases import CASES, BadRun
from bench.cpu import on_cores, split_cores, tree_seconds
from bench.measure import Plan, Progress
from bench.memory import compared
from bench.stage import allow_files, temporary_folder
from upwell.contrib.processes import Balancer, free_ports
from upwell.contrib.traffic import fetch

COUNTS = (16, 64, 256, 1024)
"""Connections; one worker is at its capacity with the first number already."""
NEW = "new"
"""In place of a number: 64 clients with a new connection for each request."""
GOAL = 0.9
_INTERVAL = 0.1  # seconds from one probe of a peer to its next
_CASES = {case.name: case for case in CASES}


@dataclass(frozen=True, slots=True)
class Load:
    """Requests a second, milliseconds, CPU microseconds a request of all processes, and of upwell: probes made over
    those due, failed ones, and peers held down.
    """

    rate: float
    p99: float
    cpu: float
    probes: float = 0.0
    fails: int = 0
    down: int = 0


@dataclass(frozen=True, slots=True)
class Overload:
    """Of one program, by number of connections (or NEW); text where there is no figure."""

    loads: dict[str, Load | str]

    def kept(self) -> tuple[float, float]:
        """The throughput with the most connections over the best one, and the same by CPU time: what it would be on a
        processor of its own.
        """
        loads = {count: load for count, load in self.loads.items() if isinstance(load, Load) and count != NEW}
        last = loads.get(str(COUNTS[-1]))
        if last is None:
            return 0.0, 0.0
        best = max(load.rate for load in loads.values())
        return last.rate / best, min(load.cpu for load in loads.values()) / last.cpu


def measure_overload(plan: Plan, progress: Progress) -> dict[str, Overload]:
    """Each program with each number of connections: medians over the repeats, in turns."""
    allow_files(4 * COUNTS[-1])
    proxy_cores, load_cores = split_cores(1)
    names = compared(plan)
    samples: dict[tuple[str, str], list[Load]] = {}
    found: dict[tuple[str, str], str] = {}
    with temporary_folder() as folder, ExitStack() as started:
        ports = free_ports(2 + len(names))
        with on_cores(load_cores):
            started.enter_context(backend(folder / "apps", ports[:2], plan.programs.get("nginx")))
        running: dict[str, Balancer] = {}
        fronts = dict(zip(names, ports[2:], strict=True))
        for name, front in fronts.items():
            tool = plan.programs[name]
            text = _configuration(front, ports[:2], checks=name != "nginx")
            with on_cores(proxy_cores):
                running[name] = started.enter_context(
                    Balancer(folder / name.replace(" ", "-"), text, [front], tool.command)
                )
        for repeat in range(plan.repeats):
            for count in (*map(str, COUNTS), NEW):
                for name in names[:: 1 if repeat % 2 else -1]:
                    progress(f"{repeat + 1}/{plan.repeats} overload, {count} connections: {name}")
                    case = _CASES["newconn" if count == NEW else "minimal"]
                    before = _probed(fronts[name]) if name != "nginx" else None
                    begun, spent = time.monotonic(), tree_seconds(running[name].pid)
                    try:
                        with on_cores(load_cores):
                            wanted = 64 if count == NEW else int(count)
                            load = wrk.run(
                                plan.programs["wrk"].command, case, fronts[name], plan.seconds, wanted, folder
                            )
                    except BadRun as error:
                        found[name, count] = str(error)
                        continue
                    cpu = (tree_seconds(running[name].pid) - spent) / load.requests * 1e6
                    one = Load(load.rate, load.p99, cpu)
                    if before is not None:
                        due = (time.monotonic() - begun) / _INTERVAL * 2
                        passes, fails, down = _probed(fronts[name])
                        made = passes + fails - before[0] - before[1]
                        one = Load(load.rate, load.p99, cpu, made / due, fails - before[1], down)
                    samples.setdefault((name, count), []).append(one)
    return {name: Overload(dict(_of(name, samples, found))) for name in names}


def _of(
    name: str, samples: dict[tuple[str, str], list[Load]], found: dict[tuple[str, str], str]
) -> Iterator[tuple[str, Load | str]]:
    for count in (*map(str, COUNTS), NEW):
        each = samples.get((name, count))
        if (name, count) in found or each is None:
            yield count, found.get((name, count), "not run")
            continue
        yield (
            count,
            Load(
                median(one.rate for one in each),
                median(one.p99 for one in each),
                median(one.cpu for one in each),
                min(one.probes for one in each),
                sum(one.fails for one in each),
                max(one.down for one in each),
            ),
        )


def _configuration(front: int, peers: list[int], checks: bool) -> str:
    servers = "\n".join(f"        server 127.0.0.1:{peer};" for peer in peers)
    check = f"health_check interval={round(_INTERVAL * 1000)}ms fails=3 passes=2;" if checks else ""
    status = "location = /status { upwell_status; status_format json; }" if checks else ""
    return f"""
worker_processes 1;
worker_rlimit_nofile {4 * COUNTS[-1]};
events {{ worker_connections {3 * COUNTS[-1]}; }}
http {{
    access_log off;
    upstream apps {{
        zone apps 1m;
{servers}
        keepalive {COUNTS[-1]};
    }}
    server {{
        listen {front} backlog=4096;
        keepalive_requests 1000000;
        location / {{
            proxy_pass http://apps;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            {check}
        }}
        {status}
    }}
}}
"""


def _probed(front: int) -> tuple[int, int, int]:
    """Passes and failures of all checks, and how many peers are not up."""
    page = json.loads(fetch(front, "/status")[1])
    passes = fails = down = 0
    for upstream in page["upstreams"]:
        for peer in upstream["peers"]:
            down += peer["state"] != "up"
            passes += sum(check["passes"] for check in peer["checks"])
            fails += sum(check["failures"] for check in peer["checks"])
    return passes, fails, down
