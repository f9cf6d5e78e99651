"""Master, workers and checker as real processes: killed, reloaded, refused, and what scripts see of them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.configurations import checked, proxying
from tests.system.conftest import StartBalancer
from tests.system.wire import Client, Origin, Seen, ask, get, response
from upwell.contrib.processes import (
    UPWELL,
    App,
    Balancer,
    NotReached,
    await_condition,
    free_ports,
    listens,
    peer_states,
)
from upwell.contrib.traffic import Traffic, fetch

BACK = 1.0  # seconds in which a killed process has to be replaced


def _status(port: int) -> tuple[int, dict[str, bool]]:
    """The worker that answered the status page, and the state of each peer on it."""
    _, page = fetch(port, "/status")
    match = re.match(r"Nginx Worker PID: (\d+)\n", page)
    assert match is not None, page
    return int(match[1]), peer_states(page)


def _try_status(port: int) -> tuple[int, dict[str, bool]] | None:
    try:
        return _status(port)
    except OSError:
        return None


def _workers_and_checker(balancer: Balancer, workers: int) -> tuple[set[int], int]:
    """The process ids of the workers, known by the pages they answer, and that of the child that answers none."""
    found: set[int] = set()

    def all_found() -> bool:
        found.add(_status(balancer.ports[0])[0])
        return len(found) == workers

    await_condition(all_found, f"pages of {workers} workers", 10)
    (checker,) = set(balancer.workers) - found
    return found, checker


@pytest.fixture
def two_apps(app: Callable[[str], App]) -> list[App]:
    return [app("one"), app("two")]


def _start_checked(start: StartBalancer, apps: list[App], workers: int) -> Balancer:
    (front,) = free_ports(1)
    return start(checked(front, [one.port for one in apps], workers), [front])


def _children(balancer: Balancer, count: int) -> set[int]:
    """All its children, once there are `count` of them: the master listens before it forks."""
    await_condition(lambda: len(balancer.workers) == count, f"{count} children", 5)
    return set(balancer.workers)


def _await_states(port: int, expected: list[bool]) -> None:
    await_condition(lambda: list(_status(port)[1].values()) == expected, f"peers {expected}", 10)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_back_and_nothing_is_forgotten(
    start: StartBalancer, two_apps: list[App], workers: int
) -> None:
    balancer = _start_checked(start, two_apps, workers)
    (front,) = balancer.ports
    two_apps[0].stop()
    _await_states(front, [False, True])
    before, checker = _workers_and_checker(balancer, workers)
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    await_condition(
        lambda: victim not in balancer.workers and len(balancer.workers) == workers + 1, "a new worker", BACK
    )
    # The listener never went away: a connection made meanwhile is answered.
    assert ask(front, get()).body.strip() == b"two"
    await_condition(lambda: (_try_status(front) or (victim, {}))[0] != victim, "the page", BACK)
    for _ in range(10):
        assert list(_status(front)[1].values()) == [False, True]
    assert checker in balancer.workers
    # Its checks go on: the new worker's spawn_checker added nothing twice and lost nothing.
    two_apps[0].start()
    _await_states(front, [True, True])
    assert f"worker process {victim} exited on signal 9" in balancer.error_log()


def test_requests_of_the_other_worker_are_not_touched_by_a_killed_one(
    start: StartBalancer, two_apps: list[App]
) -> None:
    balancer = _start_checked(start, two_apps, 2)
    (front,) = balancer.ports
    workers, _ = _workers_and_checker(balancer, 2)
    with contextlib.ExitStack() as stack:
        connections: dict[int, Client] = {}
        while len(connections) < 2:  # a kept connection to each worker
            client = stack.enter_context(Client(front))
            pid = int(client.ask(get("/status")).body.split(b"\n")[0].rpartition(b" ")[2])
            connections.setdefault(pid, client)
        victim, survivor = sorted(workers)
        os.kill(victim, signal.SIGKILL)
        for _ in range(50):
            assert connections[survivor].ask(get()).status == 200
        assert connections[victim].closed()


def test_a_killed_checker_is_back_and_remembers(start: StartBalancer, two_apps: list[App]) -> None:
    balancer = _start_checked(start, two_apps, 2)
    (front,) = balancer.ports
    two_apps[1].stop()
    _await_states(front, [True, False])
    _, checker = _workers_and_checker(balancer, 2)
    with Traffic(front, pause=0.005) as traffic:
        os.kill(checker, signal.SIGKILL)
        await_condition(lambda: checker not in balancer.workers and len(balancer.workers) == 3, "a new checker", BACK)
        for _ in range(10):
            assert list(_status(front)[1].values()) == [True, False]
        two_apps[1].start()
        _await_states(front, [True, True])
        two_apps[0].stop()
        _await_states(front, [False, True])
    assert traffic.lost == []


def test_a_checker_that_stands_still_is_replaced_without_a_request_lost(
    start: StartBalancer, two_apps: list[App]
) -> None:
    balancer = _start_checked(start, two_apps, 1)
    (front,) = balancer.ports
    _await_states(front, [True, True])
    _, checker = _workers_and_checker(balancer, 1)
    with Traffic(front, pause=0.02) as traffic:
        os.kill(checker, signal.SIGSTOP)
        two_apps[0].stop()
        await_condition(
            lambda: checker not in balancer.workers and len(balancer.workers) == 2, "a new checker", 30, poll=0.2
        )
        _await_states(front, [False, True])
    assert traffic.lost == []
    assert f"checker process {checker} has given no sign of life for " in balancer.error_log()


def test_all_workers_agree_on_a_peer_at_once(start: StartBalancer, two_apps: list[App]) -> None:
    balancer = _start_checked(start, two_apps, 2)
    (front,) = balancer.ports
    with contextlib.ExitStack() as stack:
        pages: dict[int, Client] = {}
        while len(pages) < 2:
            client = stack.enter_context(Client(front))
            pid = int(client.ask(get("/status")).body.split(b"\n")[0].rpartition(b" ")[2])
            pages.setdefault(pid, client)
        two_apps[0].stop()
        first, second = pages.values()
        await_condition(lambda: b"DOWN" in first.ask(get("/status")).body, "DOWN", 10)
        assert b"DOWN" in second.ask(get("/status")).body


def _answering(start: StartBalancer, text: str) -> tuple[Balancer, str]:
    (front,) = free_ports(1)
    configuration = f"""
worker_processes 1;
error_log logs/error.log notice;
events {{ }}
http {{ server {{ listen 127.0.0.1:{front}; location / {{ return 200 "{text}"; }} }} }}
"""
    return start(configuration, [front]), configuration


def test_a_good_reload_switches_without_losing_a_request(start: StartBalancer) -> None:
    balancer, configuration = _answering(start, "first")
    (front,) = balancer.ports
    before = _children(balancer, 2)
    balancer.configure(configuration.replace("first", "second"))
    # A connection for each request: which kept one the old worker closes first, and when, HTTP leaves to chance.
    with Traffic(front, pause=0.001, keep=False) as traffic:
        await_condition(lambda: traffic.answered["first"] > 20, "traffic", 10)
        balancer.send(signal.SIGHUP)
        await_condition(lambda: ask(front, get()).body == b"second", "the new configuration", 10)
        await_condition(lambda: not before & set(balancer.workers), "the end of the old processes", 10)
    assert traffic.lost == []
    assert set(traffic.answered) == {"first", "second"}


@pytest.mark.parametrize("broken", ["http { server { listen 1; ", "nonsense on;", "events { } http { proxy_pass x; }"])
def test_a_bad_reload_changes_nothing(start: StartBalancer, broken: str) -> None:
    balancer, _ = _answering(start, "first")
    (front,) = balancer.ports
    before = _children(balancer, 2)
    balancer.configure(broken)
    with Traffic(front, pause=0.001) as traffic:
        balancer.send(signal.SIGHUP)
        await_condition(lambda: "[emerg]" in balancer.error_log(), "the reason in the error log", 10)
    assert set(traffic.answered) == {"first"}
    assert traffic.lost == []
    assert before <= set(balancer.workers)
    balancer.configure("")
    assert balancer.alive


def test_a_reload_keeps_what_is_known_of_peers(start: StartBalancer, two_apps: list[App]) -> None:
    (front,) = free_ports(1)
    ports = [one.port for one in two_apps]
    balancer = start(checked(front, ports, interval=300), [front])
    two_apps[0].stop()
    _await_states(front, [False, True])
    old = set(balancer.workers)
    # The peers change places: what is known goes with the peer, not with its place.
    balancer.configure(checked(front, ports[::-1], interval=300))
    balancer.send(signal.SIGHUP)
    await_condition(lambda: (_try_status(front) or (min(old), {}))[0] not in old, "a new worker", 10)
    assert _status(front)[1] == {f"127.0.0.1:{ports[1]}": True, f"127.0.0.1:{ports[0]}": False}
    assert list(_status(front)[1]) == [f"127.0.0.1:{port}" for port in ports[::-1]]


def test_a_reload_opens_new_ports_and_closes_old_ones(start: StartBalancer) -> None:
    balancer, configuration = _answering(start, "text")
    (front,) = balancer.ports
    (other,) = free_ports(1)
    balancer.configure(configuration.replace(f":{front};", f":{other};"))
    balancer.send(signal.SIGHUP)
    await_condition(lambda: listens(other) and not listens(front), "the other port", 10)
    assert ask(other, get()).body == b"text"


def test_quit_lets_a_request_finish_and_term_does_not_wait(start: StartBalancer) -> None:
    def late(seen: Seen, connection: socket.socket) -> bytes | None:
        if seen.target == b"/late":
            await_condition(lambda: not listens(front), "the listener to close", 5)
        return response(b"late")

    (front,) = free_ports(1)
    with Origin(late) as origin:
        balancer = start(proxying(front, [origin.port]), [front])
        with Client(front) as client:
            client.send(get("/late"))
            await_condition(lambda: bool(origin.seen), "the request at the origin", 5)
            balancer.send(signal.SIGQUIT)
            assert client.answer().body == b"late"
        assert balancer.wait() == 0

        origin.seen.clear()
        origin.respond(b"")
        balancer = start(proxying(front, [origin.port]), [front])
        with Client(front) as client:
            client.send(get("/never"))
            await_condition(lambda: bool(origin.seen), "the request at the origin", 5)
            balancer.send(signal.SIGTERM)
            assert balancer.wait(3.0) == 0


def test_nothing_is_left_behind(start: StartBalancer, two_apps: list[App]) -> None:
    balancer = _start_checked(start, two_apps, 2)
    children = _children(balancer, 3)
    balancer.send(signal.SIGTERM)
    assert balancer.wait() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert not (balancer.prefix / "logs" / "nginx.pid").exists()


def test_a_killed_master_takes_its_children_with_it(start: StartBalancer, two_apps: list[App]) -> None:
    balancer = _start_checked(start, two_apps, 1)
    children = _children(balancer, 2)
    balancer.send(signal.SIGKILL)
    balancer.wait()
    await_condition(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "the end of the children", 5)


def test_the_pid_file_holds_the_masters_pid(start: StartBalancer) -> None:
    balancer, _ = _answering(start, "text")
    assert (balancer.prefix / "logs" / "nginx.pid").read_text() == f"{balancer.pid}\n"


def test_signals_by_command(start: StartBalancer) -> None:
    balancer, configuration = _answering(start, "first")
    (front,) = balancer.ports
    balancer.configure(configuration.replace("first", "second"))
    assert _run(balancer.prefix, "-s", "reload").returncode == 0
    await_condition(lambda: ask(front, get()).body == b"second", "the new configuration", 10)
    assert _run(balancer.prefix, "-s", "quit").returncode == 0
    assert balancer.wait() == 0


def _run(prefix: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*UPWELL, "-p", str(prefix), "-c", "conf/nginx.conf", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL)


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    for folder in ("conf", "logs"):
        (tmp_path / folder).mkdir()
    return tmp_path


def test_a_port_in_use_is_named_in_nginxs_words(prefix: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = f"events {{ }} http {{ server {{ listen 127.0.0.1:{port}; }} }}"
        (prefix / "conf" / "nginx.conf").write_text(text)
        done = _run(prefix, "-g", "daemon off;")
    assert done.returncode == 1
    assert f"bind() to 127.0.0.1:{port} failed (98: Address already in use)" in done.stderr
    assert not (prefix / "logs" / "nginx.pid").exists()


def test_a_bad_file_does_not_start(prefix: Path) -> None:
    (prefix / "conf" / "nginx.conf").write_text("events { }\nhttp { server { listen 127.0.0.1:1; nonsense on; } }\n")
    done = _run(prefix, "-g", "daemon off;")
    assert done.returncode == 1
    assert 'unknown directive "nonsense" in ' in done.stderr
    assert "conf/nginx.conf:2" in done.stderr
    assert not (prefix / "logs" / "nginx.pid").exists()


def test_a_good_file_tests_well(prefix: Path) -> None:
    path = prefix / "conf" / "nginx.conf"
    path.write_text("events { }\nhttp { server { listen 127.0.0.1:1; } }\n")
    done = _run(prefix, "-t")
    assert (done.returncode, done.stdout) == (0, "")
    assert f"the configuration file {path} syntax is ok\n" in done.stderr
    assert f"configuration file {path} test is successful\n" in done.stderr
    assert "has no effect" not in done.stderr


def test_what_changes_nothing_is_said_with_a_good_file_and_not_when_quiet(prefix: Path) -> None:
    path = prefix / "conf" / "nginx.conf"
    path.write_text("events { multi_accept on; }\nhttp {\n  tcp_nopush on; server { sendfile on; } }\n")
    done = _run(prefix, "-t")
    assert [line for line in done.stderr.splitlines() if "has no effect" in line] == [
        f'nginx: [notice] "multi_accept on" has no effect in upwell in {path}:1:10',
        f'nginx: [notice] "tcp_nopush on" has no effect in upwell in {path}:3:3',
        f'nginx: [notice] "sendfile on" has no effect in upwell in {path}:3:27',
    ]
    assert done.returncode == 0
    assert _run(prefix, "-t", "-q").stderr == ""


def test_a_bad_file_tests_badly_and_says_everything(prefix: Path) -> None:
    path = prefix / "conf" / "nginx.conf"
    path.write_text("events { }\nhttp {\n    nonsense on;\n    server { listen x:y; }\n}\nmore nonsense;\n")
    done = _run(prefix, "-t")
    assert done.returncode == 1
    assert 'unknown directive "nonsense"' in done.stderr
    assert 'unknown directive "more"' in done.stderr
    assert f"configuration file {path} test failed\n" in done.stderr


def test_what_changes_nothing_is_said_with_what_is_refused(prefix: Path) -> None:
    path = prefix / "conf" / "nginx.conf"
    path.write_text("events { }\nhttp {\n    sendfile on;\n    proxy_cache one;\n}\n")
    told = [line for line in _run(prefix, "-t").stderr.splitlines() if "] " in line]
    assert told == [
        f'nginx: [emerg] "proxy_cache" is not supported by upwell: upwell keeps no answers in {path}:4:17',
        f'nginx: [notice] "sendfile on" has no effect in upwell in {path}:3:5',
    ]
    assert "notice" not in _run(prefix, "-t", "-q").stderr


@pytest.fixture
def full_disk() -> str:
    if not Path("/dev/full").exists():
        pytest.skip("this machine has no /dev/full")
    return "/dev/full"


def test_a_full_disk_under_the_logs_stops_no_traffic(start: StartBalancer, full_disk: str) -> None:
    (front,) = free_ports(1)
    with Origin(response(b"fine")) as origin:
        text = proxying(front, [origin.port]).replace("access_log logs/access.log;", f"access_log {full_disk};")
        start(text, [front])
        with Client(front) as client:
            for _ in range(20):
                assert client.ask(get()).status == 200


def test_the_access_log_is_the_combined_format(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Origin(response(b"fine")) as origin:
        balancer = start(proxying(front, [origin.port]), [front])
        assert ask(front, get("/a?b=c", 'User-Agent: "quoted"', "Referer: http://x/")).status == 200
        log = balancer.prefix / "logs" / "access.log"
        await_condition(lambda: log.read_text().count("\n") == 1, "a line in the access log", 5)
        assert re.fullmatch(
            r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /a\?b=c HTTP/1\.1" 200 4 '
            r'"http://x/" "\\x22quoted\\x22"\n',
            log.read_text(),
        )


def test_a_start_that_fails_says_why(start: StartBalancer) -> None:
    with pytest.raises(NotReached, match="unknown directive"):
        start("nonsense on;", [1])


def _holders(name: str, pids: set[int]) -> list[str]:
    """The descriptors of `pids` that are open on a deleted file called `name`."""
    found = []
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = os.readlink(fd)
                if name in target and target.endswith("(deleted)"):
                    found.append(f"{pid}: {fd.name} -> {target}")
    return found


def test_a_rotated_log_is_let_go_of_by_every_process(start: StartBalancer, two_apps: list[App]) -> None:
    balancer = _start_checked(start, two_apps, 2)
    before = _children(balancer, 3)
    balancer.send(signal.SIGHUP)
    await_condition(lambda: len(balancer.workers) == 3 and not before & set(balancer.workers), "new children", 10)
    logs = balancer.prefix / "logs"
    for name in ("error.log", "access.log"):
        (logs / name).unlink()
    balancer.send(signal.SIGUSR1)
    await_condition(lambda: (logs / "error.log").exists() and (logs / "access.log").exists(), "new logs", 5)
    await_condition(
        lambda: not _holders(".log", {balancer.pid, *balancer.workers}),
        "nobody holding the old logs",
        5,
    )
