"""What the checker runs and tells, in real processes: commands and functions as another user, a webhook, a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.system.configurations import proxying
from upwell.contrib.processes import UPWELL, App, Balancer, await_condition, free_ports, listens
from upwell.contrib.traffic import fetch

Started = Callable[[str], App]


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook's URL, and what it was told."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hook", got
    server.shutdown()
    thread.join()
    server.server_close()


def begin(prefix: Path, configuration: str, ports: list[int]) -> Balancer:
    return Balancer(prefix, configuration, ports)


def answers(front: int) -> int:
    return fetch(front, "/index.html")[0]


@pytest.fixture
def prefix() -> Iterator[Path]:
    """Not below tmp_path: another pytest that begins closes its folders to the workers' user."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_a_killed_checker_s_commands_end_with_it(prefix: Path, app: Started) -> None:
    peer, front = app("one"), free_ports(1)[0]
    told = prefix / "told"
    told.mkdir()
    told.chmod(0o777)
    check = prefix / "check.sh"
    check.write_text(f"#!/bin/sh\nsleep 1000 & echo $! > {told}/$$; wait\n")
    check.chmod(0o755)
    configuration = proxying(front, [peer.port], f"health_check type=exec command={check} interval=50ms timeout=600s;")

    def there() -> list[int]:
        found = [int(path.name) for path in told.iterdir()] + [int(path.read_text() or 0) for path in told.iterdir()]
        return [pid for pid in found if pid and Path(f"/proc/{pid}").exists() and not zombie(pid)]

    def zombie(pid: int) -> bool:
        try:
            return ") Z " in Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return True

    with begin(prefix, configuration, [front]):
        await_condition(lambda: len(there()) == 2, "the command to begin", 10)
        first = there()
        environment = Path(f"/proc/{first[0]}/environ").read_text().split("\0")
        [mark] = [value for value in environment if value.startswith("UPWELL_CHECKER=")]
        os.kill(int(mark.rpartition(".")[2]), signal.SIGKILL)
        await_condition(lambda: len(there()) == 2 and not set(there()) & set(first), "another one in its place", 10)


def test_a_command_decides_as_the_workers_user(prefix: Path, app: Started) -> None:
    peer, front = app("one"), free_ports(1)[0]
    check = prefix / "check.sh"
    check.write_text('#!/bin/sh\n[ -e $(dirname $0)/bad ] || exit 0\necho "$(id -u) finds $4 bad"; exit 7\n')
    check.chmod(0o755)
    configuration = proxying(front, [peer.port], f"health_check type=exec command={check} interval=50ms passes=2;")
    with begin(prefix, configuration, [front]) as balancer:
        assert answers(front) == 200
        (prefix / "bad").touch()
        await_condition(lambda: answers(front) == 502, "the command to be heard", 10)
        uid = 65534 if os.geteuid() == 0 else os.geteuid()
        assert f"exit 7: {uid} finds {peer.port} bad" in balancer.error_log()
        (prefix / "bad").unlink()
        await_condition(lambda: answers(front) == 200, "the command to be heard again", 10)


def test_a_function_of_the_prefix_decides_and_a_reload_takes_the_new_one(prefix: Path, app: Started) -> None:
    peer, front = app("one"), free_ports(1)[0]
    module = prefix / "own_checks.py"
    module.write_text("def check(peer): return 'as written first'\n")
    configuration = proxying(front, [peer.port], "health_check type=python function=own_checks:check interval=50ms;")
    with begin(prefix, configuration, [front]) as balancer:
        await_condition(lambda: answers(front) == 502, "the function to be heard", 10)
        assert "as written first" in balancer.error_log()
        module.write_text("import asyncio\nasync def check(peer): await asyncio.sleep(0)\n")
        os.kill(balancer.pid, signal.SIGHUP)
        await_condition(lambda: answers(front) == 200, "the new function to be heard", 10)
        module.write_text("def chekc(peer): ...\n")
        os.kill(balancer.pid, signal.SIGHUP)
        await_condition(lambda: 'no "check" in module own_checks' in balancer.error_log(), "the refusal", 10)
        assert answers(front) == 200


def test_a_function_that_only_root_can_read_is_refused(prefix: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("for root")
    module = prefix / "own_checks.py"
    module.write_text("def check(peer): ...\n")
    module.chmod(0o600)
    front = free_ports(1)[0]
    (prefix / "conf").mkdir()
    text = proxying(front, [1], "health_check type=python function=own_checks:check;")
    (prefix / "conf" / "nginx.conf").write_text(text)
    command = [*UPWELL, "-t", "-p", str(prefix), "-c", "conf/nginx.conf"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "cannot import own_checks: PermissionError" in done.stderr
    module.chmod(0o644)
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def test_a_webhook_is_told_and_the_state_outlives_all_processes(
    prefix: Path, app: Started, hook: tuple[str, list[dict[str, Any]]]
) -> None:
    url, got = hook
    front, gone = free_ports(2)
    http = f"health_check_notify {url}; health_check_state state/checks.json;"
    checked = "health_check type=tcp interval=50ms passes=2;"
    configuration = proxying(front, [gone], checked, http=http)
    with begin(prefix, configuration, [front]):
        await_condition(lambda: len(got) == 1, "the webhook", 10)
        assert (got[0]["upstream"], got[0]["peer"]) == ("peers", f"127.0.0.1:{gone}")
        assert (got[0]["from"], got[0]["to"], got[0]["why"]) == ("up", "down", "connection refused")
        await_condition((prefix / "state" / "checks.json").exists, "the state file", 10)
    state = prefix / "state" / "checks.json"
    [known] = json.loads(state.read_text())["checks"]
    assert (known["peer"], known["state"], known["why"]) == (f"127.0.0.1:{gone}", "down", "connection refused")
    if os.geteuid() == 0:
        assert state.stat().st_uid == 65534
    with App(gone, "back"), begin(prefix, configuration, [front]):
        await_condition(lambda: answers(front) == 200, "the peer to be found up", 10)
        await_condition(lambda: len(got) == 2, "the webhook", 10)
        assert (got[1]["from"], got[1]["to"]) == ("down", "up")
        # How long it was down, over the end of all processes; two clocks are read, and something may come in between.
        told, kept = (datetime.fromisoformat(text) for text in (got[1]["since"], known["since"]))
        assert abs((told - kept).total_seconds()) < 0.5


@pytest.mark.parametrize("option", [[], ["-t"]], ids=["start", "test"])
def test_a_state_file_in_somebody_s_folder_is_refused(prefix: Path, option: list[str]) -> None:
    if os.geteuid() != 0:
        pytest.skip("for root")
    front = free_ports(1)[0]
    (prefix / "logs").mkdir()
    (prefix / "conf").mkdir()
    text = proxying(front, [1], http="health_check_state state.json;")
    (prefix / "conf" / "nginx.conf").write_text(text)
    command = [*UPWELL, *option, "-p", str(prefix), "-c", "conf/nginx.conf", "-e", "stderr", "-g", "daemon off;"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "successful" not in done.stderr
    assert f'user "nobody" cannot write into the folder that "health_check_state" needs: "{prefix}"' in done.stderr
    assert prefix.stat().st_uid == 0


@pytest.mark.parametrize(
    ("folder", "said"),
    [("states", "test is successful"), ("none/states", 'mkdir() "{folder}" failed (2: No such file or directory)')],
)
def test_t_tries_the_folder_of_the_state_and_leaves_none(prefix: Path, folder: str, said: str) -> None:
    (prefix / "logs").mkdir()
    (prefix / "conf").mkdir()
    text = proxying(free_ports(1)[0], [1], http=f"health_check_state {folder}/state.json;")
    (prefix / "conf" / "nginx.conf").write_text(text)
    command = [*UPWELL, "-t", "-p", str(prefix), "-c", "conf/nginx.conf", "-e", "stderr"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert said.format(folder=prefix / folder) in done.stderr
    assert done.returncode == ("successful" not in said)
    assert sorted(path.name for path in prefix.iterdir()) == ["conf", "logs"]


def test_all_of_it_in_one_process(prefix: Path, app: Started, hook: tuple[str, list[dict[str, Any]]]) -> None:
    """master_process off: other loops, other threads, the same answers."""
    url, got = hook
    one, two = app("one"), app("two")
    front = free_ports(1)[0]
    (prefix / "own_checks.py").write_text(
        "import pathlib\ndef check(peer):\n    return not pathlib.Path(__file__).with_name('bad').exists()\n"
    )
    location = f"""health_check type=exec "command={sys.executable} -c pass" interval=50ms timeout=10s;
        health_check type=python function=own_checks:check interval=50ms;"""
    text = proxying(front, [one.port, two.port], location, http=f"health_check_notify {url};")
    with begin(prefix, "master_process off;\n" + text, [front]):
        assert answers(front) == 200
        (prefix / "bad").touch()
        await_condition(lambda: answers(front) == 502, "the function to be heard", 10)
        await_condition(lambda: len(got) == 2, "the webhook", 10)
        assert {document["why"] for document in got} == {"returned False"}
        assert listens(front)
