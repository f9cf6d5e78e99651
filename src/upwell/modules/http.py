"""The `http` block and what it, servers and locations share: bodies, time-outs, keep-alive, content types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.slots import choice, flag, number, offset, once, read_seconds, read_time, size, text, time, words_of

_LEVELS = "http server location"
_BROWSERS = ("none", "msie6", "safari")

DEFAULT_TYPES: Mapping[str, str] = MappingProxyType({"html": "text/html", "gif": "image/gif", "jpg": "image/jpeg"})


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """ngx_http_core_module at http, server and location. Times in seconds, sizes in bytes; 0 for
    `client_max_body_size` switches the check off, 0 for `keepalive_timeout` switches keep-alive off.

    `types` is extension (lower case) to media type. `keepalive_header` is the second argument of `keepalive_timeout`,
    None: no Keep-Alive field. `lingering_close` is "off", "on" or "always"; `server_tokens` "on", "off" or "build".
    """

    default_type: str = "text/plain"
    types: Mapping[str, str] = field(default_factory=lambda: DEFAULT_TYPES)
    client_max_body_size: int = 1 << 20
    client_body_buffer_size: int = 16 << 10
    client_body_timeout: float = 60.0
    send_timeout: float = 60.0
    keepalive_timeout: float = 75.0
    keepalive_header: float | None = None
    keepalive_requests: int = 1000
    keepalive_time: float = 3600.0
    keepalive_min_timeout: float = 0.0
    keepalive_disable: frozenset[str] = frozenset(("msie6",))
    lingering_close: str = "on"
    lingering_time: float = 30.0
    lingering_timeout: float = 5.0
    reset_timedout_connection: bool = False
    server_tokens: str = "on"
    chunked_transfer_encoding: bool = True


@dataclass(frozen=True, slots=True)
class _Seen:
    http: bool = field(default=False, metadata=LOCAL)


def _http(block: Block, directive: Directive) -> None:
    outer = block.parent
    assert outer is not None
    once(outer, directive, _Seen, "http")
    outer.set(_Seen, "http", True)


def _types(block: Block, directive: Directive) -> None:
    own = block.own(HttpSettings)
    types = dict(own.get("types", {}))
    for entry in directive.children or ():
        if entry.children is not None:
            raise entry.error('unexpected "{"')
        for index, extension in enumerate(entry.args):
            known = types.get(extension.lower())
            if known is not None:
                block.loading.warnings.append(
                    entry.error(
                        f'duplicate extension "{extension}", content type: "{entry.name}", '
                        f'previous content type: "{known}"',
                        index,
                    )
                )
            types[extension.lower()] = entry.name
    block.set(HttpSettings, "types", MappingProxyType(types))


def _keepalive_timeout(block: Block, directive: Directive) -> None:
    once(block, directive, HttpSettings, "keepalive_timeout")
    block.set(HttpSettings, "keepalive_timeout", read_time(directive))
    header = read_seconds(directive, 1) if len(directive.args) == 2 else None
    block.set(HttpSettings, "keepalive_header", header)


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


MODULE = Module(
    "http",
    (
        command("http", "main", 0, _http, opens="http"),
        command("default_type", _LEVELS, 1, text(HttpSettings, "default_type")),
        command("types", _LEVELS, 0, _types, block=True),
        command("client_max_body_size", _LEVELS, 1, offset(HttpSettings, "client_max_body_size")),
        command("client_body_buffer_size", _LEVELS, 1, size(HttpSettings, "client_body_buffer_size")),
        command("client_body_timeout", _LEVELS, 1, time(HttpSettings, "client_body_timeout")),
        command("send_timeout", _LEVELS, 1, time(HttpSettings, "send_timeout")),
        command("keepalive_timeout", _LEVELS, (1, 2), _keepalive_timeout),
        command("keepalive_requests", _LEVELS, 1, number(HttpSettings, "keepalive_requests")),
        command("keepalive_time", _LEVELS, 1, time(HttpSettings, "keepalive_time")),
        command("keepalive_min_timeout", _LEVELS, 1, time(HttpSettings, "keepalive_min_timeout")),
        command("keepalive_disable", _LEVELS, (1, 2), words_of(HttpSettings, "keepalive_disable", _BROWSERS)),
        command("reset_timedout_connection", _LEVELS, 1, flag(HttpSettings, "reset_timedout_connection")),
        command("lingering_close", _LEVELS, 1, choice(HttpSettings, "lingering_close", _same("off", "on", "always"))),
        command("lingering_time", _LEVELS, 1, time(HttpSettings, "lingering_time")),
        command("lingering_timeout", _LEVELS, 1, time(HttpSettings, "lingering_timeout")),
        command("chunked_transfer_encoding", _LEVELS, 1, flag(HttpSettings, "chunked_transfer_encoding")),
        command("server_tokens", _LEVELS, 1, choice(HttpSettings, "server_tokens", _same("off", "on", "build"))),
    ),
)
