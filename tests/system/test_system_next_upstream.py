"""proxy_next_upstream beside nginx: each condition against each way in which a peer fails, with and without it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from tests.system.conftest import StartBalancer
from tests.system.wire import Client, Origin, Seen, get, post, response
from upwell.contrib.processes import await_condition, free_ports

STATUSES = ("500", "501", "502", "503", "504", "403", "404", "429")
ALONE = ("error", "timeout", "invalid_header", *(f"http_{one}" for one in STATUSES if one != "501"), "non_idempotent")
CONDITIONS = {
    "default": "",
    "off": "proxy_next_upstream off;",
    **{word: f"proxy_next_upstream {word};" for word in ALONE},
    "several": "proxy_next_upstream error timeout http_500 non_idempotent;",
}
FAILURES = ("refused", "closed", "reset", "half", "silent", "invalid", *STATUSES)


def _fail(seen: Seen, connection: socket.socket) -> bytes | None:
    how = seen.target.decode().split("/")[2]
    if how == "closed":
        return None
    if how == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return None
    if how == "half":
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-")
        return None
    if how == "silent":
        return b""
    if how == "invalid":
        return b"HTTP/1.1 200 OK\r\nno header\r\n\r\n"  # nginx takes an invalid status line for HTTP/0.9
    return response(b"first", status=f"{how} x")


def _configuration(front: int, failing: int, closed: int, good: int) -> str:
    locations = [
        f"location /{name}/{how} {{ proxy_pass http://{'refused' if how == 'refused' else 'failing'}; {text} }}"
        for (name, text), how in product(CONDITIONS.items(), FAILURES)
    ]
    lines = "\n        ".join(locations)
    return f"""
events {{ }}
http {{
    log_format tries "$request $status $upstream_status $upstream_addr";
    access_log logs/access.log tries;
    upstream failing {{ server 127.0.0.1:{failing} max_fails=0; server 127.0.0.1:{good} backup; keepalive 0; }}
    upstream refused {{ server 127.0.0.1:{closed} max_fails=0; server 127.0.0.1:{good} backup; keepalive 0; }}
    upstream three {{
        server 127.0.0.1:{failing} max_fails=0; server 127.0.0.1:{failing} max_fails=0; server 127.0.0.1:{good} backup;
        keepalive 0;
    }}
    proxy_read_timeout 200ms;
    server {{
        listen 127.0.0.1:{front};
        location /tries/500/1 {{ proxy_pass http://three; proxy_next_upstream http_500; proxy_next_upstream_tries 1; }}
        location /tries/500/2 {{ proxy_pass http://three; proxy_next_upstream http_500; proxy_next_upstream_tries 2; }}
        location /tries/500/3 {{ proxy_pass http://three; proxy_next_upstream http_500; proxy_next_upstream_tries 3; }}
        location /tries/500/0 {{ proxy_pass http://three; proxy_next_upstream http_500; proxy_next_upstream_tries 0; }}
        location /tries/silent/0 {{ proxy_pass http://three; proxy_next_upstream_timeout 100ms; }}
        location /tries/silent/1 {{ proxy_pass http://three; proxy_next_upstream_timeout 10s; }}
        location /tries/500/unbuffered {{ proxy_pass http://three; proxy_next_upstream http_500;
            proxy_request_buffering off; }}
        {lines}
    }}
}}
"""


@dataclass
class Side:
    """nginx or upwell; `log` is its access log."""

    port: int
    log: Path


@dataclass
class Beside:
    nginx: Side
    upwell: Side


@pytest.fixture(scope="module")
def beside(nginx: tuple[str, ...], start_shared: StartBalancer) -> Iterator[Beside]:
    closed, of_nginx, of_upwell = free_ports(3)
    sides = []
    with Origin(_fail) as failing, Origin(response(b"second")) as good:
        for port, command in ((of_nginx, nginx), (of_upwell, None)):
            text = _configuration(port, failing.port, closed, good.port)
            balancer = start_shared(text, [port], command) if command else start_shared(text, [port])
            sides.append(Side(port, balancer.prefix / "logs" / "access.log"))
        yield Beside(*sides)


def _told(side: Side, requests: list[bytes]) -> list[str]:
    """What each request came to: the client's answer, then the line in the log."""
    before = side.log.read_text().count("\n")
    answers = []
    for request in requests:
        with Client(side.port) as client:
            answer = client.ask(request)
            answers.append(f"{answer.status} {answer.body.decode() if len(answer.body) < 20 else 'page'}")
    lines = len(requests)
    await_condition(lambda: side.log.read_text().count("\n") >= before + lines, "the lines of the log", 5)
    return [
        f"{answer}: {line}" for answer, line in zip(answers, side.log.read_text().splitlines()[before:], strict=True)
    ]


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_sends_a_request_on_as_in_nginx(beside: Beside, name: str) -> None:
    requests = [get(f"/{name}/{how}") for how in FAILURES] + [post(b"content", f"/{name}/{how}") for how in FAILURES]
    assert _told(beside.upwell, requests) == _told(beside.nginx, requests)


def test_tries_and_time_are_bounded_as_in_nginx(beside: Beside) -> None:
    requests = [get(f"/tries/{rest}") for rest in ("500/0", "500/1", "500/2", "500/3", "silent/0", "silent/1")]
    requests += [get("/tries/500/unbuffered")]
    assert _told(beside.upwell, requests) == _told(beside.nginx, requests)


def test_each_condition_is_there(beside: Beside) -> None:
    """The comparison is of something: each condition sends on what it names, and no other failure."""
    for name in CONDITIONS:
        lines = _told(beside.upwell, [get(f"/{name}/{how}") for how in FAILURES])
        second = [how for how, line in zip(FAILURES, lines, strict=True) if line.startswith("200 second")]
        errors, slow = ["refused", "closed", "reset", "half"], ["silent"]
        assert second == {
            "default": errors + slow,
            "error": errors,
            "timeout": slow,
            "invalid_header": ["invalid"],
            "off": [],
            "non_idempotent": [],
            "several": [*errors, *slow, "500"],
        }.get(name, [name[5:]])
