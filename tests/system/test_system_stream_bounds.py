"""`stream`: datagrams' sessions, too, share `worker_connections` with connections that are over."""

from __future__ import annotations

import contextlib
import socket
from functools import partial
from pathlib import Path

from tests.system.conftest import StartBalancer
from tests.system.talkers import Datagrams, Talker, read_all
from upwell.contrib.processes import await_condition, free_ports

_SIZE = 100_000
_LIMIT = 40


def _sockets(pid: int) -> int:
    count = 0
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += str(one.readlink()).startswith("socket:")
    return count


def test_datagrams_too_make_connections_that_are_over_go(start: StartBalancer) -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(b"a" * _SIZE)

    (front,) = free_ports(1)
    with Talker(answer) as peer, Datagrams(lambda data: [data]) as other, contextlib.ExitStack() as held:
        balancer = start(
            f"""
error_log logs/error.log info;
events {{ worker_connections {_LIMIT}; }}
stream {{
    server {{ listen 127.0.0.1:{front}; proxy_pass 127.0.0.1:{peer.port}; }}
    server {{ listen 127.0.0.1:{front} udp; proxy_pass 127.0.0.1:{other.port}; }}
}}
""",
            [front],
        )

        def clients(count: int) -> list[socket.socket]:
            """Connections that do not read."""
            opened = []
            for _ in range(count):
                sock = held.enter_context(socket.socket())
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                sock.settimeout(10)
                sock.connect(("127.0.0.1", front))
                opened.append(sock)
            return opened

        def reached(number: int) -> bool:
            return balancer.error_log().count(f"upstream disconnected, bytes from/to client:0/{_SIZE}") == number

        waiting = clients(1)
        await_condition(partial(reached, 1), "the first over", 10)
        worker = max(balancer.workers, key=_sockets)
        before = _sockets(worker) - 1
        for number in range(2, _LIMIT + 10):
            waiting += clients(1)
            await_condition(partial(reached, number), "one more over", 10)
        for _ in range(_LIMIT // 2):
            client = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            client.settimeout(10)
            client.sendto(b"x", ("127.0.0.1", front))
            assert client.recv(10) == b"x"
            assert _sockets(worker) - before <= _LIMIT
        assert [len(read_all(one)) for one in waiting] == [_SIZE] * len(waiting)
        assert "not enough" not in balancer.error_log()
