"""What is asked of a connection's socket beside its bytes: to reset at its end, and what the kernel knows of it.

Knows the socket options of Linux; not what they are asked for.
"""

from __future__ import annotations

import asyncio
import socket
import struct

_NO_LINGER = struct.pack("ii", 1, 0)
_TCP_INFO_SIZE = 104
RTT, RTT_VARIANCE, SEND_WINDOW, RECEIVE_SPACE = 68, 72, 80, 96
"""Offsets of 32-bit numbers in Linux's struct tcp_info."""


def reset_on_close(transport: asyncio.BaseTransport) -> None:
    """Have the connection end with RST instead of FIN, which frees the kernel's memory for it at once."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


def has_unread(transport: asyncio.BaseTransport) -> bool:
    """Whether bytes have come that nobody has read yet: closing now would answer them with RST."""
    sock = transport.get_extra_info("socket")
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except (AttributeError, OSError):
        return False


def tcp_info(transport: asyncio.BaseTransport, offset: int) -> int | None:
    """One number of TCP_INFO; None where there is none, or no connection any more."""
    sock = transport.get_extra_info("socket")
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    except (AttributeError, OSError):
        return None
    return int.from_bytes(info[offset : offset + 4], "little") if len(info) >= offset + 4 else None
