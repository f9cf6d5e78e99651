"""The examples are whole configurations that upwell takes as they are, and the one in Lua does what it says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.system.conftest import StartBalancer
from tests.system.wire import Client, ask, get
from upwell.contrib.processes import UPWELL, free_ports

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.conf"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_tests_well(example: Path, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    command = [*UPWELL, "-p", str(tmp_path), "-c", str(example), "-t"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert f"`{example.name}`" in (example.parent / "README.md").read_text()


def test_the_lua_example_does_what_it_says(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    (example,) = [path for path in EXAMPLES if path.name == "lua.conf"]
    start(example.read_text().replace("listen 8080;", f"listen 127.0.0.1:{front};"), [front])
    asked = 0
    for _ in range(10):
        with Client(front) as client:  # a new connection each time, so that both workers are asked
            asked += 1
            assert client.ask(get("/hello?name=you")).body.startswith(b"hello you, request %d, worker " % asked)
    lines = ask(front, get("/twice?name=me")).body.splitlines()
    assert [line.partition(b", worker")[0] for line in lines] == [b"hello me, request 11", b"hello me, request 12"]
    assert ask(front, get("/private/x")).status == 403
    assert ask(front, get("/private/x?key=open")).body == b"come in\n"
