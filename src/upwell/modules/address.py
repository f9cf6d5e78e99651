"""Addresses as nginx.conf writes them: `host:port`, `[::1]:80`, `unix:/path` (nginx: ngx_parse_url). No I/O here."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

_DIGITS = re.compile(r"[0-9]{1,9}")
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}")


@dataclass(frozen=True, slots=True)
class Address:
    """`host` as written, without brackets ("*" for any); `port` 0 if none was given; or a `path` for `unix:`.

    `uri` is what follows the host from the first "/", "?" or "#" (in `proxy_pass`), or "".
    """

    host: str
    port: int = 0
    path: str = ""
    uri: str = ""

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host


def parse_port(text: str) -> int:
    """1..65535. Raises ValueError."""
    if _DIGITS.fullmatch(text) is None or not 1 <= int(text) <= 65535:
        raise ValueError("invalid port")
    return int(text)


def parse_address(text: str, with_uri: bool = False) -> Address:
    """Split `text`. Raises ValueError with nginx's words ("no host", "invalid port", ...)."""
    if text[:5].lower() == "unix:":
        return _parse_unix(text[5:], with_uri)
    rest, uri = text, ""
    cut = re.search(r"[/?#]", text)
    if cut is not None:
        if not with_uri:
            raise ValueError("invalid host")
        rest, uri = text[: cut.start()], text[cut.start() :]
    if rest.startswith("["):
        host, closing, after = rest[1:].partition("]")
        if not closing or (after and not after.startswith(":")):
            raise ValueError("invalid host")
        number = parse_port(after[1:]) if after else 0
        if not host:
            raise ValueError("no host")
        if not _is_ipv6(host):
            raise ValueError("invalid IPv6 address")
        return Address(host, number, uri=uri)
    host, colon, port = rest.partition(":")
    number = parse_port(port) if colon else 0
    if not host:
        raise ValueError("no host")
    return Address(host, number, uri=uri)


def is_ip(host: str) -> bool:
    """Whether `host` is an address, not a name."""
    if _IPV4.fullmatch(host) is not None:
        return True
    if ":" not in host:
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def format_address(host: str, port: int) -> str:
    """nginx's text of an address: "127.0.0.1:80", "[::1]:80"."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_ipv6(host: str) -> bool:
    return ":" in host and "%" not in host and is_ip(host)


def _parse_unix(text: str, with_uri: bool) -> Address:
    path, _, uri = text.partition(":") if with_uri else (text, "", "")
    if not path:
        raise ValueError("no path in the unix domain socket")
    if len(path.encode("utf-8", "surrogateescape")) > 107:
        raise ValueError("too long path in the unix domain socket")
    return Address("", path=path, uri=uri)
