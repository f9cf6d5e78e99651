"""Content out of a file to a peer: one piece at a time, no faster than the peer takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from upwell.log import CRIT
from upwell.proxy.body_file import BodyFile

if TYPE_CHECKING:
    from upwell.proxy.upstream import UpstreamConnection


class FileSender:
    """Sends `file` from `at` on. The connection says when it may go on; others are served between two pieces."""

    __slots__ = ("_at", "_connection", "_file", "_scheduled")

    def __init__(self, connection: UpstreamConnection, file: BodyFile, at: int) -> None:
        self._connection = connection
        self._file = file
        self._at = at
        self._scheduled = False

    def __repr__(self) -> str:
        return f"<FileSender {self._at}/{self._file.size}>"

    def go_on(self) -> None:
        """Send the next piece when the loop comes round."""
        if not self._scheduled:
            self._scheduled = True
            self._connection.pool.loop.call_soon(self._send)

    def _send(self) -> None:
        self._scheduled = False
        connection = self._connection
        if not connection.takes_content:
            return  # it has ended, or says when it takes more
        try:
            piece = self._file.read(self._at)
        except OSError as error:
            if connection.exchange is not None:
                connection.exchange.log(CRIT, f'pread() "{self._file.path}" failed ({error})')
            connection.give_up("client request body cannot be read")
            return
        self._at += len(piece)
        connection.send_content(piece)
        if self._at >= self._file.size:
            connection.end_content()
        else:
            self.go_on()
