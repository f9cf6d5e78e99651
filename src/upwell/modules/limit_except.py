"""`limit_except`: other rules for all methods but some. Its block is a location of its own for the others (nginx:
ngx_http_update_location_config).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from upwell.config.command import Module, command, words
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.modules.location import LocationSettings
from upwell.modules.proxy import hand_on

_METHODS: Final = words("GET HEAD POST PUT DELETE MKCOL COPY MOVE OPTIONS PROPFIND PROPPATCH LOCK UNLOCK PATCH")


@dataclass(frozen=True, slots=True)
class LimitExceptSettings:
    """`methods` are those that the block is not for."""

    methods: frozenset[bytes] = field(default=frozenset(), metadata=LOCAL)


def _limit_except(block: Block, directive: Directive) -> None:
    assert block.parent is not None
    if len(list(block.parent.of("limit_except"))) > 1:
        raise directive.error(f'"{directive.name}" directive is duplicate')
    methods = set()
    for index, text in enumerate(directive.args):
        method = text.upper()
        if method not in _METHODS:
            raise directive.error(f'invalid method "{text}"', index)
        methods.add(method.encode())
        if method == "GET":
            methods.add(b"HEAD")
    block.set(LimitExceptSettings, "methods", frozenset(methods))


def _close(location: Block) -> None:
    """The block has its location's name and, unless it says otherwise, its peers; other contents are not handed on."""
    around = location[LocationSettings]
    for block in location.of("limit_except"):
        for name in ("modifier", "pattern", "regex", "internal"):
            block.set(LocationSettings, name, getattr(around, name))
        hand_on(location, block)


MODULE = Module(
    "limit_except",
    (command("limit_except", "location", (1, None), _limit_except, opens="limit_except"),),
    {"location": _close},
)
