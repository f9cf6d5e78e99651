"""Listening sockets: which are needed, which are kept, and what is said when one cannot be had."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from upwell.contrib.processes import free_ports
from upwell.log import INFO, ErrorLog
from upwell.process.journal import Journal
from upwell.process.listeners import ListenError, Sockets, absorb, all_of, discard, of_worker, open_sockets
from upwell.proxy.listen import ListenSpec

NONE: Sockets = {}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    log = ErrorLog(str(tmp_path / "log"), INFO)
    log.open()
    yield Journal([log], echo=False)
    os.close(log.fd)


def said(journal: Journal) -> list[str]:
    """The lines without their date."""
    return [line.split("[", 1)[1] for line in Path(journal.destinations[0].path).read_text().splitlines()]


def port_of(sockets: Sockets) -> int:
    [held] = sockets.values()
    return int(held[0].getsockname()[1])


@pytest.mark.parametrize(
    ("listens", "bound"),
    [
        ([("127.0.0.1", 80), ("127.0.0.2", 80)], [("127.0.0.1", 80), ("127.0.0.2", 80)]),
        ([("127.0.0.1", 80), ("0.0.0.0", 80)], [("0.0.0.0", 80)]),
        ([("0.0.0.0", 80), ("127.0.0.1", 81)], [("0.0.0.0", 80), ("127.0.0.1", 81)]),
        ([("::", 80), ("127.0.0.1", 80), ("::1", 80)], [("::", 80), ("127.0.0.1", 80)]),
        ([("127.0.0.1", 80), ("127.0.0.1", 80)], [("127.0.0.1", 80)]),
        (["/tmp/80", ("0.0.0.0", 80)], ["/tmp/80", ("0.0.0.0", 80)]),
    ],
)
def test_a_wildcard_takes_in_the_addresses_of_its_port(
    listens: list[tuple[str, int] | str], bound: list[tuple[str, int] | str]
) -> None:
    assert [listen.address for listen in absorb(ListenSpec(address) for address in listens)] == bound


def test_reuseport_keeps_a_socket_of_its_own() -> None:
    own = ListenSpec(("127.0.0.1", 80), reuseport=True)
    assert own in absorb([ListenSpec(("0.0.0.0", 80)), own])


def test_options(journal: Journal) -> None:
    four, six = ListenSpec(("127.0.0.1", 0), backlog=7), ListenSpec(("::1", 0))
    sockets = open_sockets([four, six], 4, NONE, journal)
    try:
        assert [len(held) for held in sockets.values()] == [1, 1]
        assert sockets[four][0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert sockets[four][0].getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert not sockets[four][0].getblocking()
        assert sockets[six][0].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        assert of_worker(sockets, 3) == {four: sockets[four][0], six: sockets[six][0]}
    finally:
        discard(all_of([sockets]))
    with pytest.raises(OSError, match="Bad file descriptor"):
        sockets[four][0].getsockname()


def test_sockets_have_the_options_of_their_line_and_of_a_later_one(journal: Journal) -> None:
    given = ListenSpec(
        ("127.0.0.1", 0),
        rcvbuf=20_000,
        sndbuf=30_000,
        fastopen=5,
        deferred=True,
        keepalive=True,
        keepalive_times=(70, 0, 4),
    )
    sockets = open_sockets([given], 1, NONE, journal)
    (sock,) = sockets[given]

    def options() -> list[int]:
        of_socket = (socket.SO_RCVBUF, socket.SO_SNDBUF, socket.SO_KEEPALIVE)
        of_tcp = (socket.TCP_KEEPIDLE, socket.TCP_KEEPCNT, socket.TCP_FASTOPEN, socket.TCP_DEFER_ACCEPT)
        found = [sock.getsockopt(socket.SOL_SOCKET, option) for option in of_socket]
        return found + [bool(sock.getsockopt(socket.IPPROTO_TCP, option)) for option in of_tcp]

    try:
        # Linux gives room for twice as much, and counts deferral in its own steps.
        assert options() == [40_000, 60_000, 1, True, True, True, True]
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 70
        again = ListenSpec(("127.0.0.1", 0), keepalive=False, rcvbuf=25_000)
        assert open_sockets([again], 1, sockets, journal)[again] == (sock,)
        assert options()[:3] == [50_000, 60_000, 0]
        assert not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT)
    finally:
        discard(all_of([sockets]))


def test_an_option_that_a_socket_does_not_take_is_told_of(journal: Journal, tmp_path: Path) -> None:
    spec = ListenSpec(str(tmp_path / "s"), deferred=True)
    sockets = open_sockets([spec], 1, NONE, journal)
    discard(all_of([sockets]))
    [line] = said(journal)
    assert re.search(r"alert\] .*setsockopt\(TCP_DEFER_ACCEPT, 1\) for unix:.* failed \(\d+: .*\), ignored", line)


def test_reuseport_gives_each_worker_its_socket(journal: Journal) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spec = ListenSpec(("127.0.0.1", port), reuseport=True)
    first = open_sockets([spec], 2, NONE, journal)
    more = open_sockets([spec], 3, first, journal)
    try:
        assert len(first[spec]) == 2
        assert of_worker(first, 0) != of_worker(first, 1)
        assert more[spec][:2] == first[spec]
        assert len(more[spec]) == 3
    finally:
        discard(all_of([more]))


def test_reuseport_comes_and_goes_with_a_socket_that_stays(journal: Journal) -> None:
    [port] = free_ports(1)
    alone, shared = ListenSpec(("127.0.0.1", port)), ListenSpec(("127.0.0.1", port), reuseport=True)
    first = open_sockets([alone], 2, NONE, journal)
    more = open_sockets([shared], 2, first, journal)
    again = open_sockets([alone], 2, more, journal)
    try:
        assert len(more[shared]) == 2
        assert first[alone] == more[shared][:1] == again[alone]
    finally:
        discard(all_of([more]))
    assert said(journal) == []


def test_an_address_that_stays_keeps_its_socket(journal: Journal) -> None:
    first = open_sockets([ListenSpec(("127.0.0.1", 0))], 1, NONE, journal)
    again = open_sockets([ListenSpec(("127.0.0.1", 0), backlog=1000)], 1, first, journal)
    try:
        assert all_of([again]) == all_of([first]) == all_of([first, again])
    finally:
        discard(all_of([first]))


def test_in_use_is_said_of_every_address_and_tried_five_times(journal: Journal) -> None:
    taken = open_sockets([ListenSpec(("127.0.0.1", 0)), ListenSpec(("::1", 0))], 1, NONE, journal)
    pauses: list[float] = []
    try:
        specs = [ListenSpec(held[0].getsockname()[:2]) for held in taken.values()]
        free = ListenSpec(("127.0.0.3", 0))
        with pytest.raises(ListenError):
            open_sockets([specs[0], free, specs[1]], 1, NONE, journal, pauses.append)
    finally:
        discard(all_of([taken]))
    assert pauses == [0.5] * 5
    pid = os.getpid()
    one_try = [
        *(f"emerg] {pid}#{pid}: bind() to {spec.text} failed (98: Address already in use)" for spec in specs),
        f"notice] {pid}#{pid}: try again to bind() after 500ms",
    ]
    assert said(journal) == one_try * 5 + [f"emerg] {pid}#{pid}: still could not bind()"]


def test_an_address_that_becomes_free_is_taken(journal: Journal) -> None:
    taken = open_sockets([ListenSpec(("127.0.0.1", 0))], 1, NONE, journal)
    spec = ListenSpec(("127.0.0.1", port_of(taken)))
    sockets = open_sockets([spec], 1, NONE, journal, lambda _: discard(all_of([taken])))
    discard(all_of([sockets]))
    assert "still could not bind()" not in str(said(journal))


def test_any_other_error_ends_it_at_once(journal: Journal) -> None:
    with pytest.raises(ListenError):
        open_sockets([ListenSpec(("192.0.2.1", 80))], 1, NONE, journal, lambda _: pytest.fail("a second try"))
    assert "bind() to 192.0.2.1:80 failed (99: Cannot assign requested address)" in str(said(journal))


def test_a_test_lets_an_address_be_in_use(journal: Journal) -> None:
    taken = open_sockets([ListenSpec(("127.0.0.1", 0))], 1, NONE, journal)
    try:
        spec = ListenSpec(("127.0.0.1", port_of(taken)))
        assert open_sockets([spec], 1, NONE, journal, lambda _: pytest.fail("a second try"), test=True) == {}
        with pytest.raises(ListenError):
            open_sockets([ListenSpec(("192.0.2.1", 80))], 1, NONE, journal, test=True)
    finally:
        discard(all_of([taken]))


def test_unix_sockets(journal: Journal, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    spec = ListenSpec(path)
    first = open_sockets([spec], 1, NONE, journal)
    # Somebody listens: it is in use, and stays whole.
    with pytest.raises(ListenError):
        open_sockets([spec], 1, NONE, journal, lambda _: None)
    assert f"bind() to unix:{path} failed (98: Address already in use)" in str(said(journal))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    # Nobody listens any more, but the file is left: it is taken over.
    for sock in all_of([first]):
        sock.close()
    again = open_sockets([spec], 1, NONE, journal, lambda _: pytest.fail("a second try"))
    discard(all_of([again]))
    assert not os.path.exists(path)


def test_a_file_that_is_no_socket_is_left_alone(journal: Journal, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ListenError) as caught:
        open_sockets([ListenSpec(str(path))], 1, NONE, journal, lambda _: None)
    assert caught.value.__cause__ is None or getattr(caught.value.__cause__, "errno", 0) == errno.EADDRINUSE
    assert path.read_text() == "data"
