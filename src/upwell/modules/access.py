"""`allow` and `deny`: the rules as settings, and the handler that applies them to a client's address."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.log import ERROR
from upwell.modules.satisfy import PASSES
from upwell.proxy.real_ip import came_from

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_LEVELS = "http server location limit_except stream stream_server"
_FORBIDDEN = 403
_REMEMBERED = 4096

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class AccessRule:
    """One line. `network` None means every client (`all`), or with `unix` those of a unix-domain socket."""

    allow: bool
    network: Network | None = None
    unix: bool = False


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """ngx_http_access_module: the first rule that fits decides; without one that fits, the client may pass."""

    rules: tuple[AccessRule, ...] = ()


_LOCAL = AccessSettings(
    (
        AccessRule(True, ipaddress.ip_network("127.0.0.0/8")),
        AccessRule(True, ipaddress.ip_network("::1/128")),
        AccessRule(True, unix=True),
        AccessRule(False),
    )
)


def is_allowed(settings: AccessSettings, address: str) -> bool:
    """Whether the client at `address` ("127.0.0.1", "::1", "unix:") may pass."""
    return verdict(settings, address) is not False


def verdict(settings: AccessSettings, address: str) -> bool | None:
    """What the first rule says that fits; None if none does."""
    unix = address.startswith("unix:")
    for rule in settings.rules:
        if rule.network is None:
            if not rule.unix or unix:
                return rule.allow
        elif not unix and networks_have((rule.network,), address):
            return rule.allow
    return None


def networks_have(networks: tuple[Network, ...], address: str) -> bool:
    """Whether `address`, no unix-domain socket's, is of one of `networks`."""
    peer = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped is not None:
        # a client that came over IPv4 on a socket of both families is matched by the IPv4 rules (nginx)
        peer = peer.ipv4_mapped
    return any(peer.version == network.version and peer in network for network in networks)


def compile_access(settings: AccessSettings) -> Callable[[Exchange], int | None] | None:
    """The access handler for `settings`: None lets the request pass, 403 does not. None when there are no rules."""
    return _handler(settings, "access forbidden by rule") if settings.rules else None


def compile_gate(settings: AccessSettings) -> Callable[[Exchange], int | None] | None:
    """The same where it is one of several that may let the request in (`satisfy any`): PASSES, 403, or None where no
    rule fits.
    """
    if not settings.rules:
        return None
    decide = lru_cache(_REMEMBERED)(lambda address: verdict(settings, address))

    def gate(exchange: Exchange) -> int | None:
        allowed = decide(exchange.client.address)
        return None if allowed is None else PASSES if allowed else _FORBIDDEN

    return gate


def only_local(directive: str) -> Callable[[Exchange], int | None]:
    """The access handler of a page that tells of the inside, made by `directive` without a rule for who may see it."""
    why = f'"{directive}" without "allow" or "deny" is for local clients only, access forbidden'
    is_local = lru_cache(_REMEMBERED)(lambda address: is_allowed(_LOCAL, address))

    def access(exchange: Exchange) -> int | None:
        # Both: a local client does not come by way of a proxy elsewhere, whatever a field of that one says.
        if is_local(exchange.client.address) and is_local(came_from(exchange)[0]):
            return None
        exchange.log(ERROR, why)
        return _FORBIDDEN

    return access


def _handler(settings: AccessSettings, why: str) -> Callable[[Exchange], int | None]:
    decide = lru_cache(_REMEMBERED)(lambda address: is_allowed(settings, address))

    def access(exchange: Exchange) -> int | None:
        if decide(exchange.client.address):
            return None
        exchange.log(ERROR, why)
        return _FORBIDDEN

    return access


def _rule(block: Block, directive: Directive) -> None:
    allow = directive.name == "allow"
    text = directive.args[0]
    if text == "all":
        rule = AccessRule(allow)
    elif text == "unix:":
        rule = AccessRule(allow, unix=True)
    else:
        rule = AccessRule(allow, _network(block, directive, text))
    block.append(AccessSettings, "rules", rule)


def _network(block: Block, directive: Directive, text: str) -> Network:
    address, slash, bits = text.partition("/")
    try:
        if "%" in address or (slash and not (bits.isascii() and bits.isdigit())):
            raise ValueError(text)
        network = ipaddress.ip_network(text, strict=False)
        lowest = ipaddress.ip_address(address)
    except ValueError:
        raise directive.error(f'invalid parameter "{text}"', 0) from None
    if lowest != network.network_address:
        block.loading.warnings.append(directive.error(f"low address bits of {text} are meaningless", 0))
    return network


MODULE = Module(
    "access",
    (command("allow", _LEVELS, 1, _rule), command("deny", _LEVELS, 1, _rule)),
    options=("http_access_module",),
)
