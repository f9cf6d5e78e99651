"""`set_real_ip_from`, `real_ip_header`, `real_ip_recursive`: whose word on a client's address is taken.

How the address is found in it is proxy/real_ip.py's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import flag, text
from upwell.modules.access import Network, networks_have
from upwell.proxy.real_ip import taking

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_LEVELS = "http server location"
_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class RealIpSettings:
    """ngx_http_realip_module. `networks` and, with `unix`, whoever comes by a unix-domain socket are believed."""

    networks: tuple[Network | None, ...] = ()
    """None stands for unix-domain sockets."""
    header: str = "X-Real-IP"
    recursive: bool = False


def compile_real_ip(settings: RealIpSettings) -> Callable[[Exchange], None] | None:
    """The handler that changes a request's address; None where nobody is believed."""
    if not settings.networks:
        return None
    unix = None in settings.networks
    networks = tuple(network for network in settings.networks if network is not None)

    def is_trusted(address: str) -> bool:
        return unix if address.startswith("unix:") else networks_have(networks, address)

    return taking(lru_cache(_REMEMBERED)(is_trusted), settings.header, settings.recursive)


def _from(block: Block, directive: Directive) -> None:
    written = directive.args[0]
    if written == "unix:":
        block.append(RealIpSettings, "networks", None)
        return
    address, _, bits = written.partition("/")
    try:
        if "%" in written or (bits and not bits.isdigit()):
            raise ValueError(written)
        network = ipaddress.ip_network(written, strict=False)
        if ipaddress.ip_address(address) != network.network_address:
            block.loading.warnings.append(directive.error(f"low address bits of {written} are meaningless", 0))
        block.append(RealIpSettings, "networks", network)
        return
    except ValueError:
        pass  # a name, then
    try:
        found = block.loading.resolve(written) if written and "/" not in written else []
    except OSError:
        found = []
    if not found:
        raise directive.error(f'host not found in set_real_ip_from "{written}"', 0)
    for one in found:
        block.append(RealIpSettings, "networks", ipaddress.ip_network(one))


MODULE = Module(
    "real_ip",
    (
        command("set_real_ip_from", _LEVELS, 1, _from),
        command("real_ip_header", _LEVELS, 1, text(RealIpSettings, "header")),
        command("real_ip_recursive", _LEVELS, 1, flag(RealIpSettings, "recursive")),
    ),
    options=("http_realip_module",),
)
