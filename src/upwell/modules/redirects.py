"""`absolute_redirect`, `server_name_in_redirect`, `port_in_redirect`: what the server's own redirects look like."""

from __future__ import annotations

from dataclasses import dataclass

from upwell.config.command import Module, command
from upwell.config.model import Block
from upwell.config.slots import flag
from upwell.modules.server import ServerSettings
from upwell.proxy.absolute import USUAL, Redirects

_LEVELS = "http server location"


@dataclass(frozen=True, slots=True)
class RedirectsSettings:
    """ngx_http_core_module's flags."""

    absolute: bool = True
    server_name: bool = False
    port: bool = True


def compile_redirects(block: Block) -> Redirects:
    settings = block[RedirectsSettings]
    if settings == RedirectsSettings():
        return USUAL
    name = None
    if settings.server_name:
        names = block.around("server")[ServerSettings].names
        name = names[0].written.encode("utf-8", "surrogateescape") if names else b""
    return Redirects(settings.absolute, name, settings.port)


MODULE = Module(
    "redirects",
    (
        command("absolute_redirect", _LEVELS, 1, flag(RedirectsSettings, "absolute")),
        command("server_name_in_redirect", _LEVELS, 1, flag(RedirectsSettings, "server_name")),
        command("port_in_redirect", _LEVELS, 1, flag(RedirectsSettings, "port")),
    ),
)
