"""Answers that are too big, cut short or slowed down, through real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.system.conftest import StartBalancer
from tests.system.wire import Client, Origin, Seen, get
from upwell.contrib.processes import free_ports

LOCATIONS = """
        location / { proxy_pass http://peers; proxy_buffer_size 1k; proxy_buffers 4 1k; proxy_busy_buffers_size 2k; }
        location /paced { proxy_pass http://peers; limit_rate 4m; limit_rate_after 1m; }
        location /peer { proxy_pass http://peers; proxy_limit_rate 4m; proxy_buffers 8 16k; }
"""
SIZE = 5 << 20


def _respond(seen: Seen, connection: socket.socket) -> bytes | None:
    what = seen.target.rpartition(b"/")[2]
    if what.isdigit():
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX: "
        return head + b"x" * (int(what) - len(head) - 4) + b"\r\n\r\nbody"
    if what == b"length":
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
    elif what == b"chunks":
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n")
    elif what == b"nonsense":
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\nnonsense\r\n")
    else:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE + bytes(SIZE)
    return None


def _configuration(front: int, peer: int) -> str:
    return f"""
events {{ }}
http {{
    upstream peers {{ server 127.0.0.1:{peer}; }}
    server {{ listen 127.0.0.1:{front}; {LOCATIONS} }}
}}
"""


@pytest.fixture(scope="module")
def front(start_shared: StartBalancer) -> Iterator[int]:
    (port,) = free_ports(1)
    with Origin(_respond) as origin:
        start_shared(_configuration(port, origin.port), [port])
        yield port


@pytest.mark.parametrize("size", [1000, 1023, 1024, 1025, 5000])
def test_a_head_is_as_large_as_its_buffer_at_most(
    front: int, size: int, nginx: tuple[str, ...], start: StartBalancer
) -> None:
    with Client(front) as client:
        answer = client.ask(get(f"/{size}"))
        assert answer.status == (200 if size <= 1024 else 502)
    if size == 1024:
        return  # nginx has no room left for the content then, and cuts the answer short
    (other,) = free_ports(1)
    with Origin(_respond) as origin:
        start(_configuration(other, origin.port), [other], nginx)
        with Client(other) as client:
            assert client.ask(get(f"/{size}")).status == answer.status


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("what", ["length", "chunks", "nonsense"])
def test_an_answer_cut_short_never_looks_complete(front: int, what: str, version: str) -> None:
    with Client(front) as client:
        client.send(get(f"/{what}", version=version))
        with pytest.raises(Exception, match=r"(?i)reset|without sending complete|incomplete"):
            client.answer()


@pytest.mark.parametrize("path", ["/paced", "/peer"])
def test_a_paced_answer_is_whole_and_the_connection_goes_on(front: int, path: str) -> None:
    with Client(front) as client:
        assert client.ask(get(path)).body == bytes(SIZE)
        assert client.ask(get("/1000")).body == b"body"
