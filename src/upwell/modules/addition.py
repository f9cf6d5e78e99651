"""`add_before_body`, `add_after_body` and `addition_types`: what is sent around answers. How is proxy/addition.py's."""

from __future__ import annotations

from dataclasses import dataclass

from upwell.config.command import Module, command
from upwell.config.slots import media_types, text
from upwell.proxy.addition import Adding, surrounding
from upwell.proxy.body_filters import Opener

_LEVELS = "http server location"


@dataclass(frozen=True, slots=True)
class AdditionSettings:
    """URIs, "" for nothing. `types` None: all."""

    before: str = ""
    after: str = ""
    types: frozenset[bytes] | None = frozenset((b"text/html",))


def compile_addition(settings: AdditionSettings) -> Opener | None:
    """None where nothing is added."""
    before, after = (one.encode("utf-8", "surrogateescape") for one in (settings.before, settings.after))
    return surrounding(Adding(before, after, settings.types)) if before or after else None


MODULE = Module(
    "addition",
    (
        command("add_before_body", _LEVELS, 1, text(AdditionSettings, "before")),
        command("add_after_body", _LEVELS, 1, text(AdditionSettings, "after")),
        command("addition_types", _LEVELS, (1, None), media_types(AdditionSettings, "types")),
    ),
    options=("http_addition_module",),
)
