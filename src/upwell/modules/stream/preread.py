"""`ssl_preread`: a session knows what a TLS client asks for before a peer is chosen (ngx_stream_ssl_preread_module)."""

from __future__ import annotations

from dataclasses import dataclass

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import flag, size, time

_LEVELS = "stream stream_server"


@dataclass(frozen=True, slots=True)
class PrereadSettings:
    """How much of what a client says at first is looked at, and how long (seconds, 0: no limit) that is awaited."""

    tls: bool = False
    size: int = 16_384
    timeout: float = 30.0


def _buffer_size(block: Block, directive: Directive) -> None:
    size(PrereadSettings, "size")(block, directive)
    if not block.own(PrereadSettings)["size"]:
        raise directive.error('"preread_buffer_size" directive invalid value', 0)


MODULE = Module(
    "stream_preread",
    (
        command("ssl_preread", _LEVELS, 1, flag(PrereadSettings, "tls")),
        command("preread_buffer_size", _LEVELS, 1, _buffer_size),
        command("preread_timeout", _LEVELS, 1, time(PrereadSettings, "timeout")),
    ),
    options=("stream_ssl_preread_module",),
)
