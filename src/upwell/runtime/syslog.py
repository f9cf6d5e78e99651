"""Access-log lines as datagrams to a syslog server (RFC 3164 as nginx writes it); what is not taken at once is lost."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from upwell.log import ERROR
from upwell.runtime.complaint import Complaint, failed

if TYPE_CHECKING:
    from upwell.log import ErrorLog
    from upwell.modules.syslog import Syslog

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class SyslogServer:
    """One syslog server of one worker; its socket is made at the first line, and anew after an error."""

    __slots__ = ("_complaint", "_header", "_second", "_server", "_socket", "_tail")

    def __init__(self, server: Syslog, log: ErrorLog) -> None:
        self._server = server
        self._socket: socket.socket | None = None
        self._second = 0
        self._header = b""
        host = f"{socket.gethostname().lower()} " if server.hostname else ""
        self._tail = f"{host}{server.tag}: "
        self._complaint = Complaint(f"syslog server {server.shown}")
        self._complaint.tell(log)

    def __repr__(self) -> str:
        return f"<SyslogServer {self._server.shown}>"

    @property
    def lost(self) -> int:
        """How many lines could not be sent."""
        return self._complaint.lost

    def write(self, line: bytes) -> None:
        """Send a line, which comes with its line end."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            t = time.localtime(now)
            stamp = f"{_MONTHS[t.tm_mon - 1]} {t.tm_mday:2d} {t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"
            self._header = f"<{self._server.priority}>{stamp} {self._tail}".encode()
        try:
            if self._socket is None:
                self._socket = self._connect()
            self._socket.send(self._header + line[:-1])
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                self.close()
            self._complaint.make(
                f"{failed('send()', 'to syslog', error)} while logging to syslog, server: {self._server.shown}",
                1,
                ERROR,
            )
        else:
            if self._complaint.lost:
                self._complaint.withdraw()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> socket.socket:
        address = self._server.address
        if isinstance(address, str):
            family = socket.AF_UNIX
        else:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        made = socket.socket(family, socket.SOCK_DGRAM)
        try:
            made.setblocking(False)
            made.connect(address)
        except OSError:
            made.close()
            raise
        return made
