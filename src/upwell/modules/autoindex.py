"""`autoindex` and its family: a folder without an index shows what is in it."""

from __future__ import annotations

from dataclasses import dataclass

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import choice, flag
from upwell.proxy.autoindex import HTML, JSON, XML, Listing

_LEVELS = "http server location"


@dataclass(frozen=True, slots=True)
class AutoindexSettings:
    """ngx_http_autoindex_module; `form` is a constant of proxy/autoindex.py."""

    on: bool = False
    form: str = HTML
    exact_size: bool = True
    localtime: bool = False


def compile_listing(settings: AutoindexSettings) -> Listing | None:
    return Listing(settings.form, settings.exact_size, settings.localtime) if settings.on else None


_set_form = choice(AutoindexSettings, "form", {form: form for form in (HTML, JSON, XML)})


def _format(block: Block, directive: Directive) -> None:
    if directive.args[0].lower() == "jsonp":
        raise directive.error('"autoindex_format jsonp" is not supported by upwell', 0)
    _set_form(block, directive)


MODULE = Module(
    "autoindex",
    (
        command("autoindex", _LEVELS, 1, flag(AutoindexSettings, "on")),
        command("autoindex_format", _LEVELS, 1, _format),
        command("autoindex_exact_size", _LEVELS, 1, flag(AutoindexSettings, "exact_size")),
        command("autoindex_localtime", _LEVELS, 1, flag(AutoindexSettings, "localtime")),
    ),
    options=("http_autoindex_module",),
)
