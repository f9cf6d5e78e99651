"""What `proxy_redirect`, `proxy_cookie_domain` and `proxy_cookie_path` share: an expression and its replacement."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from upwell import pcre
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.regex import compile_regex
from upwell.modules.variables import declare_groups

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

Render = Callable[["Exchange"], bytes]
Change = Callable[["Exchange", bytes], "bytes | None"]


def read_regex(block: Block, directive: Directive, pattern: str, caseless: bool) -> re.Pattern[bytes]:
    """Compile the expression in the first argument; its named groups become variables."""
    try:
        regex = compile_regex(pattern, caseless)
    except ValueError as error:
        raise directive.error(str(error), 0) from None
    declare_groups(block, regex)
    return regex


def by_front(source: Render, replacement: Render) -> Change:
    """Replaces what a text begins with, `source`, else gives None."""

    def change(exchange: Exchange, text: bytes) -> bytes | None:
        front = source(exchange)
        return replacement(exchange) + text[len(front) :] if text.startswith(front) else None

    return change


def whole_by_regex(regex: re.Pattern[bytes], replacement: Render) -> Change:
    """Replaces a text that `regex` fits, all of it (nginx: ngx_http_proxy_rewrite_regex_handler), else gives None."""

    def change(exchange: Exchange, text: bytes) -> bytes | None:
        match = pcre.search(regex, text)
        if match is None:
            return None
        named = match.groupdict()
        if named:
            if exchange.variables is None:
                exchange.variables = {}
            exchange.variables.update((name, value or b"") for name, value in named.items())
        before, exchange.match = exchange.match, match
        try:
            return replacement(exchange)
        finally:
            exchange.match = before

    return change
