"""What systemd is told of this process (sd_notify(3)), where it asked to be. Knows a socket and a few words."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Mapping

_LONGEST_BUSY = 600  # seconds


class Service:
    """Says nothing where no NOTIFY_SOCKET is. `predecessor` is the master that this one takes over from, 0 for none:
    what was meant for it (the watchdog) is meant for this one then."""

    __slots__ = ("_address", "_next", "watchdog")

    def __init__(self, environment: Mapping[str, str], pid: int, predecessor: int = 0) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # "@" stands for the zero byte of an abstract name; other kinds (vsock) are for machines.
        self._address = "\0" + address[1:] if address.startswith("@") else address if address.startswith("/") else ""
        self._next = 0.0
        self.watchdog = 0.0
        """Seconds between two signs of life, half of what was asked for; 0: nobody waits for them."""
        meant = environment.get("WATCHDOG_PID")
        with contextlib.suppress(ValueError):
            if self._address and (meant is None or int(meant) in (pid, predecessor)):
                self.watchdog = max(int(environment.get("WATCHDOG_USEC", "0")), 0) / 2e6

    def __repr__(self) -> str:
        return f"<Service {self._address.replace(chr(0), '@') or 'of nobody'}>"

    @property
    def asked(self) -> bool:
        """Whether somebody wants to be told."""
        return bool(self._address)

    def tell(self, *lines: str) -> None:
        """Say these assignments, together. Nobody listens any more: nobody's problem."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(), self._address)

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Within, there may be no sign of life for long: names of a configuration are asked for, whose servers may be
        silent. Whoever is killed for that loses what serves."""
        if self.watchdog:
            self.tell(f"WATCHDOG_USEC={_LONGEST_BUSY * 1_000_000}")
        try:
            yield
        finally:
            if self.watchdog:
                self.tell(f"WATCHDOG_USEC={round(self.watchdog * 2e6)}")

    def alive(self, now: float) -> None:
        """Called at least every half `watchdog`: give a sign of life when one is due."""
        if self.watchdog and now >= self._next:
            self._next = now + self.watchdog
            self.tell("WATCHDOG=1")
