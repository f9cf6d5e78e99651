"""What every test may ask for: free ports."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from upwell.contrib.processes import free_ports


@pytest.fixture(scope="session")
def ports() -> Callable[[int], list[int]]:
    """A function that gives that many TCP ports on which nobody listens."""
    return free_ports
