"""Every proxy that is installed here runs the configuration that the benchmark gives it."""

from __future__ import annotations

import pytest

from bench import clients, tools
from bench.contenders import CONTENDERS, Sizing, forget_log
from bench.stage import Kind, stage
from upwell.contrib.processes import await_condition
from upwell.contrib.traffic import fetch

PLAIN, LOGGED, APP = Kind(), Kind(log=True), Kind(app=True)


@pytest.mark.parametrize("name", CONTENDERS)
def test_a_contender_serves_its_fronts_and_logs_where_told(name: str) -> None:
    try:
        programs = {name: tools.find(name)}
    except tools.MissingTool as missing:
        pytest.skip(str(missing))
    with stage(programs, [name], [PLAIN, LOGGED, APP], Sizing()) as on:
        assert on.absent == {}
        (proxy,) = on.proxies
        log = proxy.process.prefix / "logs" / "access.log"

        def lines() -> int:
            return log.read_text().count("/10k") if log.exists() else 0

        assert fetch(proxy.ports[PLAIN]) == (200, "ok\n")
        assert fetch(proxy.ports[APP], "/bulk/10") == (200, "x" * 10)
        assert fetch(proxy.ports[LOGGED], "/10k") == (200, "x" * 10_240)
        # Envoy writes its log every ten seconds.
        await_condition(lambda: lines() == 1, f"one line in the log of {name}", seconds=20)
        assert clients.echo(proxy.ports[APP], 2, 0.1).requests > 0
        forget_log(proxy.process)
        assert log.read_text() == ""


def test_a_program_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.tools.shutil.which", lambda name: None)
    monkeypatch.setattr("bench.tools.sys.executable", "/nonexistent/python")
    with pytest.raises(tools.MissingTool, match=r"^wrk is not installed: apt-get install wrk$"):
        tools.find("wrk")
