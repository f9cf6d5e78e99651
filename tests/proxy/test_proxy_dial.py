"""Connections that are made otherwise than by default, over real sockets: address, port, buffers, their failures."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from upwell.proxy.dial import Dial, NearError


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = uvloop.new_event_loop()
    yield loop
    loop.close()


class _Protocol(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_a_connection_has_the_buffers_that_were_asked_for(
    loop: asyncio.AbstractEventLoop, family: socket.AddressFamily, tmp_path: Path
) -> None:
    protocol = _Protocol()
    with socket.socket(family) as listener:
        listener.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "s"))
        listener.listen()
        dial = Dial(receive_buffer=16_384, send_buffer=32_768)
        loop.run_until_complete(dial.connect(loop, lambda: protocol, listener.getsockname()))
        assert protocol.transport is not None
        sock = protocol.transport.get_extra_info("socket")
        # Linux keeps twice what was asked for.
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * 16_384
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * 32_768
        accepted, _ = listener.accept()
        accepted.close()
        protocol.transport.close()
        loop.run_until_complete(asyncio.sleep(0))


@pytest.mark.parametrize("near", [("192.0.2.1", 0), ("::1", 0)])
def test_an_address_that_cannot_be_taken_is_told_apart(loop: asyncio.AbstractEventLoop, near: tuple[str, int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(NearError) as caught:
        loop.run_until_complete(Dial(near=near).connect(loop, _Protocol, listener.getsockname()))
    assert caught.value.filename == near[0]
    assert caught.value.errno == (errno.EADDRNOTAVAIL if near[0] == "192.0.2.1" else errno.EINVAL)


def test_a_peer_that_refuses_is_no_failure_of_the_address(loop: asyncio.AbstractEventLoop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with pytest.raises(ConnectionRefusedError):
        loop.run_until_complete(Dial(near=("127.0.0.3", 0)).connect(loop, _Protocol, address))
