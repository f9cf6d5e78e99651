"""What the error log says of clients' heads and of clients that leave; which server answers for a bad request line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import get, post, response

_HTTP = """
error_log logs/said.log info;
log_format asked "$request|$status|$server_name|$host|$http_host|$uri|$request_length";
access_log logs/asked.log asked;
upstream o { server 10.0.0.1 max_fails=2; server 10.0.0.2; }
server {
    listen 8080; server_name default.test; error_page 400 405 414 505 @named;
    location / { proxy_pass http://o; }
    location @named { return 299 "$server_name $uri $status"; }
    location /ignoring { proxy_ignore_client_abort on; proxy_pass http://o; }
    location /flags { proxy_cookie_flags a $arg_f; proxy_pass http://o; }
    location /next { proxy_next_upstream http_503; proxy_pass http://o; }
    location /nowhere { proxy_intercept_errors on; error_page 404 @nosuch; proxy_pass http://o; }
    location /nowhere/here { error_page 404 @nosuch; return 404; }
}
server { listen 8080; server_name other.test; return 200 "other"; }
server { listen 8080; server_name under.test; underscores_in_headers on; return 200 "under"; }
"""
_HOST = b"\r\nHost: other.test\r\n\r\n"


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    return Serving(tmp_path, _HTTP)


def _said(serving: Serving) -> list[str]:
    """The lines of the error log: level and words up to the server."""
    lines = (serving.folder / "logs" / "said.log").read_text("utf-8").splitlines()
    return [
        f"{line.split(' ', 3)[2]} {line.partition(': *')[2].partition(' ')[2].partition(', client: ')[0]}"
        for line in lines
    ]


def _at(server: str, request: bytes) -> bytes:
    return request.replace(b"Host: test", b"Host: " + server.encode(), 1)


def test_lines_that_are_ignored_are_named_every_time(serving: Serving) -> None:
    fields = ("X_M: 1", "X.Dot: 2", "Good: 3", "Content_Length:   5 ")
    told = [
        f'[info] client sent invalid header line: "{line}" while reading client request headers'
        for line in ("X_M: 1", "X.Dot: 2", "Content_Length:   5")
    ]
    with serving:
        client = serving.client()
        for _ in range(3):  # the third time, all is remembered
            client.send(_at("other.test", get("/", *fields)))
            assert client.answer().body == b"other"
        assert _said(serving) == told * 3
        assert serving.ask(_at("under.test", get("/", *fields))).body == b"under"
        assert _said(serving) == [*told * 3, told[1]]
        client.send(_at("other.test", post(b"content", *fields)))
        assert client.answer("POST").body == b"other"
        client.send(_at("other.test", get()))
        assert client.answer().body == b"other"
        assert len(_said(serving)) == 13


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize(
    ("answer", "doing"),
    [
        (None, "connecting to upstream"),
        (b"", "sending request to upstream"),
        (b"HTTP/1.1 20", "reading response header from upstream"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", "reading upstream"),
    ],
)
def test_a_client_that_leaves_its_request_is_named(
    serving: Serving, how: str, answer: bytes | None, doing: str
) -> None:
    with serving:
        if answer is None:
            serving.origins[0].mode = "hang"
        client = serving.client()
        client.send(get("/"))
        if answer:
            serving.origins[0].last.send(answer)
        client.far.finish() if how == "fin" else client.far.reset()
        (said,) = _said(serving)
        assert said.startswith("[info] client prematurely closed connection, so upstream connection is closed too")
        assert said.endswith(f" while {doing}")
        assert ("(104: " in said) == (how == "reset")


def test_a_client_whose_leaving_changes_nothing_is_not(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.send(get("/ignoring"))
        client.far.reset()
        client = serving.client()
        client.send(_at("other.test", get()))
        client.far.reset()
        serving.origins[0].last.send(response(b"x"))
        assert _said(serving) == []


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        (b"GET /x HTTP/2.0", 505, "invalid version"),
        (b"GET http:///x HTTP/1.1", 400, "invalid host in request line"),
        (b"GET http://a..b/x HTTP/1.1", 400, "invalid host in request line"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1", 414, "too long URI"),
    ],
)
def test_for_a_bad_request_line_the_default_server_answers(
    serving: Serving, line: bytes, status: int, words: str
) -> None:
    with serving:
        answer = serving.ask(line + _HOST)
        path = line.split(b" ")[1].removeprefix(b"http://").removeprefix(b"a..b")
        assert (answer.status, answer.body) == (status, b"default.test %b %d" % (path, status))
        assert _said(serving) == [f"[info] client sent {words} while reading client request line"]
        asked = serving.lines("asked.log")[0].split(b"|")
        assert asked[2:5] == [b"default.test", b"default.test", b"-"]


def test_a_method_that_is_not_served_is_no_fault_of_the_line(serving: Serving) -> None:
    with serving:
        answer = serving.ask(b"TRACE / HTTP/1.1" + _HOST)
        assert answer.status == 405
        assert b"<html>" in answer.body  # the other server has no page for it
        for target in (b"x:1", b"other.test:1"):
            answer = serving.ask(b"CONNECT %b HTTP/1.1" % target + _HOST)
            assert answer.status == 405
            assert b"<html>" in answer.body  # a named page would send CONNECT on
        asked = [line.split(b"|") for line in serving.lines("asked.log")]
        assert [line[2:6] for line in asked] == [
            [b"other.test", b"other.test", b"other.test", b"/"],
            [b"default.test", b"x", b"other.test", b"/"],  # by the name in its target
            [b"other.test", b"other.test", b"other.test", b"/"],
        ]
        assert all(line.endswith("method while reading client request headers") for line in _said(serving))


def test_a_bad_field_is_the_named_servers(serving: Serving) -> None:
    with serving:
        answer = serving.ask(b"GET / HTTP/1.1\r\nHost: other.test\r\nX Y: z\r\n\r\n")
        assert answer.status == 400
        assert b"<html>" in answer.body
        assert _said(serving) == [
            r'[info] client sent invalid header line: "X\x20..." while reading client request headers'
        ]


def test_credentials_are_not_shown(serving: Serving) -> None:
    with serving:
        serving.ask(get("/", "Authorization: secret", "Authorization: mine"))
        serving.ask(get("/", "If-Match: one", "If-Match: two"))
        assert _said(serving) == [
            '[info] client sent duplicate header line: "authorization" while reading client request headers',
            '[info] client sent duplicate header line: "If-Match: two", previous value: "If-Match: one" '
            "while reading client request headers",
        ]


@pytest.mark.parametrize("flag", ["", "?f=x"])
def test_a_flag_that_is_none_leaves_no_trace(serving: Serving, flag: str) -> None:
    serving.reply = response(b"x", "Set-Cookie: a=1; Secure")
    with serving:
        assert serving.ask(get(f"/flags{flag}")).field("Set-Cookie") == "a=1; Secure"
        assert serving.ask(get("/flags?f=nosecure")).field("Set-Cookie") == "a=1"
        assert _said(serving) == []


def test_what_was_going_on_is_told(serving: Serving) -> None:
    serving.reply = response(b"x", status="404 No")
    with serving:
        assert serving.ask(get("/nowhere")).status == 500
        assert serving.ask(get("/nowhere/here")).status == 500
        serving.reply = response(b"x", "X-Accel-Redirect: /a/../b")
        assert serving.ask(get("/")).status == 404
        serving.reply = response(b"x", "X-Accel-Charset: koi8-r", "Content-Type: text/html")
        assert serving.ask(get("/")).field("Content-Type") == "text/html"
        doing = "while reading response header from upstream"
        assert _said(serving) == [
            '[error] could not find named location "@nosuch" while sending to client',
            '[error] could not find named location "@nosuch"',
            f'[error] unsafe URI "/a/../b" was detected {doing}',
            f'[error] unknown charset "koi8-r" to override {doing}',
        ]


@pytest.mark.parametrize("mode", ["refuse", "503", "nonsense"])
def test_a_peer_is_disabled_while_something_was_done(serving: Serving, mode: str) -> None:
    doing = "connecting to upstream" if mode == "refuse" else "reading response header from upstream"
    with serving:
        for _ in range(6):
            client = serving.client()
            if mode == "refuse":
                serving.origins[0].mode = mode
            client.send(get("/next" if mode == "503" else "/"))
            for origin, faulty in zip(serving.origins, (True, False), strict=True):
                for far in origin.connections:
                    if far.taken():
                        status = "503 No" if mode == "503" else "nonsense"
                        far.send(response(b"x", status=status) if faulty else response(b"y"))
            serving.loop.run()
        assert [line for line in _said(serving) if "disabled" in line] == [
            f"[warn] upstream server temporarily disabled while {doing}"
        ]
