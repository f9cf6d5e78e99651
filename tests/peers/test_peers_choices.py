"""upwell chooses as the nginx did of which tests/cases/balancers was recorded (tests/system/test_system_choices.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers.choices import choices, recorded

CASES = recorded()


@pytest.mark.parametrize("name", CASES)
def test_the_peers_tried_are_those_that_nginx_tried(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    for (key, tried), (_, expected) in zip(choices(case, tmp_path), case["tried"], strict=True):
        assert tried == expected, key


def test_there_are_cases_of_each_method_with_a_sequence() -> None:
    methods = {line.split()[0].rstrip(";") for case in CASES.values() for line in case["upstream"]} - {"server"}
    assert methods >= {"ip_hash", "hash"}
    assert any(case["failing"] for case in CASES.values())
