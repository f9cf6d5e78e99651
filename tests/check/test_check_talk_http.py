"""http checks of all dialects but lua-resty's through the checker, over real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.check.scripted import Scripted, answering
from tests.check.test_check_checker import Bench, Benches, bench
from upwell.check.spec import PLUS, CheckSpec, MatchSpec

__all__ = ["bench"]  # a fixture, used by name

Peers = Callable[..., Scripted]
GET = b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def check(b: Bench, **changes: object) -> CheckSpec:
    return b.check(**{"request": GET, "statuses": (), "dialect": PLUS, "timeout": 5.0, "fall": 1, "rise": 1, **changes})


def count(b: Bench) -> tuple[int, int]:
    """How many probes of the first peer passed, and failed."""
    [state] = b.table.checks(0)
    return state.passes, state.fails


def test_a_kept_connection_is_probed_again_and_again(scripted: Peers, bench: Benches) -> None:
    one = scripted(answering(GOOD))
    b = bench(one.spec)
    check(b, keepalive_time=60.0)
    b.until(lambda: count(b)[0] == 8)
    assert (count(b)[1], one.connections, one.resets) == (0, 1, 0)


def test_without_keepalive_each_probe_has_a_connection_of_its_own(scripted: Peers, bench: Benches) -> None:
    one = scripted(answering(GOOD))
    b = bench(one.spec)
    check(b)
    b.until(lambda: count(b)[0] == 4 and one.connections >= 4)
    assert one.resets == 0


def test_a_connection_is_used_no_more_often_than_allowed(scripted: Peers, bench: Benches) -> None:
    one = scripted(answering(GOOD))
    b = bench(one.spec)
    check(b, keepalive_time=60.0, keepalive_requests=3)
    b.until(lambda: count(b)[0] == 9)
    b.until(lambda: one.connections >= 3)
    assert count(b)[1] == 0
    assert one.connections in (3, 4)  # the tenth may have begun


def test_a_connection_that_the_peer_ends_is_made_anew(scripted: Peers, bench: Benches) -> None:
    """With and without saying so first, and that is no failure."""
    for last in (GOOD, GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")):
        one = scripted(answering(GOOD, last, kept=False))
        b = bench(one.spec)
        check(b, keepalive_time=60.0)
        b.until(lambda: count(b)[0] == 6)  # noqa: B023  # over before the next round
        assert count(b)[1] == 0
        assert one.connections >= 3


def test_content_behind_the_verdict_is_read_and_the_connection_kept(scripted: Peers, bench: Benches) -> None:
    size = 300_000
    big = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    one = scripted(answering(big))
    b = bench(one.spec)
    check(b, keepalive_time=60.0, interval=0.2)
    b.until(lambda: count(b)[0] == 4)
    assert (count(b)[1], one.connections, one.resets) == (0, 1, 0)


def test_a_peer_that_is_still_sending_when_it_is_due_again_is_not_reset(scripted: Peers, bench: Benches) -> None:
    size = 900_000
    big = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    one = scripted(answering(big))
    b = bench(one.spec)
    check(b, keepalive_time=60.0, interval=0.001)
    b.until(lambda: count(b)[0] == 6)
    assert (count(b)[1], one.connections, one.resets) == (0, 1, 0)


def test_a_peer_that_falls_silent_in_its_content_is_probed_in_its_time(scripted: Peers, bench: Benches) -> None:
    one = scripted(answering(GOOD[:-1]))
    b = bench(one.spec)
    check(b, timeout=1000.0)
    b.until(lambda: count(b)[0] == 4)
    assert count(b)[1] == 0


def test_a_peer_that_ends_its_content_late_is_not_reset(scripted: Peers, bench: Benches) -> None:
    gate = threading.Event()

    def script(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(GOOD[:-1])
        gate.wait(10)
        sock.sendall(GOOD[-1:])
        sock.recv(65536)

    one = scripted(script)
    b = bench(one.spec)
    check(b, interval=60.0)
    b.until(lambda: count(b)[0] == 1)
    gate.set()
    b.until(lambda: not b.checker._loop.targets)
    assert one.resets == 0


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "status 503, want 200-399"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", 'body does not match ~ "OK"'),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nno", "connection closed in the content"),
        (b"", "connection closed before the status line"),
        (b"220 mail ESMTP\r\n", 'bad status line: "220 mail ESMTP"'),
    ],
)
def test_why_it_failed_is_kept(scripted: Peers, bench: Benches, answer: bytes, why: str) -> None:
    one = scripted(answering(answer, kept=False))
    b = bench(one.spec)
    check(b, match=MatchSpec(statuses=((200, 399),), body="OK"))
    b.until(lambda: count(b)[1] > 0)
    assert any(f": {why} (http)" in line for line in b.lines())


def test_a_slow_answer_is_called_by_what_was_missing(scripted: Peers, bench: Benches) -> None:
    for answer, doing in (
        (b"", "reading the status line"),
        (b"HTTP/1.1 200 OK\r\n", "reading the header"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "reading the content"),
    ):

        def script(sock: socket.socket, answer: bytes = answer) -> None:
            sock.recv(65536)
            sock.sendall(answer)
            sock.recv(65536)

        one = scripted(script)
        b = bench(one.spec)
        check(b, timeout=0.1, match=MatchSpec(body="OK"))
        b.until(lambda: count(b)[1] > 0)  # noqa: B023  # over before the next round
        assert any(f": timeout after 0.1 s {doing} (http)" in line for line in b.lines())


def test_unix_sockets_and_ipv6(scripted: Peers, bench: Benches, tmp_path: Path) -> None:
    places: list[tuple[int, str | tuple[str, int]]] = [(socket.AF_UNIX, str(tmp_path / "s"))]
    if socket.has_ipv6:
        places.append((socket.AF_INET6, ("::1", 0)))
    for family, address in places:
        one = scripted(answering(GOOD), None, family, address)
        b = bench(one.spec)
        check(b, keepalive_time=60.0)
        b.until(lambda: count(b)[0] == 3)  # noqa: B023  # over before the next round
        assert (count(b)[1], one.connections) == (0, 1)
