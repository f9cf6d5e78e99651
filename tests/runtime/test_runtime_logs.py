"""Access-log lines and templates: values, escaping, conditions; nginx's outcomes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import get, post, response


def _log(folder: Path, format_: str, *requests: bytes, escape: str = "") -> list[str]:
    """The lines that `requests` leave."""
    with Serving(
        folder,
        f"""
        log_format f {f"escape={escape} " if escape else ""}'{format_}';
        access_log logs/access.log f;
        upstream o {{ server 10.0.0.1:80; }}
        server {{
            listen 127.0.0.1:8080; server_name localhost; set $empty ""; set $both "$arg_a-$arg_b";
            location / {{ return 200 "hello"; }}
            location /gone {{ return 404; }}
            location /o {{ proxy_pass http://o; }}
            location ~ ^/cap/(?<named>.*)$ {{ return 200 $named; }}
        }}""",
    ) as serving:
        serving.reply = response(b"12345", "X-Peer: p", "Content-Type: text/x")
        for request in requests:
            serving.ask(request)
        return [line.decode("latin-1") for line in serving.lines()]


VALUES = [
    ("$request", get("/a?b=c"), "GET /a?b=c HTTP/1.1"),
    ("$request_method $uri $args $query_string", get("/%41?b=%41"), "GET /A b=%41 b=%41"),
    ("$request_uri", get("/%41?b=c"), "/%41?b=c"),
    ("$status $body_bytes_sent", get(), "200 5"),
    ("$status $body_bytes_sent", get(method="HEAD"), "200 0"),
    ("$status", get("/gone"), "404"),
    ("$status [$request]", b"nonsense\r\n\r\n", "400 [nonsense]"),
    ("$host $http_host $server_name", get(), "test test localhost"),
    ("$host", b"GET / HTTP/1.0\r\n\r\n", "localhost"),
    ("$scheme $server_protocol", get(version="1.0"), "http HTTP/1.0"),
    ("$remote_addr $remote_port $server_addr $server_port", get(), "192.0.2.1 50000 127.0.0.1 8080"),
    ("$arg_a $arg_A $arg_none", get("/?b=1&a=2&A=3"), "2 2 -"),
    ("$cookie_a $cookie_none", get("/", "Cookie: b=1; a=2", "Cookie: a=3"), "2 -"),
    ("$http_x_y $http_none", get("/", "X-Y: 1", "X-Y: 2"), "1, 2 -"),
    ("$content_type $content_length", post(b"abc", "Content-Type: a/b"), "a/b 3"),
    ("$remote_user", get("/", "Authorization: Basic dXNlcjpwYXNz"), "user"),
    ("$remote_user", get("/", "Authorization: Basic !!"), "-"),
    ("$sent_http_content_type $sent_http_content_length", get(), "text/plain 5"),
    ("$sent_http_content_type $sent_http_x_peer", get("/o"), "text/x p"),
    ("$upstream_addr $upstream_status $upstream_http_x_peer", get("/o"), "10.0.0.1:80 200 p"),
    ("$upstream_addr $upstream_status", get(), "- -"),
    ("$upstream_response_length", get("/o"), "5"),
    ("$both", get("/?a=1&b=2"), "1-2"),
    ("$request_completion", get(), "OK"),
    ("$connection_requests $pipe", get(), "1 ."),
    ("$request_length", get(), str(len(get()))),
    ("$request_length $request_body", post(b"abc", path="/o"), f"{len(post(b'abc', path='/o'))} abc"),
    ("$request_length $request_body", post(b"abc"), f"{len(post(b''))} -"),  # nobody has read it
    ("${uri}x$uri", get("/a"), "/ax/a"),
    # Empty is not the same as not found.
    ("[$empty][$is_args][$https][$http_x][$args]", get("/?", "X:"), "[][][][][-]"),
    ("[$args][$http_x]", get(), "[-][-]"),
    ("$named", get("/cap/x"), "x"),
]


@pytest.mark.parametrize(("format_", "request_", "expected"), VALUES)
def test_a_line_says_what_nginx_says(tmp_path: Path, format_: str, request_: bytes, expected: str) -> None:
    assert _log(tmp_path, format_, request_) == [expected]


ESCAPES = [
    ("", r"\x22q\x5C\x0A\xE9\x7F~"),
    ("default", r"\x22q\x5C\x0A\xE9\x7F~"),
    ("json", '\\"q\\\\\\n\xe9\x7f~'),
    ("none", '"q\\\n\xe9\x7f~'),
]


@pytest.mark.parametrize(("escape", "expected"), ESCAPES)
def test_values_are_escaped_and_the_format_is_not(tmp_path: Path, escape: str, expected: str) -> None:
    lines = _log(tmp_path, '"$uri" é', get("/%22q%5C%0A%E9%7F~"), escape=escape)
    assert "\n".join(lines) == f'"/{expected}" ' + "é".encode().decode("latin-1")


@pytest.mark.parametrize(("escape", "expected"), [("json", "[][]"), ("none", "[][]"), ("default", "[-][]")])
def test_what_is_not_found_depends_on_the_escape(tmp_path: Path, escape: str, expected: str) -> None:
    assert _log(tmp_path, "[$http_none][$empty]", get(), escape=escape) == [expected]


def test_the_combined_format(tmp_path: Path) -> None:
    with Serving(tmp_path, 'server { listen 127.0.0.1:8080; return 200 "hi"; }') as serving:
        serving.ask(get("/a", "User-Agent: t", "Referer: http://r/"))
        (line,) = serving.lines()
    assert re.fullmatch(
        rb'192\.0\.2\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /a HTTP/1\.1" 200 2 "http://r/" "t"',
        line,
    )


def test_the_time_of_a_line_is_that_of_its_end_also_without_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "log_format f '$time_iso8601 $status'; access_log logs/access.log f; upstream o { server 10.0.0.1:80; }"
        " server { listen 127.0.0.1:8080; location / { proxy_pass http://o; } location /cut { return 444; } }"
    )
    with Serving(tmp_path, text) as serving:
        monkeypatch.setattr("time.time", lambda: 1_700_000_000.0)
        client = serving.client()
        client.send(get("/wait"))
        monkeypatch.setattr("time.time", lambda: 1_700_100_000.0)
        serving.runtime._clock.refresh()  # as it does at each whole second
        client.far.reset()
        client = serving.client()
        monkeypatch.setattr("time.time", lambda: 1_700_200_000.0)
        serving.runtime._clock.refresh()
        client.send(get("/cut"))
        lines = serving.lines()
    assert [line[-3:] for line in lines] == [b"499", b"444"]
    assert [line[:10] for line in lines] == [b"2023-11-16", b"2023-11-17"]


def test_lines_go_only_where_they_are_meant_to(tmp_path: Path) -> None:
    text = """
        log_format f '$uri';
        access_log logs/access.log f;
        server {
            listen 127.0.0.1:8080;
            location / { return 200; }
            location /off { access_log off; return 200; }
            location /own { access_log logs/own.log f; access_log logs/second.log f; return 200; }
            location /if { set $loggable $arg_log; access_log logs/access.log f if=$loggable; return 200; }
        }"""
    with Serving(tmp_path, text) as serving:
        for target in ("/a", "/off", "/own", "/if", "/if?log=0", "/if?log=1"):
            serving.ask(get(target))
        assert serving.lines() == [b"/a", b"/if"]
        assert serving.lines("own.log") == serving.lines("second.log") == [b"/own"]


def test_a_buffered_log_is_written_when_full_or_in_time(tmp_path: Path) -> None:
    text = """
        log_format f '$uri';
        access_log logs/access.log f buffer=100 flush=5s;
        server { listen 127.0.0.1:8080; return 200; }"""
    file = tmp_path / "logs" / "access.log"
    with Serving(tmp_path, text) as serving:
        serving.ask(get("/a"))
        serving.loop.advance(4)
        assert file.read_bytes() == b""
        serving.loop.advance(2)
        assert file.read_bytes() == b"/a\n"
        serving.ask(get("/" + "b" * 200))
        assert file.read_bytes() == b"/a\n/" + b"b" * 200 + b"\n"


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    text = 'access_log /dev/full; server { listen 127.0.0.1:8080; return 200 "fine"; }'
    with Serving(tmp_path, text) as serving:
        for _ in range(3):
            assert serving.ask(get()).body == b"fine"
            serving.loop.run()
        assert sum(log.lost for log in serving.runtime._plan.logs) == 3


def test_each_level_has_its_own_error_log(tmp_path: Path) -> None:
    text = """
        error_log logs/http.log info;
        server {
            listen 127.0.0.1:8080;
            location /http { deny all; }
            location /own { error_log logs/own.log; error_log logs/second.log crit; deny all; }
        }
    """
    with Serving(tmp_path, text) as serving:
        serving.ask(get("/http"))
        serving.ask(get("/own"))
        serving.ask(b"nonsense\r\n\r\n")
    logs = {path.stem: path.read_text() for path in (tmp_path / "logs").glob("*.log")}
    assert logs["http"].count("access forbidden by rule") == 1
    assert "client sent invalid method" in logs["http"]
    assert logs["own"].count("access forbidden by rule") == 1
    assert logs["second"] == ""
