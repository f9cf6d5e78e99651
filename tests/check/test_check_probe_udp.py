"""`health_check udp` over real sockets: what is sent, what comes back, what ICMP says, and silence."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.check.probing import Make, Probing, probings
from upwell.check.probes import TARGETS
from upwell.check.spec import PLUS, CheckSpec
from upwell.check.target import Loop, Place
from upwell.contrib.processes import free_ports
from upwell.peers.peer import PeerSpec


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with probings(tmp_path, PeerSpec("nobody", ("127.0.0.1", 1))) as made:
        yield made


@contextmanager
def server(*answers: bytes, host: str = "127.0.0.1") -> Iterator[tuple[PeerSpec, list[bytes]]]:
    """A peer that answers each datagram with `answers`, and what it was asked."""
    asked: list[bytes] = []
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        address = sock.getsockname()[:2]

        def serve() -> None:
            while True:
                data, client = sock.recvfrom(65536)
                if data == b"over":
                    return
                asked.append(data)
                for answer in answers:
                    sock.sendto(answer, client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield PeerSpec("app", address), asked
        finally:
            with socket.socket(family, socket.SOCK_DGRAM) as other:
                other.sendto(b"over", address)
            thread.join(20)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_is_awaited_may_come_in_any_datagram_but_in_one(make: Make, host: str) -> None:
    with server(b"pi", b"ng", b"ping 1", host=host) as (peer, asked):
        p: Probing = make(peer)
        p.check(type="udp", request=b"ping\n", expect="^ping [0-9]")
        assert p.why() == ""
        assert set(asked) == {b"ping\n"}


def test_what_came_instead_is_told_when_the_time_is_up(make: Make) -> None:
    with server(b"pi", b"ng") as (peer, _):
        p: Probing = make(peer)
        p.check(type="udp", request=b"x", expect="ping", timeout=0.05)
        assert p.why() == 'no "ping", but "ng"'
        assert not p.up()


def test_silence_is_a_failure_only_where_something_is_awaited(make: Make) -> None:
    with server() as (peer, asked):
        p: Probing = make(peer)
        p.check(type="udp", request=b"x", expect="ping", timeout=0.05)
        assert p.why() == 'timeout after 0.05 s waiting for "ping"'
        assert not p.up()
        other: Probing = make(peer)
        other.check(type="udp", request=b"hello", timeout=0.05)
        assert other.why() == ""
        assert other.up()
        assert b"hello" in asked


def test_an_answer_that_nobody_awaits_ends_the_silence(make: Make) -> None:
    with server(b"") as (peer, _):
        p: Probing = make(peer)
        p.check(type="udp", request=b"x")
        assert p.why() == ""


@pytest.mark.parametrize("expect", ["", "x"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_icmp_says_that_nobody_is_there(make: Make, host: str, expect: str) -> None:
    (port,) = free_ports(1)
    p: Probing = make(PeerSpec("app", (host, port)))
    p.check(type="udp", request=b"x", expect=expect)
    assert p.why() == "connection refused"
    assert not p.up()


def test_the_port_of_the_check_counts(make: Make) -> None:
    with server(b"yes") as (peer, asked):
        assert isinstance(peer.address, tuple)
        p: Probing = make(PeerSpec("app", ("127.0.0.1", 1)))
        p.check(type="udp", request=b"x", port=peer.address[1])
        assert p.why() == ""
        assert asked


def test_each_probe_has_a_socket_of_its_own_and_leaves_none(make: Make) -> None:
    loop = Loop()
    try:
        with server() as (peer, _):
            target = TARGETS["udp"](CheckSpec("u", "udp", dialect=PLUS, timeout=9.0), peer, Place(0, 0, 0), loop)
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(3):
                assert target.start(1.0) is None
                assert len(loop.targets) == 1
                assert target.start(2.0) is None  # what was under way is given up
                assert len(loop.targets) == 1
                verdict = target.expire(11.0)
                assert verdict is not None
                assert verdict.passed
                assert target.ready(0, 0, 12.0) is None
                assert not loop.targets
            assert len(os.listdir("/proc/self/fd")) == before
    finally:
        loop.epoll.close()


def test_an_address_that_nothing_leads_to(make: Make, tmp_path: Path) -> None:
    p: Probing = make(PeerSpec("app", str(tmp_path / "none")))
    p.check(type="udp", request=b"x")
    assert p.why() == "no such file or directory"
    q: Probing = make(PeerSpec("app", "/x" * 200))
    q.check(type="udp", request=b"x")
    assert q.why() == "af_unix path too long"


def test_a_unix_peer_that_reads_nothing_any_more_is_down(make: Make, tmp_path: Path) -> None:
    path = str(tmp_path / "full")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hung,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s,
    ):
        hung.bind(path)
        s.setblocking(False)
        s.connect(path)
        with suppress(BlockingIOError):
            while True:
                s.send(b"x")
        p: Probing = make(PeerSpec("app", path))
        p.check(type="udp", request=b"x")
        assert p.why() == "its queue of datagrams is full"
        assert not p.up()
