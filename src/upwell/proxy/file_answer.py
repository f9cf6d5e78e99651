"""A file's bytes to a client: small ones with the head, the others by sendfile or piece by piece, no faster than the
client takes them and with a round of the loop for the others between two pieces.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from upwell.log import ALERT, CRIT, printable
from upwell.proxy.transport import Transport

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_PIECE: Final = 65_536
_WAITING_PIECE: Final = 16_384  # what goes through memory while the socket takes no more
_MOST_AT_ONCE: Final = 524_288  # by sendfile, which reads a disk that may be slow
_USUAL_HELD: Final = 65_536


async def send_file(exchange: Exchange, path: bytes, fd: int, at: int, end: int) -> None:
    """Write what stands in the file from `at` to `end` as content. A file that has become shorter ends the connection,
    for the length was announced.
    """
    if exchange.header_only:
        return
    first = min(end - at, _PIECE)
    if not _copy(exchange, path, fd, at, first):
        return
    at += first
    if at >= end:
        return
    client = exchange.client
    transport: object = client.transport
    direct = isinstance(transport, Transport) and client.endpoint.tls is None and exchange.sends_as_it_is
    if direct:
        client.flush()
        client.hold(0)
    while at < end:
        await exchange.drained()
        sent = 0
        if direct and isinstance(transport, Transport):
            sent = transport.send_file(fd, at, min(end - at, _MOST_AT_ONCE))
        if sent:
            exchange.note_sent(sent)
        else:
            sent = min(end - at, _WAITING_PIECE if direct else _PIECE)
            if not _copy(exchange, path, fd, at, sent):
                return
        at += sent
        await exchange.sleep(0.0)
    if direct:
        client.hold(_USUAL_HELD)


def _copy(exchange: Exchange, path: bytes, fd: int, at: int, size: int) -> bool:
    """Write `size` bytes; false, and the answer cut off, if they are not there."""
    piece = b""
    try:
        while size:
            piece = os.pread(fd, size, at)
            if not piece:
                exchange.log(ALERT, f'"{printable(path)}" was truncated while it was sent')
                exchange.abort()
                return False
            exchange.write(piece)
            at += len(piece)
            size -= len(piece)
    except OSError as error:
        exchange.log(CRIT, f'pread() "{printable(path)}" failed ({error.errno}: {error.strerror})')
        exchange.abort()
        return False
    return True
