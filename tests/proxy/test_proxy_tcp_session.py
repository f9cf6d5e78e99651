"""One session of `stream` on sockets of this test: what comes at a moment that no peer could be made to choose."""

from __future__ import annotations

import asyncio
import socket

from upwell.log import ErrorLog
from upwell.proxy.clock import Clock
from upwell.proxy.session import Attempt, Front, SessionSpec
from upwell.proxy.splice import Pipes
from upwell.proxy.tcp_session import TcpSession
from upwell.proxy.timers import Timers
from upwell.proxy.transport import Poll


def test_a_peer_that_goes_before_it_is_told_of_the_client_ends_the_session() -> None:
    """It is connected, and gone when the line of the PROXY protocol is written; nobody is to wait for a time-out."""

    async def run() -> bytes:
        loop = asyncio.get_running_loop()
        poll, timers = Poll(loop), Timers(loop)
        log = ErrorLog("")
        spec = SessionSpec(None, "peer", log, proxy_protocol=True)
        local = ("127.0.0.1", 1)
        front = Front(
            loop, poll, timers, Clock(), Pipes(), set(), {}, log, spec, "127.0.0.1:1", int(socket.AF_UNIX), local
        )
        client, served = socket.socketpair()
        to_peer, peer = socket.socketpair()
        for sock in (client, served, to_peer):
            sock.setblocking(False)
        session = TcpSession(front, served.detach(), "127.0.0.1", 2, local)
        front.sessions.add(session)
        session.attempts.append(Attempt("peer", loop.time()))
        session._sock = to_peer
        peer.close()
        try:
            session._connected()
            with client:
                return await asyncio.wait_for(loop.sock_recv(client, 10), 5)
        finally:
            session.cut()
            await asyncio.sleep(0)  # descriptors are closed at the end of a turn
            timers.close()
            poll.close()

    assert asyncio.run(run()) == b""
