"""Uploads through real processes: their files beside nginx's, steady memory, folders after privileges are dropped."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.configurations import proxying
from tests.system.conftest import StartBalancer
from tests.system.wire import Client, Origin, ask, chunked, get, post, response
from upwell.contrib.processes import Balancer, await_condition, free_ports

MEGABYTE = 1 << 20

LOCATIONS = """
        proxy_set_header X-File $request_body_file;
        proxy_set_header X-Body $request_body;
        client_body_buffer_size 1k;
        location / { proxy_pass http://peers; }
        location /on/ { proxy_pass http://peers; client_body_in_file_only on; client_body_temp_path kept 1 2; }
        location /clean/ { proxy_pass http://peers; client_body_in_file_only clean; client_body_temp_path lent; }
        location /stream/ { proxy_pass http://peers; proxy_request_buffering off; proxy_set_header X-File ""; }
        location /slow/ { proxy_pass http://peers; client_body_timeout 300ms; }
        location /single/ { proxy_pass http://peers; client_body_in_single_buffer on; }
"""


def _configuration(front: int, peer: int) -> str:
    return f"""
error_log logs/error.log warn;
events {{ }}
http {{
    log_format status "$request_uri $status";
    access_log logs/access.log status;
    upstream peers {{ server 127.0.0.1:{peer}; }}
    server {{
        listen 127.0.0.1:{front};
        server_name localhost;
{LOCATIONS}
    }}
}}
"""


@dataclass
class Side:
    """nginx or upwell before the origin."""

    port: int
    balancer: Balancer
    origin: Origin

    def folder(self, name: str) -> Path:
        return self.balancer.prefix / name


@dataclass
class Beside:
    nginx: Side
    upwell: Side


@pytest.fixture(scope="module")
def beside(nginx: tuple[str, ...], start_shared: StartBalancer) -> Iterator[Beside]:
    of_nginx, of_upwell = free_ports(2)
    with Origin(response(b"fine")) as origin:
        one = start_shared(_configuration(of_nginx, origin.port), [of_nginx], nginx)
        other = start_shared(_configuration(of_upwell, origin.port), [of_upwell])
        yield Beside(Side(of_nginx, one, origin), Side(of_upwell, other, origin))


def _seen(side: Side, request: bytes) -> list[bytes]:
    """The request as it reached the origin: fields in order of the alphabet, numbers of files made alike, content."""
    side.origin.seen.clear()
    with Client(side.port) as client:
        assert client.ask(request).status == 200
    (seen,) = side.origin.seen
    shown = [re.sub(rb"^(X-File: ).*?(/[0-9]{1,3})*/?[^/ ]*[0-9]{10}$", rb"\1FILE", line) for line in seen.lines]
    return [*sorted(shown), seen.raw_body]


def _await_no_files(folder: Path) -> None:
    await_condition(lambda: not os.listdir(folder), f"no file in {folder}", 5)


def _await_lines(log: Path, line: str, count: int) -> None:
    await_condition(lambda: log.read_text().count(line) == count, f"{line} in {log}", 5)


def _chunked(path: str, *pieces: bytes) -> bytes:
    return get(path, "Transfer-Encoding: chunked").replace(b"GET", b"POST", 1) + chunked(pieces)


REQUESTS = {
    "in memory": post(b"hello"),
    "in a file": post(bytes(5000)),
    "chunks in memory": _chunked("/", b"hel", b"lo"),
    "chunks in a file": _chunked("/", b"x" * 1000, b"y" * 5000),
    "a file that stays": post(b"hello", "/on/"),
    "a file for as long as it takes": post(b"hello", "/clean/"),
    "no content, no file": get("/clean/"),
    "an empty chunked content": _chunked("/"),
    "streamed": post(bytes(5000), "/stream/"),
    "one buffer": post(b"x" * 500, "/single/"),
    "large": post(bytes(MEGABYTE)),
}


@pytest.mark.parametrize("request_bytes", REQUESTS.values(), ids=REQUESTS.keys())
def test_a_content_reaches_the_peer_as_from_nginx(beside: Beside, request_bytes: bytes) -> None:
    assert _seen(beside.upwell, request_bytes) == _seen(beside.nginx, request_bytes)


def test_the_comparison_sees_files(beside: Beside) -> None:
    assert b"X-File: FILE" in _seen(beside.upwell, REQUESTS["in a file"])
    assert b"X-File: FILE" not in _seen(beside.upwell, REQUESTS["in memory"])
    assert b"X-Body: hello" in _seen(beside.upwell, REQUESTS["in memory"])


def test_files_stay_or_go_as_nginx_s_do(beside: Beside) -> None:
    for side in (beside.nginx, beside.upwell):
        kept = {path for path in side.folder("kept").rglob("*") if path.is_file()}
        with Client(side.port) as client:
            assert client.ask(post(b"stays", "/on/")).status == 200
            assert client.ask(post(b"goes", "/clean/")).status == 200
        (new,) = {path for path in side.folder("kept").rglob("*") if path.is_file()} - kept
        assert new.read_bytes() == b"stays"
        one, two, name = new.relative_to(side.folder("kept")).parts
        assert name.endswith(two + one)
        assert (len(one), len(two), len(name)) == (1, 2, 10)
        _await_no_files(side.folder("lent"))


def test_a_client_that_stops_sending_is_left_without_an_answer(beside: Beside) -> None:
    for side in (beside.nginx, beside.upwell):
        for request in (post(b"hello", "/slow/")[:-1], _chunked("/slow/", b"hello")[:-3]):
            side.origin.seen.clear()
            with Client(side.port) as client:
                client.send(request)
                assert client.closed(within=5)
            assert side.origin.seen == []
        log = side.balancer.prefix / "logs" / "access.log"
        _await_lines(log, "/slow/ 408\n", 2)


def test_what_goes_to_a_file_is_told(beside: Beside) -> None:
    for side in (beside.nginx, beside.upwell):
        _seen(side, REQUESTS["in a file"])
        assert "a client request body is buffered to a temporary file /" in side.balancer.error_log()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_folders_are_the_workers(beside: Beside) -> None:
    for name in ("kept", "lent"):
        ours, theirs = (side.folder(name).stat() for side in (beside.upwell, beside.nginx))
        assert (ours.st_uid, ours.st_mode) == (theirs.st_uid, theirs.st_mode)
        assert ours.st_uid != 0


def test_a_folder_that_cannot_be_made_stops_the_start(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    text = proxying(front, [1], http="client_body_temp_path /proc/none;")
    with pytest.raises(Exception, match=r'\[emerg\] .*mkdir\(\) "/proc/none" failed \(2: No such file or directory\)'):
        start(text, [front])


def _most_memory(balancer: Balancer) -> int:
    """The most that a process of the balancer ever had in memory, in bytes."""
    return max(
        int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
        for pid in balancer.workers
    )


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_memory_stays_whatever_is_uploaded(start: StartBalancer, framing: str) -> None:
    total = 192 * MEGABYTE
    received = 0

    def count(connection: socket.socket) -> None:
        nonlocal received
        if b"GET" in connection.recv(3, socket.MSG_PEEK):
            connection.sendall(response(b"awake", "Connection: close"))
            return
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(65536)
        assert b"Content-Length: %d\r\n" % total in head
        received = len(head.partition(b"\r\n\r\n")[2])
        while received < total:
            received += len(connection.recv(1 << 20))
        connection.sendall(response(b"took it"))

    (front,) = free_ports(1)
    block = bytes(MEGABYTE)
    with Origin(on_connect=count) as origin:
        balancer = start(proxying(front, [origin.port], location="client_max_body_size 0;"), [front])
        assert ask(front, get()).body == b"awake"  # so that it has all it needs
        before = _most_memory(balancer)
        with Client(front, timeout=60.0) as client:
            if framing == "length":
                client.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % total)
            else:
                client.send(b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(total // MEGABYTE):
                client.send(block if framing == "length" else b"100000\r\n" + block + b"\r\n")
            if framing == "chunks":
                client.send(b"0\r\n\r\n")
            assert client.answer("POST").body == b"took it"
        assert received == total
        assert _most_memory(balancer) - before < 16 * MEGABYTE
