"""CPU time of `stream`: what a GB each way and a connection cost, beside nginx's stream module in the same run.

The apps are those of the other cases and HTTP is what they speak, but the proxies pass it on as bytes.
"""

from __future__ import annotations

from pathlib import Path

from bench import wrk
from bench.cases import Case, Load
from bench.measure import Plan, Progress
from bench.turns import Spent, measure_turns, spend
from upwell.contrib.processes import Balancer
from upwell.contrib.traffic import fetch

_MB10 = 10 * 1_048_576
GOAL = 1.0
"""Of nginx's CPU time, per GB and per connection."""

WAYS = (
    ("down", "a GB from the peer", "s", Case("stream-down", "", path="/10m", connections=8), _MB10),
    ("up", "a GB from the client", "s", Case("stream-up", "", path="/post", body=1_048_576, connections=8), 1_048_576),
    ("small", "a request of 40 bytes on a kept connection", "us", Case("stream-small", ""), 0),
    ("newconn", "a connection", "us", Case("stream-newconn", "", fields=(("Connection", "close"),)), 0),
)
"""Name, title, unit, what is asked, and how many bytes go by with each request (0: a request is what is counted)."""


def _configuration(front: int, apps: list[int]) -> str:
    peers = " ".join(f"server 127.0.0.1:{app};" for app in apps)
    return f"""
worker_processes 1;
worker_rlimit_nofile 30000;
events {{ worker_connections 4096; }}
stream {{
    upstream apps {{ {peers} }}
    server {{ listen {front} backlog=4096; proxy_pass apps; }}
}}
"""


def _answers(port: int) -> bool:
    try:
        return fetch(port)[0] == 200
    except OSError:
        return False


def measure_stream(plan: Plan, progress: Progress) -> dict[tuple[str, str], Spent | str]:
    """Medians by way and program, of a GB in seconds or a request in microseconds; or why there are none."""
    asked = {way: (case, size) for way, _, _, case, size in WAYS}

    def sample(way: str, proxy: Balancer, folder: Path, warm: bool) -> Spent:
        case, size = asked[way]
        connections = min(plan.connections, case.connections)

        def run(seconds: float) -> Load:
            return wrk.run(plan.programs["wrk"].command, case, proxy.ports[0], seconds, connections, folder)

        each, rate = spend(plan, proxy, warm, run)
        return Spent(each / size * 1e9 if size else each * 1e6, rate)

    return measure_turns(plan, progress, _configuration, _answers, [way[:2] for way in WAYS], sample)
