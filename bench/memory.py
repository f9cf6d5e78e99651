"""Memory of a worker: under thousands of idle connections, and while much goes through it to somebody slow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench import clients
from bench.cases import BadRun
from bench.contenders import Sizing, forget_log
from bench.cpu import forget_peak, memory, on_cores, peak, tree
from bench.measure import Plan, Progress
from bench.stage import Kind, Proxy, allow_files, stage
from bench.tools import MissingTool

COMPARED = ("upwell", "upwell compiled", "nginx")
_SPARE_FILES = 1000


@dataclass(frozen=True, slots=True)
class Idle:
    """Bytes a connection over the empty worker, resident and proportional, and bytes of the empty worker."""

    connections: int
    rss: float
    pss: float
    empty: int


@dataclass(frozen=True, slots=True)
class Growth:
    """Peak of the resident set size over the start while `size` bytes went by, in bytes, and the start."""

    size: int
    growth: int
    start: int


def compared(plan: Plan) -> list[str]:
    """Those of the plan's programs that are compared beyond CPU time. Raises MissingTool when there are none."""
    names = [name for name in COMPARED if name in plan.names]
    if not names:
        raise MissingTool(f"this is measured for {' and '.join(COMPARED)} only")
    return names


def idle(plan: Plan, count: int, progress: Progress) -> dict[str, Idle | str]:
    """What `count` idle keep-alive connections that made one request each cost a worker."""
    allowed = allow_files(2 * count + _SPARE_FILES)
    count = min(count, allowed - _SPARE_FILES)
    found: dict[str, Idle | str] = {}
    # A stage for each: they would share pages, and what one holds of the machine is not the other's matter.
    for name in compared(plan):
        progress(f"{count:,} idle connections: {name}")
        with stage(plan.programs, [name], [Kind()], Sizing(connections=count + _SPARE_FILES)) as on:
            if name in on.absent:
                found[name] = on.absent[name]
                continue
            (proxy,) = on.proxies
            try:
                with on_cores(on.load_cores):
                    # The master listens before the worker is ready: it is when it has answered.
                    with clients.idle(proxy.ports[Kind()], 1):
                        pass
                    before = {pid: memory(pid) for pid in tree(proxy.process.pid)}
                    with clients.idle(proxy.ports[Kind()], count):
                        grown = {pid: memory(pid) for pid in before}
            except BadRun as error:
                found[name] = str(error)
                continue
            worker = max(before, key=lambda pid: grown[pid][0] - before[pid][0])
            rss, pss = (after - empty for after, empty in zip(grown[worker], before[worker], strict=True))
            found[name] = Idle(count, rss / count, pss / count, before[worker][0])
    return found


BULK: Sequence[tuple[str, str, Callable[[int, int], None]]] = (
    ("down", "answer to a slow reader", clients.download_slowly),
    ("up", "request body to an app that reads slowly", clients.upload),
)


def bulk(plan: Plan, size: int, progress: Progress) -> dict[tuple[str, str], Growth | str]:
    """How much a worker grows while `size` bytes go down to a slow client, and up to a slow app."""
    found: dict[tuple[str, str], Growth | str] = {}
    kind = Kind(app=True)
    with stage(plan.programs, compared(plan), [kind], Sizing()) as on:
        for name, reason in on.absent.items():
            found.update({(way, name): reason for way, _, _ in BULK})
        for way, title, transfer in BULK:
            for proxy in on.proxies:
                progress(f"{size / 1e9:g} GB {title}: {proxy.name}")
                with on_cores(on.load_cores):
                    found[way, proxy.name] = _growth(proxy, proxy.ports[kind], size, transfer)
                forget_log(proxy.process)
    return found


def _growth(proxy: Proxy, port: int, size: int, transfer: Callable[[int, int], None]) -> Growth | str:
    try:
        transfer(port, 1_000_000)  # what a first request loads is not what the size costs
        processes = tree(proxy.process.pid)
        start = {pid: memory(pid)[0] for pid in processes}
        for pid in processes:
            forget_peak(pid)
        transfer(port, size)
    except (BadRun, OSError) as error:
        return f"{type(error).__name__}: {error}"
    worker = max(processes, key=lambda pid: peak(pid) - start[pid])
    return Growth(size, peak(worker) - start[worker], start[worker])
