"""upwell chooses while requests are under way as the nginx did of which tests/cases/balancers/held was recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers.held import recorded, replay

CASES = recorded()


@pytest.mark.parametrize("name", CASES)
def test_the_peers_tried_are_those_that_nginx_tried(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    assert replay(case, tmp_path) == case["steps"]


def test_there_are_cases_with_failures_and_with_limits() -> None:
    assert any("least_conn;" in case["upstream"] for case in CASES.values())
    assert any(case["failing"] for case in CASES.values())
    assert any("max_conns" in line for case in CASES.values() for line in case["upstream"])
