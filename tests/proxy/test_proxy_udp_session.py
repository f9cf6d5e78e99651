"""Datagrams at a listener of this test: what nobody can make happen from outside."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from upwell.log import ErrorLog
from upwell.proxy.clock import Clock
from upwell.proxy.leaving import Departures
from upwell.proxy.session import Front, Session, SessionSpec
from upwell.proxy.splice import Pipes
from upwell.proxy.timers import Timers
from upwell.proxy.transport import Poll
from upwell.proxy.udp_session import UdpListener


def test_a_fault_at_the_beginning_is_told_and_leaves_nothing_behind() -> None:
    def fail(address: str) -> bool:
        raise RuntimeError(address)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        loop.set_exception_handler(lambda _, context: told.put_nowait(context))
        poll, timers = Poll(loop), Timers(loop)
        log = ErrorLog("")
        spec = SessionSpec(None, "peer", log, allowed=fail)
        sessions: set[Session] = set()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            sock.bind(("127.0.0.1", 0))
            local = sock.getsockname()
            leaving, family = Departures(), int(sock.family)
            front = Front(loop, poll, timers, Clock(), Pipes(), sessions, leaving, log, spec, "x:1", family, local)
            listener = UdpListener(poll, sock, front, log)
            client.sendto(b"x", local)
            context = await asyncio.wait_for(told.get(), 5)
            assert str(context["exception"]) == "127.0.0.1"
            assert not sessions
            listener.close()
        timers.close()
        poll.close()

    asyncio.run(run())
