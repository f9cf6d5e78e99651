"""One session of `stream` on sockets of this test: what comes at a moment that no peer could be made to choose."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from pathlib import Path

import pytest

from tests.system.talkers import trusting
from upwell.log import ErrorLog
from upwell.proxy.clock import Clock
from upwell.proxy.leaving import Departures
from upwell.proxy.session import Attempt, Front, SessionSpec
from upwell.proxy.splice import Pipes, TlsSide
from upwell.proxy.tcp_session import TcpSession
from upwell.proxy.timers import Timers
from upwell.proxy.transport import Poll

TLS = Path(__file__).parents[1] / "check" / "tls"


def _front(loop: asyncio.AbstractEventLoop, poll: Poll, timers: Timers) -> Front:
    log = ErrorLog("")
    spec = SessionSpec(None, "peer", log, proxy_protocol=True)
    local = ("127.0.0.1", 1)
    leaving, family = Departures(), int(socket.AF_UNIX)
    return Front(loop, poll, timers, Clock(), Pipes(), set(), leaving, log, spec, "x:1", family, local)


def test_a_peer_that_goes_before_it_is_told_of_the_client_ends_the_session() -> None:
    """It is connected, and gone when the line of the PROXY protocol is written; nobody is to wait for a time-out."""

    async def run() -> bytes:
        loop = asyncio.get_running_loop()
        poll, timers = Poll(loop), Timers(loop)
        front = _front(loop, poll, timers)
        client, served = socket.socketpair()
        to_peer, peer = socket.socketpair()
        for sock in (client, served, to_peer):
            sock.setblocking(False)
        session = TcpSession(front, served.detach(), "127.0.0.1", 2, front.local)
        front.sessions.add(session)
        session.attempts.append(Attempt("peer", loop.time()))
        session._sock = to_peer
        peer.close()
        try:
            session._connected(0)
            with client:
                return await asyncio.wait_for(loop.sock_recv(client, 10), 5)
        finally:
            session.cut()
            await asyncio.sleep(0)  # descriptors are closed at the end of a turn
            timers.close()
            poll.close()

    assert asyncio.run(run()) == b""


@pytest.mark.parametrize("waits", [True, False])
def test_tls_tells_of_an_end_only_where_nothing_was_thrown_away(waits: bool) -> None:
    """A client that does not take everything in time must not believe that it has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "good-test-only.pem", TLS / "leaf-test-only.key")
    client_context = trusting(TLS / "authority-test-only.pem")
    ends = socket.socketpair()
    told: list[object] = []

    def client() -> None:
        with client_context.wrap_socket(ends[1], server_hostname="app.test", suppress_ragged_eofs=False) as tls:
            try:
                told.append(tls.recv(10))
                told.append(tls.recv(10))
            except ssl.SSLEOFError:
                told.append("cut off")

    async def run() -> None:
        loop = asyncio.get_running_loop()
        poll, timers = Poll(loop), Timers(loop)
        front = _front(loop, poll, timers)
        tls = context.wrap_socket(ends[0], server_side=True)
        tls.setblocking(False)
        session = TcpSession(front, tls.fileno(), "127.0.0.1", 2, front.local)
        side = TlsSide(session, poll, tls, 16_384)
        assert side.put(b"some", False)
        if waits:
            side._pending = memoryview(b"more")
        side.part(False)
        await asyncio.to_thread(reading.join, 5)
        front.leaving.end()
        await asyncio.sleep(0)
        assert tls.fileno() < 0
        timers.close()
        poll.close()

    reading = threading.Thread(target=client)
    reading.start()
    asyncio.run(run())
    assert told == [b"some", "cut off" if waits else b""]
