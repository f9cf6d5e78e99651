"""Proxies before the same apps, each with the same configuration, measured in turns: what `stream` and `tls` share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.backend import backend
from bench.cases import BadRun, Load
from bench.cpu import on_cores, split_cores, tree_seconds
from bench.measure import Plan, Progress
from bench.memory import compared
from bench.stage import APPS, temporary_folder
from upwell.contrib.processes import Balancer, NotReached, await_condition, free_ports

_WARM_UP = 1.0


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU time (user and system, of the whole process tree) for one of what is counted, and how many a second."""

    cpu: float
    rate: float


def measure_turns(
    plan: Plan,
    progress: Progress,
    configuration: Callable[[int, list[int]], str],
    answers: Callable[[int], bool],
    ways: Sequence[tuple[str, str]],
    sample: Callable[[str, Balancer, Path, bool], Spent],
) -> dict[tuple[str, str], Spent | str]:
    """Medians by way and program; or why there are none. `ways` are names and titles; `configuration` takes the port
    and those of the apps; `sample` a way, the proxy, a folder and whether it is the first of its kind."""
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
            proxy = Balancer(folder / name, configuration(port, apps), [port], plan.programs[name].command)
            with on_cores(proxy_cores):
                started.enter_context(proxy)
            await_condition(lambda port=port: answers(port), f"answers on port {port}", 15)  # type: ignore[misc]  # bound
            proxies[name] = proxy
        for repeat in range(plan.repeats):
            for way, title in ways:
                turn = repeat % len(names)
                for name in [*names[turn:], *names[:turn]]:
                    progress(f"{repeat + 1}/{plan.repeats} {title}: {name}")
                    try:
                        with on_cores(load_cores):
                            spent = sample(way, proxies[name], folder, repeat == 0)
                    except (BadRun, NotReached) as error:
                        trouble[way, name] = str(error)
                        continue
                    found.setdefault((way, name), []).append(spent)
    return {
        (way, name): trouble.get((way, name))
        or Spent(median(one.cpu for one in found[way, name]), median(one.rate for one in found[way, name]))
        for way, _ in ways
        for name in names
    }


def spend(plan: Plan, proxy: Balancer, warm: bool, run: Callable[[float], Load]) -> tuple[float, float]:
    """CPU seconds of `proxy` for each request of `run`, which takes seconds, and its requests a second."""
    if warm:
        run(_WARM_UP)
    before = tree_seconds(proxy.pid)
    load = run(plan.seconds)
    time.sleep(0.05)  # a tick of the clock that counts CPU time
    return (tree_seconds(proxy.pid) - before) / max(1, load.requests), load.rate
