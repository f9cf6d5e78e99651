"""Host names at load time, through the system's resolver. The only place of the configuration that asks the network."""

from __future__ import annotations

import socket


def resolve_host(host: str) -> list[str]:
    """The addresses of `host`: IPv4 first, then IPv6, each once (nginx: ngx_inet_resolve_host). Raises OSError."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except UnicodeError as error:
        raise OSError(str(error)) from error
    by_family: dict[int, list[str]] = {socket.AF_INET: [], socket.AF_INET6: []}
    for family, _, _, _, address in found:
        host_text = str(address[0])
        if family in by_family and host_text not in by_family[family]:
            by_family[family].append(host_text)
    return by_family[socket.AF_INET] + by_family[socket.AF_INET6]
