"""CPU time of TLS: requests on kept connections, full handshakes and resumed ones, beside nginx in the same run.

The same certificate (P-256, as authorities give them out now) and the same file for all; TLS 1.3, as both choose.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from bench import clients, wrk
from bench.cases import CASES, BadRun, Case, Load
from bench.measure import Plan, Progress
from bench.turns import Spent, measure_turns, spend
from upwell.contrib.processes import Balancer

_AT_ONCE = 8
_CERTIFICATES = Path(__file__).parents[1] / "tests" / "system" / "tls"
_BROWSER = next(case for case in CASES if case.name == "browser")
_BIG = next(case for case in CASES if case.name == "100k")

WAYS: tuple[tuple[str, str, float, Case | None], ...] = (
    ("kept", "ten browser headers on a kept connection", 1.3, _BROWSER),
    ("big", "100 KB answer on a kept connection", 1.3, _BIG),
    ("full", "a full handshake", 1.3, None),
    ("resumed", "a resumed handshake", 1.5, None),
)
"""Name, title, upwell's share of nginx's CPU time at most, and what wrk asks; None: no request at all."""


def _configuration(front: int, apps: list[int]) -> str:
    peers = " ".join(f"server 127.0.0.1:{app};" for app in apps)
    return f"""
worker_processes 1;
worker_rlimit_nofile 30000;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_timeout 600s;
    keepalive_requests 1000000;
    upstream apps {{ {peers} keepalive 64; }}
    server {{
        listen {front} ssl backlog=4096;
        ssl_certificate {_CERTIFICATES}/deep0-test-only.pem;
        ssl_certificate_key {_CERTIFICATES}/deep-test-only.key;
        location / {{ proxy_pass http://apps; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
}}
"""


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # what a client spends is not counted
    return context


def _answers(port: int) -> bool:
    try:
        clients.shake(port, 1, 0.0, _context())
    except (OSError, BadRun):
        return False
    return True


def measure_tls(plan: Plan, progress: Progress) -> dict[tuple[str, str], Spent | str]:
    """Medians by way and program, in microseconds; or why there are none."""
    asked = {way: case for way, _, _, case in WAYS}

    def sample(way: str, proxy: Balancer, folder: Path, warm: bool) -> Spent:
        case, port = asked[way], proxy.ports[0]

        def run(seconds: float) -> Load:
            if case is None:
                return clients.shake(port, _AT_ONCE, seconds, _context(), resumes=way == "resumed")
            connections = min(plan.connections, case.connections)
            return wrk.run(plan.programs["wrk"].command, case, port, seconds, connections, folder, "https")

        each, rate = spend(plan, proxy, warm, run)
        return Spent(each * 1e6, rate)

    return measure_turns(plan, progress, _configuration, _answers, [way[:2] for way in WAYS], sample)
