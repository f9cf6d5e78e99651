"""CPU time of `stream`: what a GB each way and a connection cost, beside nginx's stream module in the same run.

The apps are those of the other cases and HTTP is what they speak, but the proxies pass it on as bytes.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import wrk
from bench.backend import backend
from bench.cases import BadRun, Case
from bench.cpu import on_cores, split_cores, tree_seconds
from bench.measure import Plan, Progress
from bench.memory import compared
from bench.stage import APPS, temporary_folder
from upwell.contrib.processes import Balancer, NotReached, await_condition, free_ports
from upwell.contrib.traffic import fetch

_MB10 = 10 * 1_048_576
_WARM_UP = 1.0
GOAL = 1.0
"""Of nginx's CPU time, per GB and per connection."""

WAYS = (
    ("down", "a GB from the peer", "s", Case("stream-down", "", path="/10m", connections=8), _MB10),
    ("up", "a GB from the client", "s", Case("stream-up", "", path="/post", body=1_048_576, connections=8), 1_048_576),
    ("small", "a request of 40 bytes on a kept connection", "us", Case("stream-small", ""), 0),
    ("newconn", "a connection", "us", Case("stream-newconn", "", fields=(("Connection", "close"),)), 0),
)
"""Name, title, unit, what is asked, and how many bytes go by with each request (0: a request is what is counted)."""


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU time (user and system, of the whole process tree) for one GB in seconds, or one request in microseconds."""

    cpu: float
    rate: float


def _configuration(front: int, apps: list[int]) -> str:
    peers = " ".join(f"server 127.0.0.1:{app};" for app in apps)
    return f"""
worker_processes 1;
worker_rlimit_nofile 30000;
events {{ worker_connections 4096; }}
stream {{
    upstream apps {{ {peers} }}
    server {{ listen {front} backlog=4096; proxy_pass apps; }}
}}
"""


def _answers(port: int) -> bool:
    try:
        return fetch(port)[0] == 200
    except OSError:
        return False


def measure_stream(plan: Plan, progress: Progress) -> dict[tuple[str, str], Spent | str]:
    """Medians by way and program; or why there are none."""
    found: dict[tuple[str, str], list[Spent]] = {}
    trouble: dict[tuple[str, str], str] = {}
    names = compared(plan)
    proxy_cores, load_cores = split_cores(1)
    with temporary_folder() as folder, ExitStack() as started:
        ports = free_ports(APPS + len(names))
        apps = ports[:APPS]
        with on_cores(load_cores):
            started.enter_context(backend(folder / "apps", apps, plan.programs.get("nginx")))
        proxies: dict[str, Balancer] = {}
        for name, port in zip(names, ports[APPS:], strict=True):
            proxy = Balancer(folder / name, _configuration(port, apps), [port], plan.programs[name].command)
            with on_cores(proxy_cores):
                started.enter_context(proxy)
            await_condition(lambda port=port: _answers(port), f"200 on port {port}", 15)  # type: ignore[misc]  # bound
            proxies[name] = proxy
        for repeat in range(plan.repeats):
            for way, title, _, case, size in WAYS:
                turn = repeat % len(names)
                for name in [*names[turn:], *names[:turn]]:
                    progress(f"{repeat + 1}/{plan.repeats} {title}: {name}")
                    try:
                        with on_cores(load_cores):
                            spent = _sample(plan, case, size, proxies[name], folder, repeat == 0)
                    except (BadRun, NotReached) as error:
                        trouble[way, name] = str(error)
                        continue
                    found.setdefault((way, name), []).append(spent)
    return {
        (way, name): trouble.get((way, name))
        or Spent(
            median(one.cpu for one in found[way, name]),
            median(one.rate for one in found[way, name]),
        )
        for way, *_ in WAYS
        for name in names
    }


def _sample(plan: Plan, case: Case, size: int, proxy: Balancer, folder: Path, warm: bool) -> Spent:
    command = plan.programs["wrk"].command
    connections = min(plan.connections, case.connections)
    port = proxy.ports[0]
    if warm:
        wrk.run(command, case, port, _WARM_UP, connections, folder)
    before = tree_seconds(proxy.pid)
    load = wrk.run(command, case, port, plan.seconds, connections, folder)
    time.sleep(0.05)  # a tick of the clock that counts CPU time
    spent = tree_seconds(proxy.pid) - before
    each = spent / max(1, load.requests)
    return Spent(each / size * 1e9 if size else each * 1e6, load.rate)
