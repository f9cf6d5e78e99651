"""What the set tells of a peer's connection once only: nothing that has come may be left unread behind it. And which
segments are spared.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.system.talkers import reset
from upwell.log import ErrorLog
from upwell.peers.peer import PeerSpec, UpstreamSpec, peer_keys
from upwell.peers.upstream import Upstream
from upwell.proxy.clock import Clock
from upwell.proxy.leaving import Departures
from upwell.proxy.session import Front, SessionSpec
from upwell.proxy.splice import Pipes, Side
from upwell.proxy.tcp_session import TcpSession, accepted
from upwell.proxy.timers import Timers
from upwell.proxy.transport import Poll
from upwell.zone.table import PeerTable

_BUFFER = 16_384
Told = Callable[[socket.socket, socket.socket, TcpSession], Awaitable[None]]


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        return client, listening.accept()[0]


def _session(
    told: Told,
    path: Path | None = None,
    pair: Callable[[], tuple[socket.socket, socket.socket]] = socket.socketpair,
    accepts: bool = True,
    half_close: bool = False,
) -> None:
    """Call `told` with a client, the peer and their session, which has begun to connect and knows nothing of it yet;
    with `path` the peer listens there. `pair` makes the client's connection. Without `accepts` what listens is given
    in the peer's place.
    """

    async def run() -> None:
        loop = asyncio.get_running_loop()
        poll, timers = Poll(loop), Timers(loop)
        log = ErrorLog("")
        family = socket.AF_INET if path is None else socket.AF_UNIX
        with socket.create_server(("127.0.0.1", 0) if path is None else str(path), family=family) as listening:
            client, served = pair()
            client.setblocking(False)
            served.setblocking(False)
            served.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)  # nothing has to wait for the client
            address = listening.getsockname()
            spec = UpstreamSpec("u", (PeerSpec("peer", address),))
            upstream = Upstream(spec, PeerTable.create(peer_keys(spec), 1))
            front = Front(
                loop,
                poll,
                timers,
                Clock(),
                Pipes(),
                set(),
                Departures(),
                log,
                SessionSpec(upstream, "u", log, half_close=half_close, buffer_size=_BUFFER),
                "x:1",
                int(served.family),
                ("127.0.0.1", 1),
            )
            accepted(front, served.detach(), ("127.0.0.1", 2))
            (session,) = front.sessions
            assert isinstance(session, TcpSession)
            peer = listening.accept()[0] if accepts else listening
            peer.setblocking(False)
            with client, peer:
                try:
                    await asyncio.wait_for(told(client, peer, session), 5)
                finally:
                    session.cut()
                    front.leaving.end()
                    await asyncio.sleep(0)  # descriptors are closed at the end of a turn
                    timers.close()
                    poll.close()

    asyncio.run(run())


async def _receive(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        more = await loop.sock_recv(sock, size)
        if not more:
            break
        data += more
    return data


async def _once(condition: Callable[[], bool]) -> None:
    """Turn the loop until then."""
    loop = asyncio.get_running_loop()
    met = loop.create_future()

    def look() -> None:
        if condition():
            met.set_result(None)
        else:
            loop.call_soon(look)

    look()
    await met


async def _say_urgently(client: socket.socket, peer: socket.socket) -> None:
    peer.send(b"1")
    assert await _receive(client, 1) == b"1"
    peer.send(b"abc")
    peer.send(b"!", socket.MSG_OOB)
    peer.send(b"def")


def test_a_peer_that_speaks_first_is_heard_where_one_event_tells_of_both() -> None:
    async def told(client: socket.socket, peer: socket.socket, session: TcpSession) -> None:
        peer.send(b"hello")
        assert await _receive(client, 5) == b"hello"

    _session(told)


def test_an_end_that_comes_with_the_first_bytes_is_an_end() -> None:
    async def told(client: socket.socket, peer: socket.socket, session: TcpSession) -> None:
        peer.send(b"hello")
        peer.close()
        assert await _receive(client, 6) == b"hello"  # six are awaited, and the end comes
        assert session.over

    _session(told)


def test_what_follows_an_urgent_byte_is_not_left_behind() -> None:
    """A read ends before such a byte, although more has come."""

    async def told(client: socket.socket, peer: socket.socket, session: TcpSession) -> None:
        await _say_urgently(client, peer)
        assert await _receive(client, 6) == b"abcdef"
        peer.send(b"more")
        assert await _receive(client, 4) == b"more"

    _session(told)


def test_what_follows_an_urgent_byte_comes_before_the_end() -> None:
    async def told(client: socket.socket, peer: socket.socket, session: TcpSession) -> None:
        await _say_urgently(client, peer)
        peer.close()
        assert await _receive(client, 7) == b"abcdef"  # and the end

    _session(told)


def test_where_a_unix_peer_ends_is_told_by_a_read_of_its_own(tmp_path: Path) -> None:
    """A read ends behind a descriptor that was passed, although more has come."""

    async def told(client: socket.socket, peer: socket.socket, session: TcpSession) -> None:
        peer.send(b"1")
        assert await _receive(client, 1) == b"1"
        socket.send_fds(peer, [b"abc"], [peer.fileno()])
        peer.send(b"def")
        peer.shutdown(socket.SHUT_WR)
        assert await _receive(client, 7) == b"abcdef"  # and the end

    _session(told, tmp_path / "peer")


def test_more_than_is_read_in_one_turn_comes_without_another_event() -> None:
    async def told(client: socket.socket, peer: socket.socket, session: TcpSession) -> None:
        peer.send(b"1")
        assert await _receive(client, 1) == b"1"
        far = session._far
        assert far is not None
        far.as_socket().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 200_000)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
        data = bytes(range(256)) * 700  # four reads are of 16, 16, 64 and 64 KB
        assert peer.send(data) == len(data)
        assert await _receive(client, len(data)) == data

    _session(told)


def test_tcp_is_told_not_to_wait_before_the_second_write() -> None:
    async def told(client: socket.socket, peer: socket.socket, session: TcpSession) -> None:
        def prompt() -> int:
            far: Side | None = session._far
            assert far is not None
            return far.as_socket().getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

        client.send(b"one")
        assert await _receive(peer, 3) == b"one"
        assert not prompt()
        client.send(b"two")
        assert await _receive(peer, 3) == b"two"
        assert prompt()

    _session(told)


def _segments(sock: socket.socket) -> int:
    """How many have come (tcpi_segs_in)."""
    return int(struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144), 140)[0])


def test_the_first_bytes_are_what_confirms_the_connection_to_a_peer() -> None:
    async def told(client: socket.socket, listening: socket.socket, session: TcpSession) -> None:
        client.send(b"hello")
        peer, _ = await asyncio.get_running_loop().sock_accept(listening)
        with peer:
            assert await _receive(peer, 5) == b"hello"
            assert _segments(peer) == 2  # the SYN and these

    _session(told, accepts=False)


def test_a_peer_that_is_to_speak_first_need_not_wait_for_that() -> None:
    async def told(client: socket.socket, listening: socket.socket, session: TcpSession) -> None:
        with pytest.raises(BlockingIOError):
            listening.accept()
        await _once(lambda: session.passing)
        peer, _ = listening.accept()
        with peer:
            peer.send(b"hello")
            assert await _receive(client, 5) == b"hello"

    _session(told, accepts=False)


def test_the_last_bytes_and_the_end_share_a_segment() -> None:
    async def told(client: socket.socket, peer: socket.socket, session: TcpSession) -> None:
        client.send(b"1")
        assert await _receive(peer, 1) == b"1"
        before = _segments(client)
        peer.send(b"hello")
        peer.close()
        assert await _receive(client, 6) == b"hello"  # and the end
        assert _segments(client) == before + 1

    _session(told, pair=_tcp_pair)


def test_what_a_client_says_behind_the_end_costs_it_no_byte_of_the_answer() -> None:
    """close() with something unread would be a RST, at which the client forgets what it has not read yet."""

    async def told(client: socket.socket, peer: socket.socket, session: TcpSession) -> None:
        client.send(b"1")
        assert await _receive(peer, 1) == b"1"
        peer.send(b"hello")
        peer.close()
        await _once(lambda: session.over)
        for _ in range(3):
            client.send(b"more")
            await asyncio.sleep(0)
        assert await _receive(client, 6) == b"hello"

    _session(told, pair=_tcp_pair)


@pytest.mark.parametrize("half_close", [False, True])
def test_a_reset_that_writing_meets_first_is_none_the_less_one(half_close: bool) -> None:
    """The kernel tells of it once; to whoever reads behind that it looks like an end."""

    async def told(client: socket.socket, peer: socket.socket, session: TcpSession) -> None:
        client.send(b"1")
        assert await _receive(peer, 1) == b"1"
        client.send(b"2")  # is looked at before the peer, which has gone by then
        reset(peer)
        with pytest.raises(ConnectionResetError):
            await _receive(client, 1)

    _session(told, pair=_tcp_pair, half_close=half_close)


def test_a_client_that_has_gone_is_not_waited_for_where_each_way_ends_by_itself() -> None:
    """A client that takes nothing any more and has said its last: there is nothing to be done for the peer either."""

    async def told(client: socket.socket, peer: socket.socket, session: TcpSession) -> None:
        client.send(b"1")
        assert await _receive(peer, 1) == b"1"
        peer.send(b"x" * 3 * _BUFFER)  # two writes: the first meets a closed connection, the second its RST
        client.send(b"2")
        client.close()
        await _once(lambda: session.over)
        assert await _receive(peer, 1) == b"2"

    _session(told, pair=_tcp_pair, half_close=True)


def test_a_session_whose_connections_are_both_gone_is_over() -> None:
    """Neither is read any more, since nothing can be sent to the other."""

    async def told(client: socket.socket, peer: socket.socket, session: TcpSession) -> None:
        client.send(b"1")
        assert await _receive(peer, 1) == b"1"
        near, far = session._client, session._far
        assert near is not None
        assert far is not None
        while not far.waits:
            with contextlib.suppress(BlockingIOError):
                client.send(b"x" * _BUFFER)
            await asyncio.sleep(0)
        peer.send(b"2")
        reset(client)
        await _once(lambda: near.deaf)
        reset(peer)
        await _once(lambda: session.over)

    _session(told, pair=_tcp_pair)


def _full(number: int, events: int) -> None:
    raise OSError(errno.ENOSPC, "fs.epoll.max_user_watches")


def test_a_session_that_the_set_has_no_room_for_is_over() -> None:
    async def told(client: socket.socket, peer: socket.socket, session: TcpSession) -> None:
        session.front.poll._register = _full
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        assert await _receive(client, 1) == b""
        assert await _receive(peer, 1) == b""

    _session(told)


def test_both_connections_are_closed_where_the_set_has_no_room_for_them_at_the_end() -> None:
    async def told(client: socket.socket, peer: socket.socket, session: TcpSession) -> None:
        client.send(b"1")
        assert await _receive(peer, 1) == b"1"
        side = session._client
        assert side is not None
        side.hold()
        peer.send(b"x" * 300_000)
        await _once(lambda: side.sent > 0)
        session.front.poll._epoll.register(side.fd, 0)  # once more is refused, too
        session.cut()
        assert not session.front.leaving.ones
        with contextlib.suppress(ConnectionResetError):
            assert await _receive(client, 1) == b"x"
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(side.fd)

    def slow() -> tuple[socket.socket, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(listening.getsockname())
            return client, listening.accept()[0]

    _session(told, pair=slow)
