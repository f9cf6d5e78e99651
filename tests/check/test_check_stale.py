"""What a kept connection says unasked, just before it is asked, is no answer."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.check.probing import Probing
from upwell.peers.peer import PeerSpec

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
BAD = b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("stale", [True, False])
def test_what_comes_while_others_are_read_from_is_heard_before_the_next_question(tmp_path: Path, stale: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        p = Probing(tmp_path / "error.log", PeerSpec("app:1", server.getsockname()))
        p.check(type="http", request=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", keepalive_time=1000.0, interval=5.0)
        p.checker.step(0)
        kept, _ = server.accept()
        kept.recv(4096)
        kept.sendall(ANSWER)
        p.until(lambda: p.state().passes == 1)
        while p.checker.next_due() == p.clock():
            p.checker.step(0)

        def say() -> None:
            os.read(reader, 1)
            if stale:
                kept.sendall(ANSWER)

        # In the very step in which the next probe is due, and after that step has asked what there is.
        reader, writer = os.pipe()
        p.checker.watch(reader, say)
        os.write(writer, b"x")
        p.skew += 6.0
        p.checker.step(0)
        server.settimeout(0.2)
        if stale:
            asked, _ = server.accept()
        else:
            with pytest.raises(TimeoutError):
                server.accept()
            asked = kept
        assert asked.recv(4096).startswith(b"GET / ")
        asked.sendall(BAD)
        p.until(lambda: p.state().passes + p.state().fails == 2)
        assert p.state().fails == 1
        for one in {kept, asked}:
            one.close()
        p.close()
        os.close(reader)
        os.close(writer)
