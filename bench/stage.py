"""What stands while something is measured: apps and proxies as processes on their cores, in a folder that goes away."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from bench.backend import backend
from bench.contenders import CONTENDERS, Front, Sizing
from bench.cpu import on_cores, split_cores
from bench.tools import Tool
from upwell.contrib.processes import Balancer, NotReached, await_condition, free_ports
from upwell.contrib.traffic import fetch

APPS = 2


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of front: before the small app that can do more than plain answers (and upgrades), or with a log."""

    app: bool = False
    log: bool = False


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that runs, and its port for each kind of front."""

    name: str
    process: Balancer
    ports: Mapping[Kind, int]


@dataclass(frozen=True, slots=True)
class Stage:
    """The folder, the proxies in the order asked for, and why others are not among them."""

    folder: Path
    proxies: Sequence[Proxy]
    absent: Mapping[str, str]
    load_cores: set[int]


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that workers which are not root can reach too."""
    with tempfile.TemporaryDirectory(prefix="upwell-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def _answers(port: int) -> bool:
    try:
        return fetch(port)[0] == 200
    except (OSError, HTTPException):
        return False


def _await_answers(proxy: Balancer) -> None:
    # Some listen before they know where to send a request.
    try:
        await_condition(lambda: all(map(_answers, proxy.ports)), f"200 on ports {proxy.ports}", seconds=15)
    except NotReached as error:
        raise NotReached(f"{error}\n{proxy.story()}") from None


@contextmanager
def stage(
    programs: Mapping[str, Tool], names: Sequence[str], kinds: Sequence[Kind], sizing: Sizing, cores: int = 1
) -> Iterator[Stage]:
    """Start apps and the proxies `names`; `cores` are the proxies' own, the others are for apps and load."""
    proxy_cores, load_cores = split_cores(cores)
    with temporary_folder() as folder, ExitStack() as started:
        ports = free_ports(APPS + 1 + len(names) * len(kinds))
        apps, echo, fronts = tuple(ports[:APPS]), (ports[APPS],), iter(ports[APPS + 1 :])
        with on_cores(load_cores):
            started.enter_context(backend(folder / "apps", apps, programs.get("nginx")))
            if any(kind.app for kind in kinds):
                started.enter_context(backend(folder / "app", echo, None))
        proxies, absent = [], {}
        for name in names:
            own = {kind: Front(next(fronts), echo if kind.app else apps, kind.log, kind.app) for kind in kinds}
            process = CONTENDERS[name](folder / name, list(own.values()), programs[name], sizing)
            try:
                with on_cores(proxy_cores):
                    started.enter_context(process)
                _await_answers(process)
            except NotReached as error:
                absent[name] = str(error)
                continue
            proxies.append(Proxy(name, process, {kind: front.port for kind, front in own.items()}))
        yield Stage(folder, proxies, absent, load_cores)


def allow_files(count: int) -> int:
    """Raise this process's limit of open files, which those it starts inherit; returns what it is now."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        with suppress(OSError, ValueError):  # only root may go beyond the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(count, hard)))
            return count
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def cores_here() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))
