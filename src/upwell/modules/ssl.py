"""TLS in front of HTTP: `listen ... ssl`, the `ssl_*` directives of servers (nginx: ngx_http_ssl_module)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.slots import flag, size
from upwell.errors import ConfigError
from upwell.modules.server import Listen, ServerSettings
from upwell.modules.tls import ServerTlsSettings, close_server_tls, server_commands

_LEVELS = "http server"
_OFFERED = frozenset(("ssl_ciphers", "ssl_curve", "ssl_curves"))
_ANY = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class SslSettings:
    """`buffer_size` is the most of an answer in one record, in bytes."""

    buffer_size: int = 16_384
    reject_handshake: bool = False
    addresses: frozenset[object] = field(default=frozenset(), metadata=LOCAL)
    """On http: where clients speak TLS."""
    keeps_hello: bool = False
    """On http: a variable tells what clients offer and what was chosen."""


def _buffer_size(block: Block, directive: Directive) -> None:
    size(SslSettings, "buffer_size")(block, directive)
    if not block[SslSettings].buffer_size:
        raise directive.error('"ssl_buffer_size" may not be 0', 0)


def _close_http(http: Block) -> None:
    """Make the context of each server on an address with TLS, and see that who names no server gets one."""
    servers: dict[object, list[tuple[Block, Listen]]] = {}
    for server in http.of("server"):
        for listen in server[ServerSettings].listens:
            servers.setdefault(listen.spec.address, []).append((server, listen))
    secured = {address: found for address, found in servers.items() if any(listen.ssl for _, listen in found)}
    if any(name in _OFFERED for name, _ in http.loading.uses):
        http.set(SslSettings, "keeps_hello", True)
    if secured:
        http.set(SslSettings, "addresses", frozenset(secured))
    errors = http.loading.errors
    for listen in _mixed(servers, secured):
        what = f"a wildcard and {listen.spec.text} on one port of which only one is ssl are not supported by upwell"
        errors.append(ConfigError(what, listen.position))
    made: set[int] = set()
    for found in secured.values():
        default = next((server for server, listen in found if listen.default_server), found[0][0])
        for server, _ in found:
            if id(server) in made:
                continue
            made.add(id(server))
            try:
                if server[SslSettings].reject_handshake and not server[ServerTlsSettings].certificates:
                    continue
                if server[ServerTlsSettings].certificates or server is default:
                    close_server_tls(server, "HTTP", ("http/1.1",))
                elif default[SslSettings].reject_handshake:
                    what = 'no "ssl_certificate" is defined in server listening on SSL port'
                    raise ConfigError(what, server.position)
            except ConfigError as error:
                errors.append(error)


def _mixed(
    servers: dict[object, list[tuple[Block, Listen]]], secured: dict[object, list[tuple[Block, Listen]]]
) -> Iterator[Listen]:
    """Addresses whose connections come by the socket of a wildcard that is not as they are."""
    for address, found in servers.items():
        if isinstance(address, tuple) and address[0] not in _ANY:
            for host in _ANY:
                wildcard = (host, address[1])
                same = (":" in host) == (":" in address[0])
                if same and wildcard in servers and (wildcard in secured) != (address in secured):
                    yield found[0][1]


MODULE = Module(
    "ssl",
    (
        *(one for one in server_commands(_LEVELS) if one.name != "ssl_handshake_timeout"),
        command("ssl_buffer_size", _LEVELS, 1, _buffer_size),
        command("ssl_reject_handshake", _LEVELS, 1, flag(SslSettings, "reject_handshake")),
    ),
    {"http": _close_http},
    options=("http_ssl_module",),
)
