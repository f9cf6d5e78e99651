"""all_down, mass_down_threshold and health_check_concurrency: what each upstream is told, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from upwell.errors import ConfigErrors
from upwell.modules.load import load
from upwell.runtime.build import Plan, plan


def read(folder: Path, http: str) -> Plan:
    (folder / "nginx.conf").write_text(f"events {{}}\nhttp {{\n{http}\n}}\n")
    return plan(load("nginx.conf", str(folder)))


def refused(folder: Path, http: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        read(folder, http)
    return [error.message for error in caught.value.errors]


def test_without_a_word(tmp_path: Path) -> None:
    read_ = read(tmp_path, "upstream a { server 127.0.0.1:81; }")
    [spec] = read_.upstreams
    assert (spec.all_down, spec.panic, spec.mass_down, read_.health_check_concurrency) == ("fail", 0, 50, 0)


def test_each_upstream_is_told_its_own(tmp_path: Path) -> None:
    read_ = read(
        tmp_path,
        """
        upstream a { server 127.0.0.1:81; all_down panic=30%; mass_down_threshold 10%; }
        upstream b { server 127.0.0.1:81; all_down serve_all; }
        upstream C { server 127.0.0.1:81; all_down fail; }
        server { location / { proxy_pass http://127.0.0.1:99; } }
        mass_down_threshold 80%;
        health_check_concurrency 500;
        """,
    )
    told = {spec.name: (spec.all_down, spec.panic, spec.mass_down) for spec in read_.upstreams}
    assert told == {
        "a": ("panic", 30, 10),
        "b": ("serve_all", 0, 80),  # what http says, though it says it later
        "C": ("fail", 0, 80),
        "127.0.0.1:99": ("fail", 0, 80),
    }
    assert read_.health_check_concurrency == 500


@pytest.mark.parametrize(
    "value", ["panic", "panic=", "panic=0%", "panic=101%", "panic=30", "serve", "FAIL", "panic=1.5%"]
)
def test_other_policies_are_refused(tmp_path: Path, value: str) -> None:
    [words] = refused(tmp_path, f"upstream a {{ server 127.0.0.1:81; all_down {value}; }}")
    assert words.startswith("invalid ")
    assert value.removeprefix("panic=") in words


@pytest.mark.parametrize("value", ["0%", "50", "101%", "half", "-1%"])
def test_other_thresholds_are_refused(tmp_path: Path, value: str) -> None:
    assert refused(tmp_path, f"mass_down_threshold {value};") == [
        f'invalid percentage "{value}" in "mass_down_threshold", it must be from 1% to 100%'
    ]


@pytest.mark.parametrize("value", ["0", "many", "-1"])
def test_other_numbers_of_probes_are_refused(tmp_path: Path, value: str) -> None:
    assert refused(tmp_path, f"health_check_concurrency {value};") == [
        f'invalid number "{value}" in "health_check_concurrency", it must be at least 1'
    ]


def test_each_may_be_said_once_and_in_its_place(tmp_path: Path) -> None:
    assert refused(
        tmp_path,
        """
        all_down fail;
        health_check_concurrency 1; health_check_concurrency 1;
        mass_down_threshold 1%; mass_down_threshold 1%;
        upstream a { server 127.0.0.1:81; all_down fail; all_down fail; health_check_concurrency 1; }
        server { mass_down_threshold 1%; }
        """,
    ) == [
        '"all_down" directive is not allowed here',
        '"health_check_concurrency" directive is duplicate',
        '"mass_down_threshold" directive is duplicate',
        '"all_down" directive is duplicate',
        '"health_check_concurrency" directive is not allowed here',
        '"mass_down_threshold" directive is not allowed here',
    ]
