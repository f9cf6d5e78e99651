"""Who is put before the peers, with the guide's checks where there are checks, and what each logs of its tries.

upwell runs the guide's own file. nginx has no checks of its own, so it has `max_fails` alone; HAProxy has its own, with
the guide's times, and is told to try again where nginx's default `proxy_next_upstream` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.tools import Tool
from upwell.contrib.guide import FRONT_PORTS, UPSTREAMS, guide_text, with_ports
from upwell.contrib.processes import Balancer

_LOG = "logs/tries.log"
_FAIL_TIMEOUT = 10.0
_CONNECT, _READ = 2.0, 3.0


@dataclass(frozen=True, slots=True)
class Pace:
    """The guide's times, all of them multiplied."""

    factor: float

    def ms(self, seconds: float) -> str:
        return f"{max(1, round(seconds * self.factor * 1000))}ms"

    def whole(self, seconds: float) -> str:
        return f"{max(1, round(seconds * self.factor))}s"  # `fail_timeout` knows no parts of a second


@dataclass(frozen=True, slots=True)
class Tried:
    """One line of a log: when the request began and ended (`time.time`), its status, and whom it was sent to."""

    began: float
    ended: float
    status: int
    peers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Contender:
    """A balancer on `port` (not yet started) and how its log is read, given the ports of the peers."""

    name: str
    version: str
    port: int
    process: Balancer
    read: Callable[[str, Sequence[int]], Tried | None]

    def tried(self, peers: Sequence[int]) -> list[Tried]:
        """All that it has logged so far."""
        try:
            text = (self.process.prefix / _LOG).read_text(errors="replace")
        except FileNotFoundError:
            return []
        lines = (self.read(line, peers) for line in text.split("\n")[:-1])
        return [one for one in lines if one is not None]


def _nginx_http(pace: Pace) -> str:
    return f"""
    log_format tries "$msec $request_time $status $upstream_addr";
    access_log {_LOG} tries;
    proxy_connect_timeout {pace.ms(_CONNECT)};
    proxy_read_timeout {pace.ms(_READ)};
"""


def _limited(text: str, peers: Sequence[int], pace: Pace) -> str:
    for port in peers:
        text = text.replace(f"127.0.0.1:{port};", f"127.0.0.1:{port} fail_timeout={pace.whole(_FAIL_TIMEOUT)};")
    return text


def _upwell(folder: Path, port: int, others: Sequence[int], peers: Sequence[int], pace: Pace, tool: Tool) -> Contender:
    own = UPSTREAMS["tomcat_upstream"]
    rest = UPSTREAMS["nginx_upstream"]
    ports = dict(zip((*FRONT_PORTS, *own, *rest), (port, others[0], *peers, *others[1:3]), strict=True))
    text = _limited(with_ports(guide_text(), ports), peers, pace)
    text = re.sub(
        r"\b(interval|timeout) = (\d+)", lambda match: f"{match[1]} = {round(int(match[2]) * pace.factor)}", text
    )
    text = text.replace("http {", "http {" + _nginx_http(pace), 1)
    return Contender("upwell", tool.version, port, Balancer(folder, text, [port], tool.command), _nginx_line)


def _nginx(folder: Path, port: int, _: Sequence[int], peers: Sequence[int], pace: Pace, tool: Tool) -> Contender:
    servers = "".join(f"        server 127.0.0.1:{peer};\n" for peer in peers)
    text = f"""
worker_processes 1;
events {{ worker_connections 1024; }}
http {{{_nginx_http(pace)}
    upstream tomcat_upstream {{
{servers}    }}
    server {{
        listen {port};
        location / {{ proxy_pass http://tomcat_upstream; }}
    }}
}}
"""
    process = Balancer(folder, _limited(text, peers, pace), [port], tool.command)
    return Contender("nginx, max_fails alone", tool.version, port, process, _nginx_line)


def _nginx_line(line: str, peers: Sequence[int]) -> Tried | None:
    words = line.split(" ", 3)
    if len(words) != 4:
        return None
    ended, seconds = float(words[0]), float(words[1])
    ports = (
        int(name.rpartition(":")[2]) for name in re.split(r"[,:] +", words[3]) if re.fullmatch(r"[\d.]+:\d+", name)
    )
    return Tried(ended - seconds, ended, int(words[2]), tuple(port for port in ports if port in peers))


class _Haproxy(Balancer):
    """HAProxy in the folder of a Balancer, its log lines on standard output."""

    def __init__(self, folder: Path, text: str, port: int, tool: Tool) -> None:
        super().__init__(folder, text, [port])
        logged = f'exec "$0" "$@" >>{folder / _LOG}'
        self.command = ["/bin/sh", "-c", logged, *tool.command, "-db", "-f", f"{folder}/conf/nginx.conf"]


def _haproxy(folder: Path, port: int, _: Sequence[int], peers: Sequence[int], pace: Pace, tool: Tool) -> Contender:
    check = f"check inter {pace.ms(3)} fall 3 rise 2"
    servers = "".join(f"    server p{peer} 127.0.0.1:{peer} {check}\n" for peer in peers)
    text = f"""
global
    nbthread 1
    log stdout format raw local0
defaults
    mode http
    log global
    log-format "%Ts.%ms %Tt %ST %s %rc"
    timeout connect {pace.ms(_CONNECT)}
    timeout client 60s
    timeout server {pace.ms(_READ)}
    timeout check {pace.ms(5)}
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response response-timeout junk-response
frontend front
    bind 127.0.0.1:{port}
    default_backend peers
backend peers
    balance roundrobin
    http-request disable-l7-retry if METH_POST
    option httpchk GET /index.html
    http-check expect status 200,302
{servers}"""
    return Contender("HAProxy", tool.version, port, _Haproxy(folder, text, port, tool), _haproxy_line)


def _haproxy_line(line: str, peers: Sequence[int]) -> Tried | None:
    found = re.fullmatch(r"(\d+)\.(\d+) \+?(\d+) (-?\d+) (\S+) (\+?)(\d+)", line)
    if found is None:
        return None
    began = int(found[1]) + int(found[2]) / 1000
    last = int(found[5][1:]) if found[5][1:].isdigit() else 0
    # It names the last one only; of two, another one was asked before.
    first = tuple(peer for peer in peers if peer != last) if found[6] else ()
    return Tried(began, began + int(found[3]) / 1000, int(found[4]), (*first, *((last,) if last in peers else ())))


CONTENDERS = {"upwell": _upwell, "nginx": _nginx, "haproxy": _haproxy}
"""Name (of bench.tools) -> what makes it, given a folder, its port, three that are free, and those of the peers."""
