"""Real processes at their limits (time, descriptors, disks, requests), and what Lua sees of the environment."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from tests.system.configurations import proxying
from tests.system.conftest import StartBalancer
from tests.system.talkers import Talker, echo
from tests.system.wire import Client, Origin, Seen, ask, get, response
from upwell.contrib.processes import UPWELL, Balancer, await_condition, children, free_ports
from upwell.contrib.traffic import Traffic

SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


@pytest.mark.parametrize("server", ["upwell", "nginx"])
def test_worker_shutdown_timeout_ends_tunnels_and_streams_as_nginx(
    start: StartBalancer, nginx: tuple[str, ...], server: str
) -> None:
    command = UPWELL if server == "upwell" else nginx
    front, through = free_ports(2)
    with Origin(SWITCHED) as origin, Talker(echo) as talker:
        balancer = start(
            f"""
error_log logs/error.log notice;
worker_shutdown_timeout 1s;
events {{ }}
stream {{ server {{ listen 127.0.0.1:{through}; proxy_pass 127.0.0.1:{talker.port}; }} }}
http {{
    server {{
        listen 127.0.0.1:{front};
        location / {{
            proxy_pass http://127.0.0.1:{origin.port};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
        }}
    }}
}}
""",
            [front, through],
            command,
        )
        with (
            Client(front) as tunnel,
            socket.create_connection(("127.0.0.1", through), timeout=10) as stream,
        ):
            tunnel.send(get("/", "Upgrade: websocket", "Connection: Upgrade"))
            await_condition(lambda: bool(origin.seen), "the request at the origin", 5)
            stream.sendall(b"hello")
            assert stream.recv(100) == b"hello"
            balancer.send(signal.SIGQUIT)
            await_condition(lambda: "gracefully shutting down" in balancer.error_log(), "the beginning", 5)
            # Both live on meanwhile.
            stream.sendall(b"again")
            assert stream.recv(100) == b"again"
            assert balancer.wait(10) == 0, command
            with contextlib.suppress(ConnectionResetError):
                assert stream.recv(100) == b""


def test_lua_code_sees_what_env_names(start: StartBalancer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPWELL_SECRET", "secret")
    monkeypatch.setenv("UPWELL_NAMED", "named")
    (front,) = free_ports(1)
    start(
        f"""
env UPWELL_NAMED;
env UPWELL_GIVEN=a=b;
env UPWELL_ABSENT;
events {{ }}
http {{
    init_by_lua_block {{ early = os.getenv("UPWELL_NAMED") }}
    server {{
        listen 127.0.0.1:{front};
        location / {{
            content_by_lua_block {{
                ngx.print(table.concat({{
                    tostring(early), tostring(os.getenv("UPWELL_NAMED")), tostring(os.getenv("UPWELL_GIVEN")),
                    tostring(os.getenv("UPWELL_ABSENT")), tostring(os.getenv("UPWELL_SECRET")),
                    tostring(os.getenv("PATH")),
                }}, " "))
            }}
        }}
    }}
}}
""",
        [front],
    )
    assert ask(front, get()).body == b"named named a=b nil nil nil"


def _worker(balancer: Balancer) -> int:
    """The child that is called a worker."""
    found: list[int] = []

    def there() -> bool:
        found[:] = [
            pid for pid in balancer.workers if Path(f"/proc/{pid}/comm").read_text().strip() == "upwell: worker"
        ]
        return bool(found)

    await_condition(there, "a worker", 10)
    return found[0]


def test_out_of_descriptors_it_pauses_says_so_once_and_recovers(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Origin(response(b"fine")) as origin:
        text = f"worker_rlimit_nofile 64; error_log logs/error.log notice; {proxying(front, [origin.port])}"
        balancer = start(text, [front])
        worker = _worker(balancer)
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(socket.create_connection(("127.0.0.1", front), timeout=10))
            await_condition(lambda: "accept4() failed (24: " in balancer.error_log(), "the complaint", 10)
            late = stack.enter_context(Client(front))
            late.send(get())
        # The others are gone: it is answered, late.
        assert ask(front, get()).body == b"fine"
        await_condition(lambda: "accept4() succeeds again" in balancer.error_log(), "the recovery", 10)
        assert balancer.error_log().count("accept4() failed (24: ") == 1
        assert _worker(balancer) == worker


def test_a_log_pipe_without_a_reader_stops_nothing(start: StartBalancer, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o666)
    pipe.chmod(0o666)
    (front,) = free_ports(1)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with Origin(response(b"fine")) as origin:
        text = proxying(front, [origin.port]).replace("access_log logs/access.log;", f"access_log {pipe};")
        balancer = start(f"error_log {pipe} info; {text}", [front])
        worker = _worker(balancer)
        assert ask(front, get()).status == 200
        await_condition(lambda: b"GET / HTTP/1.1" in _read(reader), "a line", 5)
        os.close(reader)
        with Traffic(front, "/", 0.001) as traffic:
            await_condition(lambda: traffic.asked > 200, "traffic", 20)
        assert [line for line in traffic.lost if "fine" not in line] == traffic.lost
        for _ in range(50):
            assert ask(front, get()).status == 200
        assert _worker(balancer) == worker


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except BlockingIOError:
        return b""


def test_workers_that_have_served_enough_are_replaced_without_a_request_lost(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    text = f"""
worker_processes 2;
worker_max_requests 150;
error_log logs/error.log notice;
events {{ }}
http {{ server {{ listen 127.0.0.1:{front}; location / {{ return 200 "x"; }} }} }}
"""
    balancer = start(text, [front])
    with contextlib.ExitStack() as stack:
        loads = [stack.enter_context(Traffic(front, pause=0.002, keep=False)) for _ in range(2)]
        await_condition(
            lambda: balancer.error_log().count("requests, it is replaced") >= 4, "four replacements", 60, poll=0.2
        )
        await_condition(lambda: len(balancer.workers) == 3, "three children", 20)
    assert [load.lost for load in loads] == [[], []]
    assert "[alert]" not in balancer.error_log()


def test_requests_under_way_outlive_the_master(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    answering = threading.Event()

    def late(seen: Seen, connection: socket.socket) -> bytes:
        answering.wait(20)
        return response(b"late")

    with Origin(late) as origin:
        balancer = start(f"error_log logs/error.log notice; {proxying(front, [origin.port])}", [front])
        family = children(balancer.pid)
        with Client(front) as client:
            client.send(get("/late"))
            await_condition(lambda: bool(origin.seen), "the request at the origin", 5)
            balancer.send(signal.SIGKILL)
            balancer.wait()
            await_condition(lambda: "master process is gone" in balancer.error_log(), "the news", 5)
            answering.set()
            assert client.answer().body == b"late"
        await_condition(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family), "the end of all", 5)


def test_lua_code_that_never_returns_costs_its_worker_and_nothing_else(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    balancer = start(
        f"""
worker_processes 2;
worker_hang_timeout 2s;
error_log logs/error.log notice;
events {{ }}
http {{
    lua_max_run_time 0;
    server {{
        listen 127.0.0.1:{front};
        location / {{ return 200 "fine"; }}
        location = /busy {{
            content_by_lua_block {{ local t = os.clock() + 0.5 while os.clock() < t do end ngx.print("x") }}
        }}
        location = /endless {{ content_by_lua_block {{ while true do end }} }}
    }}
}}
""",
        [front],
    )
    await_condition(lambda: len(balancer.workers) == 3, "three children", 10)
    assert ask(front, get("/busy")).body == b"x"
    assert "no sign of life" not in balancer.error_log()
    before = set(balancer.workers)
    with Client(front) as client:
        client.send(get("/endless"))
        await_condition(lambda: "has given no sign of life for 2 seconds" in balancer.error_log(), "the alert", 20)
        assert client.closed()
    await_condition(lambda: len(balancer.workers) == 3 and len(before - set(balancer.workers)) == 1, "another one", 10)
    for _ in range(20):
        assert ask(front, get()).body == b"fine"


def test_lua_code_that_runs_too_long_is_a_500_and_its_worker_goes_on(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    balancer = start(
        f"""
error_log logs/error.log notice;
events {{ }}
http {{
    lua_max_run_time 300ms;
    server {{
        listen 127.0.0.1:{front};
        location / {{ return 200 "fine"; }}
        location = /endless {{ content_by_lua_block {{
            while true do
            end
        }} }}
    }}
}}
""",
        [front],
    )
    worker = _worker(balancer)
    with Client(front) as client, Client(front) as other:
        client.send(get("/endless"))
        other.send(get())
        assert client.answer().status == 500
        assert other.answer().body == b"fine"
        assert other.ask(get()).body == b"fine"
    assert "without waiting (lua_max_run_time)" in balancer.error_log()
    assert 'request: "GET /endless HTTP/1.1"' in balancer.error_log()
    assert _worker(balancer) == worker


def test_a_full_disk_under_the_error_log_stops_nothing(start: StartBalancer) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this machine has no /dev/full")
    (front, nobody) = free_ports(2)
    balancer = start(f"error_log /dev/full info; {proxying(front, [nobody])}", [front])
    worker = _worker(balancer)
    for _ in range(20):
        assert ask(front, get()).status == 502
    balancer.send(signal.SIGUSR1)
    balancer.send(signal.SIGHUP)
    await_condition(lambda: worker not in balancer.workers, "a reload", 10)
    assert ask(front, get()).status == 502
