"""What becomes of a session: `proxy_pass` and what belongs to it (ngx_stream_proxy_module), `return`."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.slots import flag, number, once, size, time
from upwell.config.template import Template
from upwell.errors import ConfigError
from upwell.modules.address import format_address, parse_address
from upwell.modules.limit_rate import size_or_template
from upwell.modules.proxy_socket import bind
from upwell.modules.stream.server import StreamServerSettings
from upwell.modules.tls import PeerTlsSettings, close_peer_tls, close_server_tls, peer_commands, server_commands
from upwell.modules.upstream import find_upstream, implicit_upstream
from upwell.proxy.tls import ClientTls

_LEVELS = "stream stream_server"


@dataclass(frozen=True, slots=True)
class StreamPass:
    """Where sessions go: `upstream` is the name of its UpstreamSpec, `name` as it is written (and logged); with
    `template` only a session says it."""

    upstream: str
    name: str
    template: Template | None = None


@dataclass(frozen=True, slots=True)
class StreamProxySettings:
    """ngx_stream_proxy_module and ngx_stream_return_module. Times in seconds, 0: no limit; sizes in bytes.

    `responses` None: any number of datagrams; `requests` 0: likewise. `bind` None: the system chooses the address.
    Rates in bytes a second, of what is read of the client and of the peer.
    """

    pass_: StreamPass | None = field(default=None, metadata=LOCAL)
    returns: Template | None = field(default=None, metadata=LOCAL)
    connect_timeout: float = 60.0
    timeout: float = 600.0
    buffer_size: int = 16_384
    next_upstream: bool = True
    next_upstream_tries: int = 0
    next_upstream_timeout: float = 0.0
    half_close: bool = False
    protocol: bool = False
    requests: int = 0
    responses: int | None = None
    socket_keepalive: bool = False
    bind: Template | None = None
    upload_rate: Template | None = None
    download_rate: Template | None = None


def _proxy_pass(block: Block, directive: Directive) -> None:
    once(block, directive, StreamProxySettings, "pass_")
    text = directive.args[0]
    if "$" in text:
        block.set(StreamProxySettings, "pass_", StreamPass("", text, block.template(directive, 0)))
        return
    stream = block.section
    try:
        address = parse_address(text)
        known = find_upstream(stream, address.host) if address.host else None
        if known is not None:
            if address.port:
                raise directive.error(f'upstream "{text.rpartition(":")[0]}" may not have port {address.port}', 0)
            name, found = known.local, known.name
        elif address.path or address.port:
            # Which upstreams there are is known only at the end of the block.
            name = f"unix:{address.path}" if address.path else format_address(address.host, address.port)
            found = ""
        else:
            name, found = address.host, ""
    except ValueError as error:
        raise directive.error(f'{error} in upstream "{text}"', 0) from None
    block.set(StreamProxySettings, "pass_", StreamPass(found, name))
    block.set(_Place, "directive", directive)


@dataclass(frozen=True, slots=True)
class _Place:
    directive: Directive | None = field(default=None, metadata=LOCAL)


def _return(block: Block, directive: Directive) -> None:
    once(block, directive, StreamProxySettings, "returns")
    block.set(StreamProxySettings, "returns", block.template(directive, 0))


def _buffer_size(block: Block, directive: Directive) -> None:
    size(StreamProxySettings, "buffer_size")(block, directive)
    if not block.own(StreamProxySettings)["buffer_size"]:
        raise directive.error('"proxy_buffer_size" directive invalid value', 0)


def _close_stream(stream: Block) -> None:
    """Each server, now that all upstreams are known."""
    made: dict[ClientTls, ssl.SSLContext] = {}
    for server in stream.of("stream_server"):
        settings = server[StreamProxySettings]
        refused = stream.loading.refused
        try:
            if settings.pass_ is not None and not settings.pass_.upstream and settings.pass_.template is None:
                _find(stream, server, settings.pass_)
            elif (
                settings.pass_ is None
                and settings.returns is None
                and not any(place == server.position and name in _CONTENT for place, name in refused)
            ):
                raise ConfigError("no handler for server", server.position)
            if any(listen.tls for listen in server[StreamServerSettings].listens):
                close_server_tls(server, "STREAM")
            if server[PeerTlsSettings].on:
                close_peer_tls(server, made)
        except ConfigError as error:
            stream.loading.errors.append(error)


_CONTENT = ("proxy_pass", "return", "pass", "js_preread", "mqtt")


def _find(stream: Block, server: Block, target: StreamPass) -> None:
    directive = server[_Place].directive
    assert directive is not None
    text = directive.args[0]
    known = find_upstream(stream, target.name)
    if known is not None:
        server.set(StreamProxySettings, "pass_", StreamPass(known.name, known.local))
        return
    try:
        found = implicit_upstream(stream, target.name, parse_address(text), 0)
    except ValueError as error:
        raise directive.error(f'{error} in upstream "{text}"', 0) from None
    server.set(StreamProxySettings, "pass_", StreamPass(found, target.name))


_S = StreamProxySettings

MODULE = Module(
    "stream_proxy",
    (
        command("proxy_pass", "stream_server", 1, _proxy_pass),
        command("return", "stream_server", 1, _return),
        command("proxy_connect_timeout", _LEVELS, 1, time(_S, "connect_timeout")),
        command("proxy_timeout", _LEVELS, 1, time(_S, "timeout")),
        command("proxy_buffer_size", _LEVELS, 1, _buffer_size),
        command("proxy_next_upstream", _LEVELS, 1, flag(_S, "next_upstream")),
        command("proxy_next_upstream_tries", _LEVELS, 1, number(_S, "next_upstream_tries")),
        command("proxy_next_upstream_timeout", _LEVELS, 1, time(_S, "next_upstream_timeout")),
        command("proxy_half_close", _LEVELS, 1, flag(_S, "half_close")),
        command("proxy_protocol", _LEVELS, 1, flag(_S, "protocol")),
        command("proxy_requests", _LEVELS, 1, number(_S, "requests")),
        command("proxy_responses", _LEVELS, 1, number(_S, "responses")),
        command("proxy_upload_rate", _LEVELS, 1, size_or_template(_S, "upload_rate")),
        command("proxy_download_rate", _LEVELS, 1, size_or_template(_S, "download_rate")),
        command("proxy_socket_keepalive", _LEVELS, 1, flag(_S, "socket_keepalive")),
        command("proxy_bind", _LEVELS, (1, 2), bind(_S)),
        *server_commands(_LEVELS),
        *peer_commands(_LEVELS),
    ),
    {"stream": _close_stream},
    options=("stream_ssl_module",),
)
