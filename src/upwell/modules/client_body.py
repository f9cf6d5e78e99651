"""Where a request's content goes that memory does not take: `client_body_temp_path`, `client_body_in_file_only`."""

from __future__ import annotations

import os
from dataclasses import dataclass

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import choice, once, read_levels
from upwell.modules.core import full_path
from upwell.proxy.body_file import BodyFolder

_LEVELS = "http server location"
_DEFAULT_PATH = "client_body_temp"  # from the prefix


@dataclass(frozen=True, slots=True)
class ClientBodySettings:
    """A part of ngx_http_core_module. `path` is a full one, "": none was given; `in_file_only` "off", "on", "clean"."""

    path: str = ""
    levels: tuple[int, ...] = ()
    in_file_only: str = "off"


def body_folder(settings: ClientBodySettings, prefix: str) -> BodyFolder:
    """The folder of one level. It has nginx's default only where files have a name, else it is the system's."""
    path = settings.path
    if not path and settings.in_file_only != "off":
        path = os.path.join(prefix, _DEFAULT_PATH)
    return BodyFolder(path, settings.levels, settings.in_file_only)


def _temp_path(block: Block, directive: Directive) -> None:
    once(block, directive, ClientBodySettings, "path")
    levels = read_levels(directive)
    block.set(ClientBodySettings, "path", full_path(block, directive.args[0]))
    block.set(ClientBodySettings, "levels", levels)


MODULE = Module(
    "client_body",
    (
        command("client_body_temp_path", _LEVELS, (1, 4), _temp_path),
        command(
            "client_body_in_file_only",
            _LEVELS,
            1,
            choice(ClientBodySettings, "in_file_only", {name: name for name in ("off", "on", "clean")}),
        ),
    ),
)
