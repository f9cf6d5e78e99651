"""The backend for machines without nginx answers what the cases ask for."""

from __future__ import annotations

from pathlib import Path

from bench.backend import SIZES, backend_command, nginx_configuration, probes_counted
from upwell.contrib.processes import Balancer, free_ports
from upwell.contrib.traffic import fetch


def test_the_small_backend_answers_each_case_and_counts_probes(tmp_path: Path) -> None:
    ports = free_ports(2)
    with Balancer(tmp_path, nginx_configuration(ports, tmp_path), ports, backend_command(None)) as balancer:
        assert fetch(ports[0], "/") == (200, "xxx")
        for path, size in SIZES.items():
            assert fetch(ports[1], path) == (200, "x" * size)
        assert probes_counted(tmp_path) == 0
        assert fetch(ports[0], "/probe")[0] == 200
        assert probes_counted(tmp_path) == 1, balancer.story()
