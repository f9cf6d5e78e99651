"""Latency under a steady rate, and what a second worker brings."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import clients, wrk
from bench.cases import CASES, BadRun, quantile
from bench.contenders import Sizing
from bench.cpu import on_cores, process_seconds, tree
from bench.measure import Plan, Progress
from bench.memory import compared
from bench.stage import Kind, Proxy, Stage, cores_here, stage

CORES_FOR_WORKERS = 4
"""Two for the workers, two for the load generator and the apps: with fewer, throughput would be theirs."""
_CONNECTIONS = 32
_MANY_CONNECTIONS = 128
_REQUESTS_EACH = 500
"""Well below the thousand after which nginx closes a client connection."""
_WARM_UP = 1.0
_WORKERS_CASE = next(case for case in CASES if case.name == "browser")
COUNTS = (1, 2)


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds."""

    p50: float
    p99: float


def latency(plan: Plan, rate: float, progress: Progress) -> dict[str, Latency | str]:
    """p50 and p99 at `rate` requests a second: medians over the repeats, in turns."""
    connections = max(_CONNECTIONS, int(rate * (plan.seconds + _WARM_UP) / _REQUESTS_EACH) + 1)
    samples: dict[str, list[Latency]] = {}
    kind = Kind()
    with stage(plan.programs, compared(plan), [kind], Sizing()) as on:
        found: dict[str, Latency | str] = dict(on.absent)
        for repeat in range(plan.repeats):
            for proxy in on.proxies[:: 1 if repeat % 2 else -1]:
                if proxy.name in found:
                    continue
                progress(f"{repeat + 1}/{plan.repeats} latency at {rate:g} requests/s: {proxy.name}")
                try:
                    with on_cores(on.load_cores):
                        clients.steady(proxy.ports[kind], rate, _WARM_UP, connections)
                        taken = clients.steady(proxy.ports[kind], rate, plan.seconds, connections)
                except BadRun as error:
                    found[proxy.name] = str(error)
                    continue
                sample = Latency(quantile(taken, 0.5) * 1e3, quantile(taken, 0.99) * 1e3)
                samples.setdefault(proxy.name, []).append(sample)
    for name, each in samples.items():
        found.setdefault(name, Latency(median(one.p50 for one in each), median(one.p99 for one in each)))
    return found


@dataclass(frozen=True, slots=True)
class Work:
    """Requests a second; CPU microseconds a request of all processes; and of the busiest process alone."""

    rate: float
    cpu: float
    busiest: float


def workers(plan: Plan, progress: Progress) -> dict[tuple[str, int], Work | str]:
    """The browser's requests on one worker and on two: medians over the repeats, in turns."""
    names, kind = compared(plan), Kind()
    cores = max(COUNTS) if cores_here() >= CORES_FOR_WORKERS else 0
    samples: dict[tuple[str, int], list[Work]] = {}
    found: dict[tuple[str, int], Work | str] = {}
    with ExitStack() as started:
        running: list[tuple[str, int, Stage, Proxy]] = []
        for count in COUNTS:
            on = started.enter_context(stage(plan.programs, names, [kind], Sizing(workers=count), cores))
            found.update({(name, count): reason for name, reason in on.absent.items()})
            running += [(proxy.name, count, on, proxy) for proxy in on.proxies]
        for repeat in range(plan.repeats):
            for name, count, on, proxy in sorted(running, key=lambda one: one[:2], reverse=bool(repeat % 2)):
                progress(f"{repeat + 1}/{plan.repeats} {count} worker(s): {name}")
                try:
                    with on_cores(on.load_cores):
                        samples.setdefault((name, count), []).append(_work(plan, proxy, proxy.ports[kind], on.folder))
                except BadRun as error:
                    found[name, count] = str(error)
    for which, each in samples.items():
        middle = (median(getattr(one, figure) for one in each) for figure in ("rate", "cpu", "busiest"))
        found.setdefault(which, Work(*middle))
    return found


def _work(plan: Plan, proxy: Proxy, port: int, folder: Path) -> Work:
    command = plan.programs["wrk"].command
    wrk.run(command, _WORKERS_CASE, port, _WARM_UP, _MANY_CONNECTIONS, folder)
    before = {pid: process_seconds(pid) for pid in tree(proxy.process.pid)}
    load = wrk.run(command, _WORKERS_CASE, port, plan.seconds, _MANY_CONNECTIONS, folder)
    spent = [(process_seconds(pid) - seconds) / max(1, load.requests) * 1e6 for pid, seconds in before.items()]
    return Work(load.rate, sum(spent), max(spent))
