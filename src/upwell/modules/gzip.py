"""`gzip`, `gzip_static` and `gunzip`: which answers go out compressed, and which are unpacked for whom.

The compression itself is proxy/gzip.py's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.regex import compile_regex
from upwell.config.slots import choice, flag, media_types, once, read_number, size, words_of
from upwell.proxy.body_filters import Opener
from upwell.proxy.gzip import Compressing, Packed, Taking, compressing, gunzipping

_LEVELS = "http server location"
_PROXIED = ("off", "expired", "no-cache", "no-store", "private", "no_last_modified", "no_etag", "auth", "any")
_BEST = 9


@dataclass(frozen=True, slots=True)
class GzipSettings:
    """`types` None: all. `disable` holds expressions for the User-Agent, and None for the word "msie6"."""

    gzip: bool = False
    gunzip: bool = False
    static: str = "off"
    types: frozenset[bytes] | None = frozenset((b"text/html",))
    min_length: int = 20
    level: int = 1
    http_version: int = 11
    vary: bool = False
    proxied: frozenset[str] = frozenset(("off",))
    disable: tuple[re.Pattern[bytes] | None, ...] = ()


def compile_gzip(settings: GzipSettings) -> tuple[Opener | None, Opener | None]:
    """What unpacks answers first of all, and what compresses them last of all."""
    taking = _taking(settings)
    spec = Compressing(settings.types, settings.min_length, settings.level)
    return (
        gunzipping(taking) if settings.gunzip else None,
        compressing(spec, taking) if settings.gzip else None,
    )


def compile_packed(settings: GzipSettings) -> Packed | None:
    """Who gets the files that stand in gzip beside others; None: nobody."""
    return Packed(_taking(settings), settings.static == "always") if settings.static != "off" else None


def _taking(settings: GzipSettings) -> Taking:
    return Taking(
        settings.http_version,
        settings.proxied,
        tuple(one for one in settings.disable if one is not None),
        None in settings.disable,
        settings.vary,
    )


def _level(block: Block, directive: Directive) -> None:
    once(block, directive, GzipSettings, "level")
    level = read_number(directive)
    if not 1 <= level <= _BEST:
        raise directive.error(f"value must be between 1 and {_BEST}", 0)
    block.set(GzipSettings, "level", level)


def _disable(block: Block, directive: Directive) -> None:
    for index, text in enumerate(directive.args):
        if text == "msie6":
            block.append(GzipSettings, "disable", None)
            continue
        try:
            block.append(GzipSettings, "disable", compile_regex(text, caseless=True))
        except ValueError as error:
            raise directive.error(str(error), index) from None


MODULE = Module(
    "gzip",
    (
        command("gzip", f"{_LEVELS} if", 1, flag(GzipSettings, "gzip")),
        command("gunzip", _LEVELS, 1, flag(GzipSettings, "gunzip")),
        command(
            "gzip_static", _LEVELS, 1, choice(GzipSettings, "static", {"off": "off", "on": "on", "always": "always"})
        ),
        command("gzip_types", _LEVELS, (1, None), media_types(GzipSettings, "types")),
        command("gzip_min_length", _LEVELS, 1, size(GzipSettings, "min_length")),
        command("gzip_comp_level", _LEVELS, 1, _level),
        command("gzip_http_version", _LEVELS, 1, choice(GzipSettings, "http_version", {"1.0": 10, "1.1": 11})),
        command("gzip_vary", _LEVELS, 1, flag(GzipSettings, "vary")),
        command("gzip_proxied", _LEVELS, (1, None), words_of(GzipSettings, "proxied", _PROXIED)),
        command("gzip_disable", _LEVELS, (1, None), _disable),
    ),
    options=("http_gzip_module", "http_gunzip_module", "http_gzip_static_module"),
)
