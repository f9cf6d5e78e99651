"""The unit files in packaging/ as systemd itself reads them, and its own program for socket activation."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.test_process_master import STUB, System, eventually, system

__all__ = ["system"]

PACKAGING = Path(__file__).parents[2] / "packaging"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    service = (PACKAGING / "upwell.service").read_text().replace("/opt/upwell/current/bin/upwell", "/bin/true")
    (tmp_path / "upwell.service").write_text(service)
    shutil.copy(PACKAGING / "upwell.socket", tmp_path)
    command = ["systemd-analyze", "verify", str(tmp_path / "upwell.service"), str(tmp_path / "upwell.socket")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert [line for line in done.stderr.splitlines() if "upwell" in line] == []


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="systemd is not installed")
def test_systemd_s_own_activation(system: System) -> None:
    system.configure()
    process = subprocess.Popen(
        [
            "systemd-socket-activate",
            "-l",
            f"127.0.0.1:{system.port}",
            sys.executable,
            str(STUB),
            str(system.conf),
            "-f",
        ],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        # The first connection has it started.
        assert eventually(system.ask, "an answer")
        assert len(eventually(lambda: system.children("worker", process.pid), "its worker")) == 1
        assert "bind()" not in system.log()
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
