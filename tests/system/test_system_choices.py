"""Which peers nginx tries for which key: recorded of the real one and compared with what upwell tries.

`UPWELL_RECORD=1 pytest tests/system/test_system_choices.py` writes what it recorded to tests/cases/balancers.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.peers.choices import Case, choices, write
from tests.system.conftest import StartBalancer
from tests.system.wire import Client, Origin, Seen, get, response
from upwell.contrib.processes import UPWELL, await_condition, free_ports

_RECORDS = bool(os.environ.get("UPWELL_RECORD"))
_METHODS = {
    "ip_hash": "ip_hash;",
    "hash": "hash $http_key;",
    "consistent": "hash $http_key consistent;",
    "round_robin": "",
}
_GROUPS: dict[str, list[str]] = {
    # what follows the addresses of the peers; "refuses" is none of nginx's
    "alike": [""] * 7,
    "weights": ["weight=2", "weight=5", "", "weight=10", "weight=3"],
    "down": ["", "down", "weight=3", "down weight=2", "", ""],
    "mostly_down": ["weight=2", *["down"] * 40, "", "weight=3"],
    "failing": ["", "refuses", "weight=2", "refuses weight=4", "", ""],
    "failing_at_times": ["", "refuses max_fails=3", "weight=2", "refuses max_fails=0", "", "weight=3 down"],
    "mostly_failing": ["weight=2", *["refuses"] * 9, "max_fails=2 refuses", "weight=4 max_fails=0 refuses", ""],
    "few_left": [*["refuses max_fails=0"] * 5, *["down"] * 30, "", "weight=2", *["refuses max_fails=0"] * 3],
    "all_failing": ["refuses", "refuses weight=2", "refuses max_fails=2"],
    "alone": [""],
    "alone_failing": ["refuses"],
    "two": ["", "weight=3"],
    "names": ["unix", "", "ipv6 weight=2", "unix weight=3", "again"],
}
_CASES = [
    f"{method}_{group}"
    for method in _METHODS
    for group in _GROUPS
    if method != "round_robin" or group in ("weights", "failing_at_times", "mostly_failing", "few_left")
]


@dataclass
class _Peer:
    name: str
    parameters: str
    refuses: bool


def _peers(parameters: list[str], folder: str) -> Iterator[_Peer]:
    before = ""
    for number, (words, port) in enumerate(zip(parameters, free_ports(len(parameters)), strict=True)):
        rest = words.split()
        name = f"127.0.0.1:{port}"
        if "unix" in rest:
            name = f"unix:{folder}/{number}"
        elif "ipv6" in rest:
            name = f"[::1]:{port}"
        elif "again" in rest:
            name = before
        before = name
        nginxs = [word for word in rest if "=" in word or word == "down"]
        if "max_fails=0" not in nginxs:
            nginxs.append("fail_timeout=1000s")
        yield _Peer(name, " ".join(nginxs), "refuses" in rest)


def _configuration(front: int, upstream: list[str], listens: set[str]) -> str:
    lines = "\n".join(upstream)
    listening = "".join(f"listen {name}; " for name in sorted(listens))
    peers = f"server {{ {listening} return 204; }}" if listens else ""
    return f"""
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    upstream u {{
        {lines}
    }}
    access_log off;
    keepalive_requests 100000;
    set_real_ip_from 127.0.0.1;
    server {{
        listen 127.0.0.1:{front};
        location / {{
            real_ip_header Key;
            proxy_pass http://u;
            add_header Tried $upstream_addr always;
        }}
    }}
    {peers}
}}
"""


def _keys(method: str) -> list[str]:
    if method == "ip_hash":
        fours = [f"{n * 37 % 223 + 1}.{n * 11 % 256}.{n * n % 256}.{n % 256}" for n in range(80)]
        return fours + [f"2001:db8:{n:x}::{n * n:x}:{n * 91 % 65536:x}" for n in range(80)]
    return [f"/key-{n}" for n in range(158)] + ["", "ä"]


def _tried(front: int, keys: list[str]) -> list[tuple[str, list[str]]]:
    found = []
    with Client(front) as client:
        for key in keys:
            field = f"Key: {key}\r\n" if key else ""
            answer = client.ask(f"GET / HTTP/1.1\r\nHost: x\r\n{field}\r\n".encode())
            names = dict(answer.fields)["Tried"].split(", ")
            found.append((key, [name for name in names if name != "u"]))
    return found


@pytest.mark.parametrize("name", _CASES)
def test_the_peers_tried_are_those_that_nginx_tries(
    name: str, start: StartBalancer, nginx: tuple[str, ...], tmp_path: Path
) -> None:
    method = next(one for one in _METHODS if name.startswith(f"{one}_"))
    group = name.removeprefix(f"{method}_")
    with tempfile.TemporaryDirectory(prefix="upwell") as folder:  # a path that is short enough for a socket
        Path(folder).chmod(0o777)
        peers = list(_peers(_GROUPS[group], folder))
        upstream = [_METHODS[method]] if _METHODS[method] else []
        upstream += [f"server {peer.name} {peer.parameters};".replace(" ;", ";") for peer in peers]
        (front,) = free_ports(1)
        start(
            _configuration(front, upstream, {peer.name for peer in peers if not peer.refuses}),
            [front],
            nginx,
        )
        failing = [peer.name for peer in peers if peer.refuses]
        case = Case(upstream=upstream, failing=failing, tried=_tried(front, _keys(method)))
    if _RECORDS:
        write(name, case)
    for (key, tried), (_, expected) in zip(choices(case, tmp_path), case["tried"], strict=True):
        assert tried == expected, key


def test_the_same_requests_go_the_same_ways_through_both(start: StartBalancer, nginx: tuple[str, ...]) -> None:
    """By way of the wire: keys of variables, `proxy_pass` with one, and a peer that answers 503 to some keys."""
    ports = free_ports(6)
    fronts = free_ports(2)
    # Much goes to the first, whose 503s are to be met whatever the ports are.
    weights = [12, *(port % 3 + 1 for port in ports[1:])]
    each = zip(ports, weights, strict=True)
    servers = "".join(f"server 127.0.0.1:{port} weight={weight} fail_timeout=1000s;" for port, weight in each)
    taken = []
    with ExitStack() as stack:
        for port in ports:
            stack.enter_context(Origin(_unwell if port == ports[0] else response(b"fine"), port=port))
        for front, command in zip(fronts, (nginx, UPWELL), strict=True):
            balancer = start(
                f"""
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    log_format tried "$request_uri $upstream_addr $upstream_status";
    access_log logs/tried.log tried;
    proxy_next_upstream error timeout http_503;
    upstream h {{ hash $arg_k$http_x; {servers} }}
    upstream c {{ hash $arg_k consistent; {servers} }}
    upstream i {{ ip_hash; {servers} }}
    server {{
        listen 127.0.0.1:{front};
        location / {{ proxy_pass http://$arg_u; }}
        location /h/ {{ proxy_pass http://h; }}
    }}
}}
""",
                [front],
                command,
            )
            with Client(front) as client:
                for n in range(40):
                    for target in (f"/?u=h&k={n}", f"/h/?k={n}", f"/?u=c&k={n}", f"/?u=c&k=bad{n}", "/?u=i"):
                        client.ask(get(target, f"X: {n}"))
            log = balancer.prefix / "logs" / "tried.log"
            await_condition(partial(_has_lines, log, 200), "all lines of the access log", 10)
            taken.append(log.read_text().splitlines())
    assert taken[0] == taken[1]
    assert any(", " in line for line in taken[0])


def _has_lines(log: Path, count: int) -> bool:
    return log.read_bytes().count(b"\n") == count


def _unwell(seen: Seen, connection: object) -> bytes:
    return response(b"no", status="503 No") if b"bad" in seen.target else response(b"fine")
