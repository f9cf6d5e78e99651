"""Access logs elsewhere than in one file: paths with variables, the cache of open files, syslog servers."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import Log, Loop, get
from upwell.modules.access_log import LogFileCache
from upwell.runtime.log_paths import LogPaths


def test_a_path_may_have_variables(tmp_path: Path) -> None:
    text = """
        log_format f '$uri';
        server { listen 127.0.0.1:8080; access_log logs/$host-${status}.log f if=$arg_log; return 200; }"""
    with Serving(tmp_path, text) as serving:
        for host in ("a", "b", "a"):
            serving.ask(f"GET /{host}?log=1 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        serving.ask(b"GET /no HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (tmp_path / "logs" / "a-200.log").read_text() == "/a\n/a\n"
    assert (tmp_path / "logs" / "b-200.log").read_text() == "/b\n"
    assert not (tmp_path / "logs" / "access.log").exists()


def test_nobody_names_a_file_outside(tmp_path: Path) -> None:
    text = "server { listen 127.0.0.1:8080; access_log logs/$arg_name.log; return 200; }"
    with Serving(tmp_path, text) as serving:
        for name in ("../outside", "a/../../outside", "no/such/folder", "fine"):
            assert serving.ask(get(f"/?name={name}")).status == 200
        lines = serving.log.lines
    assert not (tmp_path / "outside.log").exists()
    assert (tmp_path / "logs" / "fine.log").exists()
    assert [line for line in lines if "log path" in line or "open()" in line] == [lines[0]]  # once a minute at most
    assert lines[0].startswith("unsafe log path")


class Paths:
    """A LogPaths with a cache, on a loop whose clock stands still."""

    def __init__(self, **cache: Any) -> None:
        self.loop = Loop()
        self.log = Log()
        self.paths = LogPaths(LogFileCache(**cache), cast("Any", self.loop), self.log)

    def write(self, path: Path, line: bytes = b"line\n") -> None:
        self.paths.write(str(path).encode(), line)
        self.loop.run()

    @property
    def open(self) -> list[str]:
        return [Path(path.decode()).name for path, file in self.paths._files.items() if file.fd >= 0]


def test_without_a_cache_no_file_stays_open(tmp_path: Path) -> None:
    paths = Paths()
    paths.write(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    paths.write(tmp_path / "a", b"second\n")
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"second\n", b"line\n")
    assert not paths.paths._files


def test_a_cache_is_bounded_and_forgets_the_oldest(tmp_path: Path) -> None:
    paths = Paths(most=2)
    for name in ("a", "b", "a", "c"):
        paths.write(tmp_path / name)
    assert paths.open == ["a", "c"]
    assert (tmp_path / "b").read_bytes() == b"line\n"
    paths.paths.close()
    assert paths.open == []


def test_a_cache_forgets_what_is_not_used(tmp_path: Path) -> None:
    paths = Paths(most=10, inactive=5.0)
    paths.write(tmp_path / "a")
    paths.loop.advance(4)
    paths.write(tmp_path / "b")
    assert paths.open == ["a", "b"]
    paths.loop.advance(2)
    paths.write(tmp_path / "b")
    assert paths.open == ["b"]
    paths.paths.close()


def test_a_file_stays_open_once_it_was_used_often_enough(tmp_path: Path) -> None:
    paths = Paths(most=10, min_uses=3)
    for count in (1, 2, 3):
        assert paths.open == []
        paths.write(tmp_path / "a", b"%d\n" % count)
    assert paths.open == ["a"]
    assert (tmp_path / "a").read_bytes() == b"1\n2\n3\n"
    paths.paths.close()


def test_a_file_that_was_moved_is_noticed_in_time(tmp_path: Path) -> None:
    paths = Paths(most=10, valid=30.0, inactive=100.0)
    paths.write(tmp_path / "a", b"1\n")
    (tmp_path / "a").rename(tmp_path / "old")
    paths.loop.advance(29)
    paths.write(tmp_path / "a", b"2\n")
    assert not (tmp_path / "a").exists()
    paths.loop.advance(2)
    paths.write(tmp_path / "a", b"3\n")
    assert ((tmp_path / "old").read_bytes(), (tmp_path / "a").read_bytes()) == (b"1\n2\n", b"3\n")
    paths.paths.close()


@pytest.mark.parametrize(
    ("parameters", "pattern"),
    [
        ("", r"<190>[A-Z][a-z]{2} [ 0-9]\d \d\d:\d\d:\d\d \S+ nginx: /a 200"),
        (",tag=my_1,severity=debug,facility=cron", r"<127>\w{3} [ 0-9]\d [0-9:]{8} \S+ my_1: /a 200"),
        (",nohostname", r"<190>\w{3} [ 0-9]\d [0-9:]{8} nginx: /a 200"),
    ],
)
@pytest.mark.parametrize("kind", ["udp", "unix"])
def test_lines_go_to_a_syslog_server(tmp_path: Path, kind: str, parameters: str, pattern: str) -> None:
    family = socket.AF_INET if kind == "udp" else socket.AF_UNIX
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0) if kind == "udp" else str(tmp_path / "syslog"))
        server.settimeout(5)
        address = f"127.0.0.1:{server.getsockname()[1]}" if kind == "udp" else f"unix:{tmp_path}/syslog"
        text = f"""
            log_format f '$uri $status';
            server {{ listen 127.0.0.1:8080; access_log syslog:server={address}{parameters} f; return 200; }}"""
        with Serving(tmp_path, text) as serving:
            serving.ask(get("/a"))
            assert re.fullmatch(pattern, server.recv(1000).decode())


def test_a_syslog_server_that_is_not_there_stops_nothing_and_is_told_of_once(tmp_path: Path) -> None:
    text = f"server {{ listen 127.0.0.1:8080; access_log syslog:server=unix:{tmp_path}/none; return 200; }}"
    with Serving(tmp_path, text) as serving:
        for _ in range(3):
            assert serving.ask(get()).status == 200
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.bind(str(tmp_path / "none"))
            server.settimeout(5)
            serving.ask(get("/now"))
            assert b"GET /now " in server.recv(1000)
    told = [line for line in serving.log.lines if "syslog" in line]
    assert told == [
        f"send() to syslog failed (2: No such file or directory) while logging to syslog, server: unix:{tmp_path}/none",
        f"syslog server unix:{tmp_path}/none takes lines again, 3 were lost",
    ]
