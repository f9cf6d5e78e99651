"""What every test may ask for: free ports; and what is different when the compiled upwell is tested."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

from upwell.contrib.processes import free_ports
from upwell.version import data_plane


@pytest.fixture(scope="session")
def ports() -> Callable[[int], list[int]]:
    """A function that gives that many TCP ports on which nobody listens."""
    return free_ports


def pytest_configure() -> None:
    # Nothing is asserted about how long something takes, and CI runs this on two busy processors.
    os.environ.setdefault("UPWELL_PATIENCE", "3")
    # No test asserts a time, and on a busy machine any example may be slow.
    settings.register_profile("upwell", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("upwell")
    # A shell has what it starts in the background ignore SIGINT and SIGQUIT, and nohup SIGHUP; all that the tests start
    # would inherit that, and some of it is ended by these signals.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def pytest_report_header() -> str:
    return f"upwell's data plane: {data_plane()}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if data_plane() == "pure Python":
        return
    for item in items:
        mark = item.get_closest_marker("pure_only")
        if mark is not None:
            item.add_marker(pytest.mark.skip(reason=mark.kwargs["reason"]))
