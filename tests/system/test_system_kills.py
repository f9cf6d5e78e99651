"""kill -9 at any moment: whoever it meets, while memory is shared, files are locked and a reload is under way."""

from __future__ import annotations

import http.client
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.conftest import StartBalancer
from upwell.contrib.processes import App, Balancer, await_condition, free_ports
from upwell.contrib.traffic import fetch

_KILLS = 6


def _configuration(front: int, peers: list[int]) -> str:
    servers = "\n".join(f"        server 127.0.0.1:{peer};" for peer in peers)
    return f"""
worker_processes 2;
error_log logs/error.log info;
events {{ }}
http {{
    access_log logs/access.log;
    lua_shared_dict shared 1m;
    lua_shared_dict healthcheck 1m;
    upstream peers {{
{servers}
        zone peers 256k;
        sticky learn create=$upstream_http_date lookup=$http_date zone=sessions:64k;
    }}
    init_worker_by_lua_block {{
        assert(require("resty.upstream.healthcheck").spawn_checker {{
            shm = "healthcheck", type = "http", upstream = "peers",
            http_req = "GET / HTTP/1.0\\r\\n\\r\\n", interval = 20, timeout = 1000, valid_statuses = {{ 200 }},
        }})
    }}
    server {{
        listen 127.0.0.1:{front};
        location / {{ proxy_pass http://peers; }}
        location = /shared {{
            content_by_lua_block {{
                local shared = ngx.shared.shared
                for i = 1, 50 do shared:incr("sum", 1, 0) shared:set("key" .. i % 7, ("x"):rep(i)) end
                ngx.say(shared:get("sum") % 50 == 0 and "even" or "odd")
            }}
        }}
        location = /status {{ upwell_status; }}
    }}
}}
"""


@contextmanager
def _asked(port: int, paths: tuple[str, ...]) -> Iterator[Counter[tuple[str, object]]]:
    """Ask for each path again and again; the counter has statuses, and the names of what went wrong."""
    outcomes: Counter[tuple[str, object]] = Counter()
    stopping = threading.Event()

    def ask(path: str) -> None:
        while not stopping.is_set():
            try:
                outcome: object = fetch(port, path, timeout=30)[0]
            except (OSError, http.client.HTTPException) as error:
                outcome = type(error).__name__
            outcomes[path, outcome] += 1

    threads = [threading.Thread(target=ask, args=(path,), daemon=True) for path in paths]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        stopping.set()
        for thread in threads:
            thread.join(40)


def _complete(balancer: Balancer) -> None:
    await_condition(lambda: len(balancer.workers) == 3, "two workers and a checker", 40)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_process_killed_at_any_moment_leaves_no_lock_and_no_half_word(start: StartBalancer, seed: int) -> None:
    moments = random.Random(seed)
    paths = ("/", "/shared", "/status")
    front, *peers = free_ports(3)
    with App(peers[0], "one"), App(peers[1], "two"):
        balancer = start(_configuration(front, peers), [front])
        _complete(balancer)
        with _asked(front, paths) as outcomes:
            for _ in range(_KILLS):
                _complete(balancer)
                done = outcomes["/", 200]
                await_condition(lambda done=done: outcomes["/", 200] > done, "an answer", 40)  # type: ignore[misc]  # it has a default
                time.sleep(moments.uniform(0, 0.3))  # any moment: that there is nothing to wait for is the point
                os.kill(moments.choice(balancer.workers), signal.SIGKILL)
            _complete(balancer)
            before = {path: outcomes[path, 200] for path in paths}
            await_condition(lambda: all(outcomes[path, 200] > before[path] + 5 for path in paths), "answers", 60)
        # A request may lose its connection with its worker; nobody gets a wrong answer.
        broken = {outcome for _, outcome in outcomes if outcome != 200}
        assert broken <= {"RemoteDisconnected", "ConnectionResetError", "IncompleteRead", "BadStatusLine"}
        assert fetch(front, "/shared")[0] == 200
        log = balancer.error_log()
        assert log.count("exited on signal 9") == _KILLS
        assert "Traceback" not in log
        assert "internal error" not in log


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_a_master_killed_while_it_reloads_leaves_nobody(start: StartBalancer, seed: int) -> None:
    front, *peers = free_ports(3)
    text = _configuration(front, peers)
    balancer = start(text, [front])
    _complete(balancer)
    family = set(balancer.workers)
    balancer.send(signal.SIGHUP)
    deadline = time.monotonic() + random.Random(seed).uniform(0, 0.6)
    while time.monotonic() < deadline:
        family |= set(balancer.workers)
        time.sleep(0.005)
    balancer.send(signal.SIGSTOP)  # or it might have another child between the look and its end
    family |= set(balancer.workers)
    balancer.send(signal.SIGKILL)
    balancer.wait()
    await_condition(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family), "the end of all", 20)
    # The next one finds the port free.
    _complete(start(text, [front]))
