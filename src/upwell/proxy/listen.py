"""What a listening socket is told to be; the processes open it, the runtime serves it."""

from __future__ import annotations

import socket
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ListenSpec:
    """One address of `listen` (nginx: ngx_http_core_module). `address` is (host, port) or the path of a unix socket.

    Two specs are the same socket when `address` is equal; `backlog` as for listen(2). `ipv6only` means nothing but
    for IPv6. `udp`: datagrams come to it, not connections. None, and 0 in `keepalive_times` (seconds before the first
    probe, between two, how many) leave to the system what it does.
    """

    address: tuple[str, int] | str
    backlog: int = 511
    reuseport: bool = False
    ipv6only: bool = True
    udp: bool = False
    rcvbuf: int | None = None
    sndbuf: int | None = None
    fastopen: int | None = None
    deferred: bool = False
    keepalive: bool | None = None
    keepalive_times: tuple[int, int, int] = (0, 0, 0)

    @property
    def family(self) -> socket.AddressFamily:
        if isinstance(self.address, str):
            return socket.AF_UNIX
        return socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET

    @property
    def text(self) -> str:
        """The address as nginx prints it: "0.0.0.0:80", "[::]:80", "unix:/run/s.sock"."""
        if isinstance(self.address, str):
            return f"unix:{self.address}"
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
