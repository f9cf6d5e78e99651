"""What an operator sets and says as it reaches real processes: users, limits, `-t`, `-s`, a container's command."""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.system.conftest import StartBalancer
from tests.system.wire import Client, Origin, Seen, ask, get, response
from upwell.contrib.processes import UPWELL, Balancer, await_condition, children, free_ports, listens
from upwell.contrib.traffic import fetch

_SECONDS = 20
_DOCKERFILE = Path(__file__).parents[2] / "packaging" / "Dockerfile"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _named(balancer: Balancer, role: str) -> list[int]:
    return [pid for pid in balancer.workers if Path(f"/proc/{pid}/comm").read_text().strip() == f"upwell: {role}"]


@as_root
def test_user_and_limits_reach_the_workers(start: StartBalancer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPWELL_TEST_SEEN", "from outside")
    monkeypatch.setenv("UPWELL_TEST_UNSEEN", "a secret")
    (front,) = free_ports(1)
    processor = min(os.sched_getaffinity(0))
    text = f"""
user daemon daemon;
worker_processes 1;
worker_priority 5;
worker_rlimit_nofile 777;
worker_cpu_affinity {bin(1 << processor)[2:]};
env UPWELL_TEST_SEEN;
env UPWELL_TEST_GIVEN=here;
events {{ }}
http {{
    server {{
        listen 127.0.0.1:{front};
        location / {{
            content_by_lua_block {{
                ngx.say(os.getenv("UPWELL_TEST_SEEN"), " ", os.getenv("UPWELL_TEST_GIVEN"), " ",
                        tostring(os.getenv("UPWELL_TEST_UNSEEN")))
            }}
        }}
    }}
}}
"""
    balancer = start(text, [front])
    assert fetch(front, "/") == (200, "from outside here nil\n")
    (worker,), (checker,) = _named(balancer, "worker"), _named(balancer, "checker")
    daemon = pwd.getpwnam("daemon")
    for pid in (worker, checker):
        found = _status(pid)
        assert found["Uid"].split() == [str(daemon.pw_uid)] * 4
        assert found["Gid"].split() == [str(daemon.pw_gid)] * 4
        assert set(found["Groups"].split()) == set(map(str, os.getgrouplist("daemon", daemon.pw_gid)))
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(found[capabilities], 16) == 0, capabilities
    assert os.getpriority(os.PRIO_PROCESS, worker) == 5
    assert os.getpriority(os.PRIO_PROCESS, checker) == os.getpriority(os.PRIO_PROCESS, 0)
    assert os.sched_getaffinity(worker) == {processor}
    assert re.search(r"Max open files +777 +777 ", Path(f"/proc/{worker}/limits").read_text())
    assert _status(balancer.pid)["Uid"].split()[0] == "0"


def _upwell(prefix: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*UPWELL, "-p", str(prefix), "-c", "conf/nginx.conf", "-e", "logs/error.log", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL)


def _saying(front: int, text: str) -> str:
    return f"events {{ }} http {{ server {{ listen 127.0.0.1:{front}; location / {{ return 200 {text}; }} }} }}"


def test_a_changed_file_is_tested_beside_the_running_one(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    balancer = start(_saying(front, "old"), [front])
    pid_file = balancer.prefix / "logs" / "nginx.pid"
    await_condition(lambda: len(balancer.workers) == 2, "both children", _SECONDS)
    before = (pid_file.read_text(), balancer.workers)

    balancer.configure(_saying(front, "new") + " nonsense;")
    tested = _upwell(balancer.prefix, "-t")
    assert tested.returncode == 1
    assert 'unknown directive "nonsense"' in tested.stderr
    reloaded = _upwell(balancer.prefix, "-s", "reload")
    assert reloaded.returncode == 1
    assert ask(front, get()).body == b"old"

    balancer.configure(_saying(front, "new"))
    tested = _upwell(balancer.prefix, "-t")
    assert tested.returncode == 0
    assert "test is successful" in tested.stderr
    # Nothing was touched by any of this.
    assert (pid_file.read_text(), balancer.workers) == before
    assert ask(front, get()).body == b"old"

    assert _upwell(balancer.prefix, "-s", "reload").returncode == 0
    await_condition(lambda: ask(front, get()).body == b"new", "the new configuration", _SECONDS)


@pytest.fixture
def held() -> Iterator[tuple[Origin, threading.Event, threading.Event]]:
    """A backend that answers only when it is let go, and says when it was asked."""
    asked, let_go = threading.Event(), threading.Event()

    def respond(seen: Seen, _: object) -> bytes:
        asked.set()
        let_go.wait(_SECONDS)
        return response(b"late")

    with Origin(respond) as origin:
        yield origin, asked, let_go
        let_go.set()


def _proxying(front: int, port: int, main: str = "") -> str:
    return f"""{main} events {{ }}
http {{ server {{ listen 127.0.0.1:{front}; location / {{ proxy_pass http://127.0.0.1:{port}; }} }} }}"""


@pytest.mark.parametrize(
    ("main", "word"),
    [("", "stop"), ("worker_shutdown_timeout 300ms;", "quit")],
)
def test_an_endless_request_does_not_hold_up_the_end(
    start: StartBalancer, held: tuple[Origin, threading.Event, threading.Event], main: str, word: str
) -> None:
    origin, asked, _ = held
    (front,) = free_ports(1)
    balancer = start(_proxying(front, origin.port, main), [front])
    pids = balancer.workers
    with Client(front) as client:
        client.send(get())
        assert asked.wait(_SECONDS)
        assert _upwell(balancer.prefix, "-s", word).returncode == 0
        assert balancer.wait(_SECONDS) == 0
    await_condition(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the end of the children", 5)
    assert not (balancer.prefix / "logs" / "nginx.pid").exists()
    assert not listens(front)


def test_quit_waits_for_a_request_without_that_limit(
    start: StartBalancer, held: tuple[Origin, threading.Event, threading.Event]
) -> None:
    origin, asked, let_go = held
    (front,) = free_ports(1)
    balancer = start(_proxying(front, origin.port), [front])
    with Client(front) as client:
        client.send(get())
        assert asked.wait(_SECONDS)
        assert _upwell(balancer.prefix, "-s", "quit").returncode == 0
        await_condition(lambda: not listens(front), "the port is free", _SECONDS)
        assert balancer.alive
        let_go.set()
        assert client.answer().body == b"late"
    assert balancer.wait(_SECONDS) == 0


_AS_NOBODY = """
import importlib, os, pkgutil, sys
import upwell
# Whoever nobody is may not read this Python's folder; in the image he may.
for module in pkgutil.walk_packages(upwell.__path__, "upwell."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from upwell.process.parts import _warm_checker, _warm_worker
_warm_worker(), _warm_checker()
os.setgroups([]); os.setgid(65534); os.setuid(65534)
from upwell.cli import main
sys.exit(main(sys.argv[1:]))
"""


@as_root
def test_the_container_s_command_serves_as_nobody() -> None:
    """The image is not built here; what it runs is, with its prefix and its configuration elsewhere."""
    file = _DOCKERFILE.read_text()
    assert re.search(r"^USER 65534:65534$", file, re.MULTILINE)
    found = re.search(r"^STOPSIGNAL (\w+)$", file, re.MULTILINE)
    assert found is not None
    number = signal.Signals[found[1]]
    found = re.search(r"^ENTRYPOINT (\[.*\])$", file, re.MULTILINE)
    assert found is not None
    (front,) = free_ports(1)
    with tempfile.TemporaryDirectory() as name, Path(name, "said").open("ab+") as said:
        folder = Path(name)
        folder.chmod(0o755)
        os.fchown(said.fileno(), 65534, 65534)  # as runc does with what a container prints to
        prefix = folder / "run"
        prefix.mkdir()
        os.chown(prefix, 65534, 65534)
        text = f"""worker_processes 1; error_log stderr notice; events {{ }}
http {{
    access_log /dev/stdout;
    lua_shared_dict words 1m;
    server {{
        listen 127.0.0.1:{front};
        location / {{ content_by_lua_block {{ ngx.shared.words:set("a", "b") ngx.say("well") }} }}
    }}
}}"""
        (folder / "nginx.conf").write_text(text)
        arguments = [
            argument.replace("/etc/upwell", name).replace("/run/upwell", str(prefix))
            for argument in json.loads(found[1])[1:]
        ]
        process = subprocess.Popen(
            [sys.executable, "-c", _AS_NOBODY, *arguments], stdout=said, stderr=said, start_new_session=True, cwd=prefix
        )
        try:
            await_condition(lambda: listens(front) or process.poll() is not None, "the port", _SECONDS)
            assert process.poll() is None, _text(said)
            assert fetch(front, "/") == (200, "well\n")
            family = [process.pid, *children(process.pid)]
            assert len(family) == 3
            for pid in family:
                status = _status(pid)
                assert status["Uid"].split() == ["65534"] * 4
                assert int(status["CapEff"], 16) == 0
                for link in map(os.readlink, Path(f"/proc/{pid}/fd").iterdir()):
                    outside = link.startswith("/") and not link.startswith((str(prefix), "/dev/", "/proc/", said.name))
                    assert not outside or "(deleted)" in link, link
            process.send_signal(number)
            assert process.wait(_SECONDS) == 0, _text(said)
            assert '"GET / HTTP/1.1" 200' in _text(said)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _text(said: IO[bytes]) -> str:
    said.seek(0)
    return said.read().decode(errors="replace")
