"""How connections to peers are made: `proxy_bind`, `proxy_socket_rcvbuf`, `proxy_socket_sndbuf`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from upwell.config.command import Module, Setter, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import once, size
from upwell.config.template import Template
from upwell.modules.address import is_ip, parse_address

_LEVELS = "http server location"


@dataclass(frozen=True, slots=True)
class ProxySocketSettings:
    """A part of ngx_http_proxy_module. `bind` None: the system chooses the address. Sizes in bytes, 0: the system's."""

    bind: Template | None = None
    rcvbuf: int = 0
    sndbuf: int = 0


def parse_near(text: str) -> tuple[str, int]:
    """An address of this machine and a port, 0 for any (nginx: ngx_parse_addr_port). Raises ValueError."""
    if ":" in text and is_ip(text):
        return text, 0  # IPv6 without brackets
    address = parse_address(text)
    if address.path or not is_ip(address.host):
        raise ValueError("invalid address")
    return address.host, address.port


def bind(settings: type[Any]) -> Setter:
    """The setter of `proxy_bind`, whose value goes to `bind` of `settings`: an address, None for `off`."""

    def put(block: Block, directive: Directive) -> None:
        once(block, directive, settings, "bind")
        text = directive.args[0]
        if len(directive.args) == 1 and text == "off":
            block.set(settings, "bind", None)
            return
        near = block.template(directive, 0)
        if near.literal is not None:
            try:
                parse_near(text)
            except ValueError:
                raise directive.error(f'invalid address "{text}"', 0) from None
        if len(directive.args) == 2:
            if directive.args[1] != "transparent":
                raise directive.error(f'invalid parameter "{directive.args[1]}"', 1)
            raise directive.error('the parameter "transparent" of "proxy_bind" is not supported by upwell', 1)
        block.set(settings, "bind", near)

    return put


MODULE = Module(
    "proxy_socket",
    (
        command("proxy_bind", _LEVELS, (1, 2), bind(ProxySocketSettings)),
        command("proxy_socket_rcvbuf", _LEVELS, 1, size(ProxySocketSettings, "rcvbuf")),
        command("proxy_socket_sndbuf", _LEVELS, 1, size(ProxySocketSettings, "sndbuf")),
    ),
)
