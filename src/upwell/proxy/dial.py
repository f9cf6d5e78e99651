"""Connections to peers that are made otherwise than by default: from a chosen address, with chosen buffers.

Knows sockets; which address a request is to come from is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from upwell.log import printable
from upwell.proxy.tls import peer_trouble

# Linux: the port is chosen at connect(), when it is known to whom, so that two connections may share one.
_FAREWELL: Final = 5.0  # seconds that a peer has to answer TLS's farewell
_BIND_ADDRESS_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)


class HandshakeError(OSError):
    """The peer was reached, and TLS with it failed; the text is nginx's."""


class NameFault(OSError):
    """TLS cannot be spoken with the name that was asked for, whoever the peer is; the text is for the log."""


class NearError(OSError):
    """The near address, in `filename`, could not be taken: a fault of the configuration, not of the peer."""


@dataclass(frozen=True, slots=True)
class DialTls:
    """`name` is what the peer's certificate must be for where the context checks that; with `tells` the peer is told
    it (SNI)."""

    context: ssl.SSLContext
    name: str
    tells: bool

    async def begin(
        self, loop: asyncio.AbstractEventLoop, make: Callable[[], asyncio.BaseProtocol], sock: socket.socket
    ) -> None:
        """TLS on the connected `sock`; the protocol is told by its callback. Raises HandshakeError, NameFault."""
        self._check_name()
        told = self.name if self.tells or self.context.check_hostname else ""
        try:
            await loop.create_connection(
                make, sock=sock, ssl=self.context, server_hostname=told, ssl_shutdown_timeout=_FAREWELL
            )
        except (OSError, ValueError) as error:
            raise HandshakeError(peer_trouble(error)) from error

    def _check_name(self) -> None:
        """Raises NameFault. Clients may have a say in the name ($host): no peer is to be blamed for it."""
        if not self.name:
            if self.context.check_hostname:  # of which Python's SSLObject makes nothing: any name would do
                raise NameFault("upstream SSL certificate cannot be verified for an empty name")
            return
        try:
            fit = not self.name.startswith(".") and bool(self.name.encode("idna"))
        except UnicodeError:
            fit = False
        if not fit:
            raise NameFault(f'invalid upstream SSL name "{printable(self.name.encode("latin-1", "replace"))}"')


@dataclass(frozen=True, slots=True)
class Dial:
    """`near` is the address (and port, 0: any) that connections come from (nginx: proxy_bind), None: the system's
    choice; the buffers are the kernel's, in bytes, 0: its default (proxy_socket_rcvbuf, proxy_socket_sndbuf). With
    `tls` that is spoken on the connection.
    """

    near: tuple[str, int] | None = None
    receive_buffer: int = 0
    send_buffer: int = 0
    tls: DialTls | None = None

    async def connect(
        self,
        loop: asyncio.AbstractEventLoop,
        make: Callable[[], asyncio.BaseProtocol],
        address: tuple[str, int] | str,
    ) -> None:
        """Connect to `address`; the protocol is told by its callback. Raises OSError, NearError among them."""
        if isinstance(address, str):
            family = socket.AF_UNIX
        else:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if self.receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
            if self.send_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.send_buffer)
            if self.near is not None:
                _bind(sock, family, self.near)
            await loop.sock_connect(sock, address)
            if self.tls is not None:
                await self.tls.begin(loop, make, sock)
            elif family == socket.AF_UNIX:
                await loop.create_unix_connection(make, sock=sock)
            else:
                await loop.create_connection(make, sock=sock)
        except BaseException:
            sock.close()
            raise


def _bind(sock: socket.socket, family: socket.AddressFamily, near: tuple[str, int]) -> None:
    """Raises NearError."""
    host, port = near
    try:
        if family != (socket.AF_INET6 if ":" in host else socket.AF_INET):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if port == 0:
            sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        else:
            # nginx does not, and cannot connect again while the last connection from the port is in TIME_WAIT
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(near)
    except OSError as error:
        raise NearError(error.errno, error.strerror, f"{host}:{port}" if port else host) from error
