"""The guide's own file, its ports rewritten and nothing else, through its two situations and back, with real apps.

The plays for one and for two workers and `upwell demo` run at the same time, once; the tests read what was noted.
"""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.cpu import tree
from tests.system.conftest import StartBalancer
from upwell.contrib.demo import Lines, Stage, main, sum_up
from upwell.contrib.guide import APP_PORTS, FRONT_PORTS, guide_text, with_ports
from upwell.contrib.processes import UPWELL, App, Balancer, await_condition, free_ports
from upwell.contrib.traffic import Traffic, fetch

SEED = Path(__file__).parents[3] / "shared" / "seed" / "nginx.conf"
SITUATIONS = {"situation 1": (81, 83), "situation 2": (82, 83)}
WORKERS = (1, 2)

INTERVAL, FALL, RISE = 3.0, 3, 2  # as the guide's file has them
SLACK = 2.5  # seconds that starting processes and polling the page may add on a busy machine


@dataclass
class Scene:
    """A settled state: which of the guide's ports are down, the pages, and who answered one request after another."""

    down: tuple[int, ...]
    took: float
    status: str
    metrics: str
    content_types: dict[str, str | None]
    answers: dict[int, list[str]]
    below: list[str]
    children: list[int]


@dataclass
class Play:
    """All that was noted of a whole run with `workers` workers."""

    workers: int
    ports: dict[int, int]
    scenes: dict[str, Scene] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    asked: int = 0
    refused: int = 0
    log: str = ""


def status_page(ports: dict[int, int], down: tuple[int, ...]) -> str:
    """The page's text after its first line, as lua-resty-upstream-healthcheck writes it."""

    def peers(*guide_ports: int) -> str:
        return "".join(f"        127.0.0.1:{ports[one]} {'DOWN' if one in down else 'UP'}\n" for one in guide_ports)

    return (
        f"Upstream tomcat_upstream\n    Primary Peers\n{peers(81, 82)}    Backup Peers\n"
        f"\nUpstream nginx_upstream\n    Primary Peers\n{peers(83, 84)}    Backup Peers\n"
    )


def metrics_page(ports: dict[int, int], down: tuple[int, ...]) -> str:
    """The Prometheus page, as lua-resty-upstream-healthcheck writes it."""
    metric = "nginx_upstream_status_info"
    lines = [f"# HELP {metric} The running status of nginx upstream", f"# TYPE {metric} gauge"]
    for upstream, guide_ports in (("tomcat_upstream", (81, 82)), ("nginx_upstream", (83, 84))):
        for one in guide_ports:
            labels = f'name="{upstream}",endpoint="127.0.0.1:{ports[one]}"'
            for state in ("UP", "DOWN"):
                value = int((one in down) == (state == "DOWN"))
                lines.append(f'{metric}{{{labels},status="{state}",role="PRIMARY"}} {value}')
        lines += [
            f'{metric}{{name="{upstream}",status="{state}"}} {value}'
            for state, value in (("UP", 1), ("DOWN", 0), ("UNKNOWN", 0))
        ]
    return "\n".join(lines) + "\n"


def _page(play: Play, path: str) -> tuple[str, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", play.ports[80], timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200, f"{path} answered {response.status}"
        return response.read().decode(), response.getheader("Content-Type")
    finally:
        connection.close()


def _one_after_another(port: int, path: str, count: int) -> list[str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        answers = []
        for _ in range(count):
            connection.request("GET", path)
            answers.append(connection.getresponse().read().decode().strip())
        return answers
    finally:
        connection.close()


def _note(play: Play, balancer: Balancer, down: tuple[int, ...], took: float) -> Scene:
    status, status_type = _page(play, "/status")
    metrics, metrics_type = _page(play, "/metrics")
    return Scene(
        down,
        took,
        status,
        metrics,
        {"/status": status_type, "/metrics": metrics_type},
        {port: _one_after_another(play.ports[port], "/index.html", 40) for port in FRONT_PORTS},
        _one_after_another(play.ports[80], "/nginx_upstream/index.html", 10),
        balancer.workers,
    )


def _reach(play: Play, down: tuple[int, ...]) -> float:
    started = time.monotonic()
    expected = status_page(play.ports, down)
    await_condition(
        lambda: _page(play, "/status")[0].partition("\n")[2] == expected,
        f"the page shows {down} DOWN",
        seconds=25,
        poll=0.1,
    )
    return time.monotonic() - started


def _play(workers: int, start: StartBalancer) -> Play:
    ports = dict(zip((*FRONT_PORTS, *APP_PORTS), free_ports(6), strict=True))
    play = Play(workers, ports)
    text = with_ports(guide_text(), ports)
    if workers != 1:
        text = text.replace("worker_processes  1;", f"worker_processes  {workers};")
    apps = {port: App(ports[port], f"app-{port}") for port in APP_PORTS}
    with ExitStack() as stack:
        for app in apps.values():
            stack.enter_context(app)
        balancer = start(text, [ports[port] for port in FRONT_PORTS])

        def change(title: str, down: tuple[int, ...], act: str, touched: tuple[int, ...]) -> None:
            # Clients ask all the time while apps go and come; they rest while the answers of one client are noted.
            with ExitStack() as asking:
                clients = [asking.enter_context(Traffic(ports[port], pause=0.01)) for port in FRONT_PORTS * 2]
                for port in touched:
                    getattr(apps[port], act)()
                took = _reach(play, down)
            for client in clients:
                play.asked += client.asked
                play.lost += [f"{title}: {sentence}" for sentence in client.lost]
            play.scenes[title] = _note(play, balancer, down, took)

        _reach(play, ())
        play.scenes["start"] = _note(play, balancer, (), 0.0)
        for title, stopped in SITUATIONS.items():
            change(title, stopped, "stop", stopped)
            change(f"{title}, back", (), "start", stopped)
        play.refused = fetch(ports[80], "/status", source="127.0.0.2")[0]
        play.log = balancer.error_log()
    return play


@dataclass
class Demo:
    """A whole run of `upwell demo --keep`, ended with Ctrl-C once it had played; which processes were its own."""

    output: str
    exit_status: int
    processes: list[int]


def _demo() -> Demo:
    command = [*UPWELL, "demo", "--keep"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("  error log:"):  # the last thing it says before it waits
                    break
            processes = tree(process.pid)[1:]
            process.send_signal(signal.SIGINT)
            lines.append(process.stdout.read())
            return Demo("".join(lines), process.wait(20), processes)
        finally:
            process.kill()


@dataclass
class Running:
    """What runs at the same time."""

    demo: Future[Demo]
    plays: dict[int, Future[Play]]


@pytest.fixture(scope="module")
def running(start_shared: StartBalancer) -> Iterator[Running]:
    with ThreadPoolExecutor(len(WORKERS) + 1) as pool:
        yield Running(pool.submit(_demo), {workers: pool.submit(_play, workers, start_shared) for workers in WORKERS})


@pytest.fixture(scope="module")
def plays(running: Running) -> dict[int, Play]:
    return {workers: play.result() for workers, play in running.plays.items()}


@pytest.fixture(scope="module")
def demo(running: Running) -> Demo:
    return running.demo.result()


@pytest.fixture(params=WORKERS, ids=lambda workers: f"{workers} worker" + "s" * (workers > 1))
def play(request: pytest.FixtureRequest, plays: dict[int, Play]) -> Play:
    workers: int = request.param
    return plays[workers]


STAGES = ("start", "situation 1", "situation 1, back", "situation 2", "situation 2, back")


def test_the_shipped_file_is_the_guides() -> None:
    if not SEED.exists():
        pytest.skip("the guide is not beside this clone")
    assert guide_text() == SEED.read_text(encoding="utf-8")


def test_only_ports_are_rewritten() -> None:
    ports = {port: 20_000 + port for port in (*FRONT_PORTS, *APP_PORTS)}
    back = {new: old for old, new in ports.items()}
    rewritten = with_ports(guide_text(), ports)
    assert rewritten != guide_text()
    assert with_ports(rewritten, back) == guide_text()


@pytest.mark.parametrize("stage", STAGES)
def test_the_status_page_byte_for_byte(play: Play, stage: str) -> None:
    scene = play.scenes[stage]
    first, _, rest = scene.status.partition("\n")
    assert rest == status_page(play.ports, scene.down)
    match = re.fullmatch(r"Nginx Worker PID: (\d+)", first)
    assert match is not None, first
    assert int(match[1]) in scene.children
    assert scene.content_types["/status"] == "text/plain"


@pytest.mark.parametrize("stage", STAGES)
def test_the_metrics_page_byte_for_byte(play: Play, stage: str) -> None:
    scene = play.scenes[stage]
    assert scene.metrics == metrics_page(play.ports, scene.down)
    assert scene.content_types["/metrics"] == "text/plain"


@pytest.mark.parametrize("stage", STAGES)
def test_each_server_asks_its_own_upstream_and_only_what_is_up(play: Play, stage: str) -> None:
    scene = play.scenes[stage]
    for front, upstream in ((80, (81, 82)), (8080, (83, 84))):
        assert set(scene.answers[front]) == {f"app-{port}" for port in upstream if port not in scene.down}
    assert set(scene.below) == {f"app-{port}" for port in (83, 84) if port not in scene.down}


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage == "start" or stage.endswith("back")])
def test_one_worker_alternates_exactly(plays: dict[int, Play], stage: str) -> None:
    for front, upstream in ((80, (81, 82)), (8080, (83, 84))):
        answers = plays[1].scenes[stage].answers[front]
        names = [f"app-{port}" for port in upstream]
        assert answers in (names * 20, names[::-1] * 20)


def test_not_one_request_is_lost(play: Play) -> None:
    assert play.asked > 500
    assert play.lost == []


def test_fall_and_rise_take_as_many_probes_as_the_file_says(play: Play) -> None:
    for title in SITUATIONS:
        # The first probe after the change comes within an interval, the others an interval apart each.
        assert (FALL - 1) * INTERVAL <= play.scenes[title].took <= FALL * INTERVAL + SLACK
        # Starting the apps takes its own time, and a probe may pass before `took` begins to count.
        assert (RISE - 1) * INTERVAL - SLACK <= play.scenes[f"{title}, back"].took <= RISE * INTERVAL + SLACK


def test_the_status_page_is_refused_to_other_addresses(play: Play) -> None:
    assert play.refused == 403
    assert 'access forbidden by rule, client: 127.0.0.2, server: localhost, request: "GET /status HTTP/1.1"' in play.log


def test_the_demo_plays_both_situations_and_loses_nothing(demo: Demo) -> None:
    assert demo.exit_status == 0, demo.output
    for line in ("Situation 1: app-81 and app-83 stop.", "Situation 2: app-82 and app-83 stop."):
        assert line in demo.output
    assert demo.output.count("  /status shows them DOWN after ") == 2
    assert demo.output.count("  /status shows them UP after ") == 2
    asked = re.search(r"^Asked: ([\d,]+) requests\.$", demo.output, re.MULTILINE)
    assert asked is not None
    answers = re.findall(r"app-\d\d ([\d,]+)", demo.output.partition("Asked:")[2])
    assert len(answers) == 4
    assert sum(int(one.replace(",", "")) for one in answers) == int(asked[1].replace(",", "")) > 1000
    assert "\nLost: none." in demo.output


def test_the_demo_tells_how_to_stop_and_start_apps(demo: Demo) -> None:
    assert "kill PID" in demo.output
    for pid in re.findall(
        r"^  app-\d\d \(pid (\d+)\): .* -m upwell\.contrib\.demo_app \d+ app-\d\d &$", demo.output, re.M
    ):
        assert int(pid) in demo.processes
    assert re.search(r"http://127\.0\.0\.1:\d+/status ", demo.output)


def test_the_demo_leaves_no_process_behind(demo: Demo) -> None:
    assert len(demo.processes) >= 7  # four apps, master, worker, checker
    assert not any(Path(f"/proc/{pid}").exists() for pid in demo.processes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_interrupted_cleans_up(number: signal.Signals) -> None:
    with subprocess.Popen([*UPWELL, "demo"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            processes = tree(process.pid)[1:]
            process.send_signal(number)
            rest = process.stdout.read()
            assert process.wait(20) == 130, rest
        finally:
            process.kill()  # one that hangs must not hang the tests
    assert len(processes) >= 5
    assert not any(Path(f"/proc/{pid}").exists() for pid in processes)


def test_a_lost_request_fails_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage(tmp_path / "prefix")
    stage.traffic[80].asked = 2
    stage.traffic[80].answered["app-81"] = 1
    assert sum_up(stage, Lines()) == 0
    stage.traffic[80].lost.append("GET / on port 1: status 502")
    assert sum_up(stage, Lines()) == 1
    assert "Lost: 1 requests, the first ones:\n  GET / on port 1: status 502\n" in capsys.readouterr().out


def test_the_demo_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--nonsense"])
    assert refused.value.code == 2
    assert "--nonsense" in capsys.readouterr().err
