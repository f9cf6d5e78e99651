"""CPU time of TLS: requests on kept connections, full handshakes and resumed ones, beside nginx in the same run.

The same certificate (P-256, as authorities give them out now) and the same file for all; TLS 1.3, as both choose.
"""

from __future__ import annotations

import ssl
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import clients, wrk
from bench.backend import backend
from bench.cases import CASES, BadRun, Case, Load
from bench.cpu import on_cores, split_cores, tree_seconds
from bench.measure import Plan, Progress
from bench.memory import compared
from bench.stage import APPS, temporary_folder
from upwell.contrib.processes import Balancer, NotReached, await_condition, free_ports

_WARM_UP = 1.0
_AT_ONCE = 8
_CERTIFICATES = Path(__file__).parents[1] / "tests" / "system" / "tls"
_BROWSER = next(case for case in CASES if case.name == "browser")
_BIG = next(case for case in CASES if case.name == "100k")

WAYS: tuple[tuple[str, str, float, Case | None], ...] = (
    ("kept", "ten browser headers on a kept connection", 1.3, _BROWSER),
    ("big", "100 KB answer on a kept connection", 1.3, _BIG),
    ("full", "a full handshake", 1.3, None),
    ("resumed", "a resumed handshake", 1.5, None),
)
"""Name, title, upwell's share of nginx's CPU time at most, and what wrk asks; None: no request at all."""


@dataclass(frozen=True, slots=True)
class Secured:
    """CPU microseconds (user and system, of the whole process tree) for one of them, and how many a second."""

    cpu: float
    rate: float


def _configuration(front: int, apps: list[int]) -> str:
    peers = " ".join(f"server 127.0.0.1:{app};" for app in apps)
    return f"""
worker_processes 1;
worker_rlimit_nofile 30000;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_timeout 600s;
    keepalive_requests 1000000;
    upstream apps {{ {peers} keepalive 64; }}
    server {{
        listen {front} ssl backlog=4096;
        ssl_certificate {_CERTIFICATES}/deep0-test-only.pem;
        ssl_certificate_key {_CERTIFICATES}/deep-test-only.key;
        location / {{ proxy_pass http://apps; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
}}
"""


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # what a client spends is not counted
    return context


def _answers(port: int) -> bool:
    try:
        clients.shake(port, 1, 0.0, _context())
    except (OSError, BadRun):
        return False
    return True


def measure_tls(plan: Plan, progress: Progress) -> dict[tuple[str, str], Secured | str]:
    """Medians by way and program; or why there are none."""
    found: dict[tuple[str, str], list[Secured]] = {}
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
            await_condition(lambda port=port: _answers(port), f"TLS on port {port}", 15)  # type: ignore[misc]  # bound
            proxies[name] = proxy
        for repeat in range(plan.repeats):
            for way, title, _, case in WAYS:
                turn = repeat % len(names)
                for name in [*names[turn:], *names[:turn]]:
                    progress(f"{repeat + 1}/{plan.repeats} {title}: {name}")
                    try:
                        with on_cores(load_cores):
                            sample = _sample(plan, way, case, proxies[name], folder, repeat == 0)
                    except (BadRun, NotReached) as error:
                        trouble[way, name] = str(error)
                        continue
                    found.setdefault((way, name), []).append(sample)
    return {
        (way, name): trouble.get((way, name))
        or Secured(median(one.cpu for one in found[way, name]), median(one.rate for one in found[way, name]))
        for way, *_ in WAYS
        for name in names
    }


def _sample(plan: Plan, way: str, case: Case | None, proxy: Balancer, folder: Path, warm: bool) -> Secured:
    port = proxy.ports[0]

    def run(seconds: float) -> Load:
        if case is None:
            return clients.shake(port, _AT_ONCE, seconds, _context(), resumes=way == "resumed")
        connections = min(plan.connections, case.connections)
        return wrk.run(plan.programs["wrk"].command, case, port, seconds, connections, folder, "https")

    if warm:
        run(_WARM_UP)
    before = tree_seconds(proxy.pid)
    load = run(plan.seconds)
    time.sleep(0.05)  # a tick of the clock that counts CPU time
    spent = tree_seconds(proxy.pid) - before
    return Secured(spent / max(1, load.requests) * 1e6, load.rate)
