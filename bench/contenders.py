"""Who is measured, and the configuration each gets: one worker or thread, connections to the apps kept, checks off.

upwell and nginx get the same file, but that upwell also checks its peers as the guide does: that is what it is for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.tools import Tool
from upwell.contrib.processes import Balancer

_ACCESS_LOG = "logs/access.log"
_FILE_LIMIT = 30_000


@dataclass(frozen=True, slots=True)
class Front:
    """One listening port: the apps behind it, whether its requests are logged, whether connections may upgrade."""

    port: int
    apps: tuple[int, ...]
    log: bool = False
    upgrade: bool = False


@dataclass(frozen=True, slots=True)
class Sizing:
    """Workers, and client connections that each may hold; peers other than nginx know one worker only."""

    workers: int = 1
    connections: int = 4096


class Peer(Balancer):
    """A proxy with a command line and a configuration file of its own instead of nginx's."""

    def __init__(self, prefix: Path, file: str, text: str, ports: Sequence[int], command: Sequence[str]) -> None:
        self._file = file
        super().__init__(prefix, text, ports)
        self.command = list(command)

    def configure(self, configuration: str) -> None:
        """Write the configuration file under its own name."""
        (self.prefix / "conf" / self._file).write_text(configuration, encoding="utf-8")


def forget_log(proxy: Balancer) -> None:
    """Empty the access log, so that hours of load do not fill the disk; all of them open it to append."""
    log = proxy.prefix / _ACCESS_LOG
    if log.exists():
        log.write_bytes(b"")


def nginx_conf(fronts: Sequence[Front], sizing: Sizing, checks: bool) -> str:
    """The file for nginx and upwell: the common way to write a proxy that keeps its connections to the apps."""
    parts = []
    for front in fronts:
        peers = "\n".join(f"        server 127.0.0.1:{app};" for app in front.apps)
        upgrade = "proxy_set_header Upgrade $http_upgrade;\n            " if front.upgrade else ""
        parts.append(f"""
    upstream apps_{front.port} {{
{peers}
        keepalive 64;
    }}
    server {{
        listen {front.port} backlog=4096;
        access_log {_ACCESS_LOG if front.log else "off"};
        location / {{
            proxy_pass http://apps_{front.port};
            proxy_http_version 1.1;
            {upgrade}proxy_set_header Connection "{"upgrade" if front.upgrade else ""}";
        }}
    }}
""")
    return f"""
worker_processes {sizing.workers};
worker_rlimit_nofile {_FILE_LIMIT};
events {{ worker_connections {sizing.connections}; }}
http {{
    default_type text/plain;
    keepalive_timeout 600s;
    client_max_body_size 0;
{_checks(fronts) if checks else ""}{"".join(parts)}}}
"""


def _checks(fronts: Sequence[Front]) -> str:
    names = ", ".join(f'"apps_{front.port}"' for front in fronts if not front.upgrade)
    return f"""
    lua_shared_dict healthcheck 1m;
    init_worker_by_lua_block {{
        local hc = require "resty.upstream.healthcheck"
        for _, name in ipairs({{ {names} }}) do
            local ok, err = hc.spawn_checker {{
                shm = "healthcheck", type = "http", upstream = name,
                http_req = "GET / HTTP/1.0\\r\\nHost: bench\\r\\n\\r\\n",
                interval = 3000, timeout = 5000, fall = 3, rise = 2, valid_statuses = {{200, 302}}, concurrency = 2,
            }}
            if not ok then ngx.log(ngx.ERR, "no checker: ", err) end
        end
    }}
"""


def haproxy_cfg(fronts: Sequence[Front]) -> str:
    """HAProxy: one thread, its log lines on standard output."""
    parts = []
    for front in fronts:
        log = "    log global\n    option httplog\n" if front.log else ""
        parts.append(f"frontend f{front.port}\n    bind 0.0.0.0:{front.port}\n{log}    default_backend b{front.port}\n")
        servers = "".join(f"    server a{app} 127.0.0.1:{app}\n" for app in front.apps)
        parts.append(f"backend b{front.port}\n    balance roundrobin\n{servers}")
    head = "global\n    nbthread 1\n    maxconn 4096\n    log stdout format raw local0\n"
    times = "defaults\n    mode http\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n"
    return "\n".join([head, times, *parts])


def envoy_json(fronts: Sequence[Front], prefix: Path) -> str:
    """Envoy: a listener and a cluster for each front."""
    kinds = "type.googleapis.com/envoy.extensions"

    def address(port: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    def listener(front: Front) -> dict[str, Any]:
        log = {"@type": f"{kinds}.access_loggers.file.v3.FileAccessLog", "path": str(prefix / _ACCESS_LOG)}
        manager = {
            "@type": f"{kinds}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": f"f{front.port}",
            "access_log": [{"name": "envoy.access_loggers.file", "typed_config": log}] if front.log else [],
            "upgrade_configs": [{"upgrade_type": "websocket"}] if front.upgrade else [],
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": f"{kinds}.filters.http.router.v3.Router"},
                }
            ],
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": f"b{front.port}"}}],
                    }
                ]
            },
        }
        filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
        return {"name": f"f{front.port}", "address": address(front.port), "filter_chains": [{"filters": filters}]}

    def cluster(front: Front) -> dict[str, Any]:
        name = f"b{front.port}"
        peers = [{"endpoint": {"address": address(app)}} for app in front.apps]
        return {
            "name": name,
            "type": "STATIC",
            "lb_policy": "ROUND_ROBIN",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": peers}]},
        }

    static = {"listeners": list(map(listener, fronts)), "clusters": list(map(cluster, fronts))}
    return json.dumps({"static_resources": static}, indent=1)


def caddyfile(fronts: Sequence[Front], prefix: Path) -> str:
    """Caddy: a site for each front."""
    sites = []
    for front in fronts:
        log = f"    log {{\n        output file {prefix / _ACCESS_LOG}\n    }}\n" if front.log else ""
        peers = " ".join(f"127.0.0.1:{app}" for app in front.apps)
        proxy = f"    reverse_proxy {peers} {{\n        lb_policy round_robin\n    }}\n"
        sites.append(f"http://:{front.port} {{\n{log}{proxy}}}\n")
    quiet = "    admin off\n    persist_config off\n    auto_https off\n    log {\n        level ERROR\n    }\n"
    return "\n".join([f"{{\n{quiet}}}\n", *sites])


def traefik_json(fronts: Sequence[Front]) -> str:
    """Traefik's dynamic part: a router and a service for each entry point; JSON is YAML."""
    routers = {
        f"r{front.port}": {"rule": "PathPrefix(`/`)", "service": f"s{front.port}", "entryPoints": [f"e{front.port}"]}
        for front in fronts
    }
    services = {
        f"s{front.port}": {"loadBalancer": {"servers": [{"url": f"http://127.0.0.1:{app}"} for app in front.apps]}}
        for front in fronts
    }
    return json.dumps({"http": {"routers": routers, "services": services}}, indent=1)


def _traefik_flags(fronts: Sequence[Front], prefix: Path) -> list[str]:
    flags = ["--global.checknewversion=false", "--global.sendanonymoususage=false", "--log.level=ERROR"]
    flags += [f"--providers.file.filename={prefix}/conf/dynamic.yml", "--providers.file.watch=false"]
    flags += ["--accesslog=true", f"--accesslog.filepath={prefix / _ACCESS_LOG}"]
    for front in fronts:
        flags.append(f"--entrypoints.e{front.port}.address=:{front.port}")
        flags.append(f"--entrypoints.e{front.port}.observability.accesslogs={str(front.log).lower()}")
    return flags


def _go(prefix: Path) -> list[str]:
    # env replaces itself by the program, so the process id that was started is the program's.
    return ["env", "GOMAXPROCS=1", f"XDG_DATA_HOME={prefix}", f"XDG_CONFIG_HOME={prefix}"]


def _upwell(prefix: Path, fronts: Sequence[Front], tool: Tool, sizing: Sizing) -> Balancer:
    return Balancer(prefix, nginx_conf(fronts, sizing, checks=True), [front.port for front in fronts], tool.command)


def _nginx(prefix: Path, fronts: Sequence[Front], tool: Tool, sizing: Sizing) -> Balancer:
    return Balancer(prefix, nginx_conf(fronts, sizing, checks=False), [front.port for front in fronts], tool.command)


def _haproxy(prefix: Path, fronts: Sequence[Front], tool: Tool, _: Sizing) -> Balancer:
    logged = f'exec "$0" "$@" >>{prefix / _ACCESS_LOG}'
    command = ["/bin/sh", "-c", logged, *tool.command, "-db", "-f", f"{prefix}/conf/haproxy.cfg"]
    return Peer(prefix, "haproxy.cfg", haproxy_cfg(fronts), [front.port for front in fronts], command)


def _envoy(prefix: Path, fronts: Sequence[Front], tool: Tool, _: Sizing) -> Balancer:
    command = [*tool.command, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    command += ["-c", f"{prefix}/conf/envoy.json"]
    return Peer(prefix, "envoy.json", envoy_json(fronts, prefix), [front.port for front in fronts], command)


def _caddy(prefix: Path, fronts: Sequence[Front], tool: Tool, _: Sizing) -> Balancer:
    command = [*_go(prefix), *tool.command, "run", "--adapter", "caddyfile", "--config", f"{prefix}/conf/Caddyfile"]
    return Peer(prefix, "Caddyfile", caddyfile(fronts, prefix), [front.port for front in fronts], command)


def _traefik(prefix: Path, fronts: Sequence[Front], tool: Tool, _: Sizing) -> Balancer:
    command = [*_go(prefix), *tool.command, *_traefik_flags(fronts, prefix)]
    return Peer(prefix, "dynamic.yml", traefik_json(fronts), [front.port for front in fronts], command)


CONTENDERS: dict[str, Callable[[Path, Sequence[Front], Tool, Sizing], Balancer]] = {
    "upwell": _upwell,
    "upwell compiled": _upwell,
    "nginx": _nginx,
    "haproxy": _haproxy,
    "envoy": _envoy,
    "caddy": _caddy,
    "traefik": _traefik,
}
"""Name -> what makes its process (not yet started) in a folder, for the fronts it has to serve."""
