"""The examples are whole configurations that upwell takes as they are, and the one in Lua does what it says."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from tests.system.conftest import StartBalancer
from tests.system.wire import Client, Origin, Seen, ask, get, response
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


def _example(name: str, front: int, ports: dict[int, int]) -> str:
    """An example with other ports: `front` for its own, `ports` for its peers'."""
    text = next(path for path in EXAMPLES if path.name == name).read_text()
    for given, free in {8080: front, **ports}.items():
        assert f"{given};" in text
        text = text.replace(f"{given};", f"{free};")
    return text.replace("listen ", "listen 127.0.0.1:")


def test_the_blue_green_example_lets_clients_choose(start: StartBalancer) -> None:
    def blue(_: Seen, __: socket.socket) -> bytes:
        return response(b"blue")

    def green(_: Seen, __: socket.socket) -> bytes:
        return response(b"green")

    (front,) = free_ports(1)
    with Origin(blue) as old, Origin(green) as new:
        ports = {8001: old.port, 8002: old.port, 8011: new.port, 8012: new.port}
        start(_example("blue-green.conf", front, ports), [front])
        for release in (b"blue", b"green"):
            for how in (f"Cookie: release={release.decode()}", f"X-Release: {release.decode()}"):
                answer = ask(front, get("/", how))
                assert (answer.body, answer.field("X-Release")) == (release, release.decode())
        seen = {ask(front, get("/", f"User-Agent: {number}", "X-Release: other")).body for number in range(60)}
        assert seen == {b"blue", b"green"}


def test_the_node_example_passes_upgrades_and_keeps_clients(start: StartBalancer) -> None:
    def node(seen: Seen, connection: socket.socket) -> bytes | None:
        if b"\r\nUpgrade: websocket\r\n" not in seen.head:
            assert b"\r\nConnection: " not in seen.head.partition(b"/healthz")[0]
            return response(seen.head.split(b" ", 2)[1])
        assert b"\r\nConnection: upgrade\r\n" in seen.head
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
        while data := connection.recv(1000):
            connection.sendall(data)
        return None

    (front,) = free_ports(1)
    with Origin(node) as first, Origin(node) as second:
        start(_example("node.conf", front, {3001: first.port, 3002: second.port}), [front])
        assert ask(front, get("/x")).body == b"/x"
        assert ask(front, get("/static/x")).field("Cache-Control") == "max-age=604800"
        with Client(front) as client:
            client.send(get("/", "Upgrade: websocket", "Connection: Upgrade"))
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.socket.recv(1)
            assert head.startswith(b"HTTP/1.1 101 ")
            for message in (b"hello", b"there"):
                client.send(message)
                assert client.socket.recv(100) == message
