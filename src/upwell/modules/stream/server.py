"""`stream`, its `server` and `listen`: where sessions come from. What becomes of them is in proxy.py beside this."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from upwell.config.command import Module, command, words
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.slots import once, time
from upwell.errors import ConfigError, Position
from upwell.modules.server import ServerSettings, listen_addresses, with_listen_parameter
from upwell.modules.upstream import UpstreamsSettings
from upwell.proxy.listen import ListenSpec

_UNSUPPORTED = words("multipath")
_TCP_ONLY = words("ssl proxy_protocol backlog fastopen deferred so_keepalive")


@dataclass(frozen=True, slots=True)
class StreamListen:
    """One address that a server listens on, and what is expected of those who come."""

    spec: ListenSpec
    tls: bool
    proxy_protocol: bool
    explicit: bool
    position: Position


@dataclass(frozen=True, slots=True)
class StreamServerSettings:
    """ngx_stream_core_module at stream and server. Times in seconds."""

    listens: tuple[StreamListen, ...] = field(default=(), metadata=LOCAL)
    proxy_protocol_timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class _Seen:
    stream: bool = field(default=False, metadata=LOCAL)


def _stream(block: Block, directive: Directive) -> None:
    outer = block.parent
    assert outer is not None
    once(outer, directive, _Seen, "stream")
    outer.set(_Seen, "stream", True)


def _server(block: Block, directive: Directive) -> None:
    """A server has nothing to set before its body is read."""


def _listen(block: Block, directive: Directive) -> None:
    addresses = listen_addresses(block, directive, 0)
    given = [parameter.partition("=")[0] for parameter in directive.args[1:]]
    udp = "udp" in given
    spec = ListenSpec(("", 0), udp=udp)
    explicit = False
    for index, parameter in enumerate(directive.args[1:], 1):
        name = parameter.partition("=")[0]
        if udp and name in _TCP_ONLY:
            raise directive.error(f'"listen" directive "{name}" parameter is incompatible with "udp"', index)
        if parameter in ("udp", "ssl", "proxy_protocol", "default_server"):
            continue  # an address has one server, which is its default
        explicit = True
        spec = with_listen_parameter(spec, directive, index, _UNSUPPORTED)
    for address in addresses:
        one = replace(spec, address=address)
        if udp and isinstance(address, str):
            raise directive.error('"listen" on a unix socket with "udp" is not supported by upwell', 0)
        if any((other.spec.address, other.spec.udp) == (address, udp) for other in block[StreamServerSettings].listens):
            raise directive.error(f"a duplicate listen {one.text}", 0)
        listen = StreamListen(one, "ssl" in given, "proxy_protocol" in given, explicit, directive.position)
        block.append(StreamServerSettings, "listens", listen)


def _close_server(block: Block) -> None:
    if not block[StreamServerSettings].listens and (block.position, "listen") not in block.loading.refused:
        raise ConfigError('no "listen" is defined for server', block.position)


def _close_stream(stream: Block) -> None:
    """Each address belongs to one server: which one is meant cannot be known of a session (SNI is not looked at)."""
    seen: dict[object, StreamListen] = {}
    for server in stream.of("stream_server"):
        for listen in server[StreamServerSettings].listens:
            known = seen.setdefault((listen.spec.address, listen.spec.udp), listen)
            if known is not listen:
                what = f"a second server for {listen.spec.text} in stream is not supported by upwell"
                stream.loading.errors.append(ConfigError(what, listen.position))


def _close_main(main: Block) -> None:
    """What http and stream may not both have."""
    http, stream = (next(main.of(kind), None) for kind in ("http", "stream"))
    if http is None or stream is None:
        return
    taken = {listen.spec.address for server in http.of("server") for listen in server[ServerSettings].listens}
    for server in stream.of("stream_server"):
        for listen in server[StreamServerSettings].listens:
            if not listen.spec.udp and listen.spec.address in taken:
                what = f"{listen.spec.text} is listened on by http and stream"
                main.loading.errors.append(ConfigError(what, listen.position))
    names = {spec.name for spec in http[UpstreamsSettings].specs}
    for spec in stream[UpstreamsSettings].specs:
        if spec.name in names:
            what = f'http has an upstream "{spec.name}", which is what upstream "{spec.local}" of stream is called'
            main.loading.errors.append(ConfigError(what, stream.position))


MODULE = Module(
    "stream",
    (
        command("stream", "main", 0, _stream, opens="stream"),
        command("server", "stream", 0, _server, opens="stream_server"),
        command("listen", "stream_server", (1, None), _listen),
        command(
            "proxy_protocol_timeout", "stream stream_server", 1, time(StreamServerSettings, "proxy_protocol_timeout")
        ),
    ),
    {"stream_server": _close_server, "stream": _close_stream, "main": _close_main},
    options=("stream",),
)
