"""The measurements themselves: the contenders run beside each other, the load goes to one at a time, in turns."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import backend, wrk
from bench.contenders import MIME_TYPES, Contender, configuration
from bench.cpu import on_cores, process_seconds, split_cores, tree_seconds
from bench.tools import Tool
from upwell.contrib.guide import APP_PORTS, FRONT_PORTS
from upwell.contrib.processes import Balancer, await_condition, free_ports

PROBED_PEERS = 200
_WARM_UP = 1.0
_PROBE_INTERVAL_MS = 50


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
    """What to measure, with which programs ("upwell" -> Tool, "nginx" -> Tool), how long and how often."""

    programs: dict[str, Tool]
    load: Tool
    contenders: tuple[Contender, ...]
    cases: tuple[wrk.Case, ...]
    seconds: float
    repeats: int
    connections: int


def _balancer(prefix: Path, text: str, ports: Sequence[int], command: Sequence[str]) -> Balancer:
    balancer = Balancer(prefix, text, ports, command)
    (prefix / "conf" / "mime.types").write_text(MIME_TYPES)
    return balancer


def _backend(folder: Path, ports: Sequence[int], nginx: Tool | None) -> Balancer:
    prefix = folder / "backend"
    prefix.mkdir()
    prefix.chmod(0o755)
    return Balancer(prefix, backend.nginx_configuration(ports, prefix), ports, backend.backend_command(nginx))


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="upwell-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # workers that are not root have to reach their files in it
        yield folder


def measure(plan: Plan, progress: Callable[[str], None]) -> dict[tuple[wrk.Case, Contender], Figures]:
    """Median figures for every case and contender. Raises BadRun, NotReached."""
    samples: dict[tuple[wrk.Case, Contender], list[Figures]] = {}
    proxy_cores, load_cores = split_cores()
    with _folder() as folder, ExitStack() as started:
        ports = free_ports(len(APP_PORTS) + len(FRONT_PORTS) * len(plan.contenders))
        apps = dict(zip(APP_PORTS, ports, strict=False))
        with on_cores(load_cores):
            started.enter_context(_backend(folder, list(apps.values()), plan.programs.get("nginx")))
        running: list[tuple[Contender, Balancer]] = []
        for number, contender in enumerate(plan.contenders):
            fronts = ports[len(apps) + 2 * number :][:2]
            text = configuration(contender, apps | dict(zip(FRONT_PORTS, fronts, strict=True)))
            command = plan.programs[contender.program].command
            with on_cores(proxy_cores):
                balancer = started.enter_context(_balancer(folder / f"proxy{number}", text, fronts, command))
            running.append((contender, balancer))
        for repeat in range(plan.repeats):
            for case in plan.cases:
                # Each round starts with another contender, so that none is always the one after a rest.
                for contender, balancer in running[repeat % len(running) :] + running[: repeat % len(running)]:
                    progress(f"{repeat + 1}/{plan.repeats} {case.title}: {contender.title}")
                    with on_cores(load_cores):
                        sample = _sample(plan, case, balancer, folder)
                    samples.setdefault((case, contender), []).append(sample)
    return {which: medians(taken) for which, taken in samples.items()}


def _sample(plan: Plan, case: wrk.Case, balancer: Balancer, folder: Path) -> Figures:
    port = balancer.ports[1]  # the guide's second server: nothing but `location /` and its proxy_pass
    wrk.run(plan.load.command, case, port, _WARM_UP, plan.connections, folder)
    before = tree_seconds(balancer.pid)
    load = wrk.run(plan.load.command, case, port, plan.seconds, plan.connections, folder)
    spent = tree_seconds(balancer.pid) - before
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


def measure_probes(plan: Plan, progress: Callable[[str], None]) -> tuple[float, float]:
    """Probes a second and CPU microseconds a probe in upwell's checker process: medians over the repeats."""
    proxy_cores, load_cores = split_cores()
    rates, costs = [], []
    with _folder() as folder, ExitStack() as started:
        peer_port, front = free_ports(2)
        with on_cores(load_cores):
            behind = started.enter_context(_backend(folder, [peer_port], plan.programs.get("nginx")))
        with on_cores(proxy_cores):
            text = _probing_configuration(front, peer_port)
            upwell = started.enter_context(_balancer(folder / "proxy", text, [front], plan.programs["upwell"].command))

        def counted() -> int:
            return backend.probes_counted(behind.prefix)

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
