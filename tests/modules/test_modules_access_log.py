"""`access_log` and `open_log_file_cache`: what is taken, and nginx's words for what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from upwell.errors import ConfigErrors
from upwell.modules.access_log import AccessLogSettings, LogFileCache
from upwell.modules.load import load
from upwell.modules.syslog import Syslog


def _resolve(host: str) -> list[str]:
    if host != "known.example":
        raise OSError(host)
    return ["192.0.2.7"]


def _settings(folder: Path, text: str) -> AccessLogSettings:
    (folder / "nginx.conf").write_text(f"events {{}}\nhttp {{ {text} }}")
    config = load("nginx.conf", str(folder), resolve=_resolve)
    return next(config.main.of("http"))[AccessLogSettings]


REFUSED = [
    # nginx 1.31.3's messages
    ("access_log syslog:;", 'unknown syslog parameter ""'),
    ("access_log syslog:tag=a;", "no syslog server specified"),
    ("access_log syslog:server=127.0.0.1,tag=a-b;", 'syslog "tag" only allows alphanumeric characters and underscore'),
    (f"access_log syslog:server=127.0.0.1,tag={'a' * 33};", "syslog tag length exceeds 32"),
    ("access_log syslog:server=127.0.0.1,facility=foo;", 'unknown syslog facility "foo"'),
    ("access_log syslog:server=127.0.0.1,severity=foo;", 'unknown syslog severity "foo"'),
    ("access_log syslog:server=127.0.0.1,foo=bar;", 'unknown syslog parameter "foo=bar"'),
    ("access_log syslog:server=127.0.0.1,server=127.0.0.1;", 'duplicate syslog "server"'),
    ("access_log syslog:server=127.0.0.1,nohostname=1;", 'unknown syslog parameter "nohostname=1"'),
    ("access_log syslog:server=nosuch.invalid;", 'host not found in syslog server "nosuch.invalid"'),
    ("access_log syslog:server=127.0.0.1 combined buffer=1k;", "logs to syslog cannot be buffered"),
    (
        "access_log syslog:server=127.0.0.1 combined flush=1s;",
        'no buffer is defined for access_log "syslog:server=127.0.0.1"',
    ),
    ("access_log logs/$host.log combined buffer=1k;", "buffered logs cannot have variables in name"),
    ("access_log logs/$foo.log;", 'unknown "foo" variable'),
    ("access_log logs/a.log combined flush=1;", 'no buffer is defined for access_log "logs/a.log"'),
    ("access_log logs/a.log nosuch;", 'unknown log format "nosuch"'),
    ("access_log off foo;", 'invalid parameter "foo"'),
    ("open_log_file_cache inactive=20s;", '"open_log_file_cache" must have "max" parameter'),
    ("open_log_file_cache max=0;", '"open_log_file_cache" must have "max" parameter'),
    ("open_log_file_cache foo=1;", 'invalid "open_log_file_cache" parameter "foo=1"'),
    ("open_log_file_cache max=10 foo;", 'invalid "open_log_file_cache" parameter "foo"'),
    ("open_log_file_cache;", 'invalid number of arguments in "open_log_file_cache" directive'),
    # upwell's own
    ("access_log logs/a.log combined gzip;", 'the parameter "gzip" of "access_log" is not supported by upwell'),
    ("access_log logs/a.log combined gzip=5;", 'the parameter "gzip" of "access_log" is not supported by upwell'),
    (
        "access_log logs/../$host.log;",
        '"access_log" with variables and ".." in its path is not supported by upwell',
    ),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_what_is_wrong_is_said_in_nginxs_words(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        _settings(tmp_path, text)
    assert [error.message for error in caught.value.errors] == [message]


SERVERS = [
    ("server=127.0.0.1", Syslog(("127.0.0.1", 514), "127.0.0.1", 190)),
    ("server=127.0.0.1:12,tag=", Syslog(("127.0.0.1", 12), "127.0.0.1:12", 190, "")),
    ("server=[::1]:12,severity=debug,facility=kern", Syslog(("::1", 12), "[::1]:12", 7)),
    ("nohostname,server=known.example", Syslog(("192.0.2.7", 514), "known.example", 190, hostname=False)),
    ("server=unix:/dev/log,tag=a_1", Syslog("/dev/log", "unix:/dev/log", 190, "a_1")),
]


@pytest.mark.parametrize(("text", "server"), SERVERS)
def test_a_syslog_server_is_read(tmp_path: Path, text: str, server: Syslog) -> None:
    (log,) = _settings(tmp_path, f"access_log syslog:{text};").logs
    assert log.syslog == server


def test_a_cache_is_read(tmp_path: Path) -> None:
    text = "open_log_file_cache max=1000 inactive=20s min_uses=2 valid=1m;"
    assert _settings(tmp_path, text).cache == LogFileCache(1000, 20.0, 2, 60.0)
    assert _settings(tmp_path, "open_log_file_cache off;").cache.most == 0
    assert _settings(tmp_path, "").cache.most == 0
