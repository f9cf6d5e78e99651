"""`secure_link`, `secure_link_md5` and `secure_link_secret`: links that were made by who knows a secret, and until when
they count (ngx_http_secure_link_module). They refuse nobody: `$secure_link` says what came of it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import once
from upwell.config.template import Template
from upwell.errors import ConfigError
from upwell.proxy.variables import Variable, find

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_LEVELS: Final = "http server location"
_STATE: Final = "secure_link"
_LONGEST: Final = 24
_MD5: Final = re.compile(rb"([A-Za-z0-9_-]{22})(?:=.*)?", re.DOTALL)  # 16 bytes; what follows "=" is not looked at
_TIME: Final = re.compile(rb"[0-9]{1,19}")
_LAST_SECOND: Final = (1 << 63) - 1
_OLD_FORM: Final = re.compile(rb".[^/]*/([0-9a-fA-F]{32})/(.+)", re.DOTALL)

Rendering = Callable[[Template], Callable[["Exchange"], bytes]]


@dataclass(frozen=True, slots=True)
class SecureLinkSettings:
    """`link` gives the hash and, after a comma, the last second; `text` what the hash is of. `secret` is the older
    way, and then the only one that counts.
    """

    link: Template | None = None
    text: Template | None = None
    secret: str = ""


def secure_link_variables(settings: SecureLinkSettings, render: Rendering) -> dict[str, Variable]:
    """What $secure_link and $secure_link_expires are in a location."""
    if settings.secret:
        return {"secure_link": _of_secret(settings.secret.encode("utf-8", "surrogateescape"))}
    if settings.link is None or settings.text is None:
        return {}
    return {"secure_link": _of_md5(render(settings.link), render(settings.text)), "secure_link_expires": _expires}


def _of_md5(link: Callable[[Exchange], bytes], text: Callable[[Exchange], bytes]) -> Variable:
    def value(exchange: Exchange) -> bytes | None:
        coded, comma, until = link(exchange).partition(b",")
        expires = 0
        if comma:
            expires = int(until) if _TIME.fullmatch(until) else 0
            if not 0 < expires <= _LAST_SECOND:
                return None
            if exchange.module is None:
                exchange.module = {}
            exchange.module[_STATE] = until
        match = _MD5.fullmatch(coded) if len(coded) <= _LONGEST else None
        if match is None:
            return None
        right = hashlib.md5(text(exchange), usedforsecurity=False).digest()
        if not hmac.compare_digest(urlsafe_b64decode(match[1] + b"=="), right):
            return None
        return b"0" if expires and expires < int(time.time()) else b"1"

    return value


def _expires(exchange: Exchange) -> bytes | None:
    """Known once $secure_link was read, as in nginx."""
    return None if exchange.module is None else exchange.module.get(_STATE)


def _of_secret(secret: bytes) -> Variable:
    target = find("request_uri")
    assert target is not None

    def value(exchange: Exchange) -> bytes | None:
        match = _OLD_FORM.fullmatch(target(exchange) or b"")
        if match is None:
            return None
        right = hashlib.md5(match[2] + secret, usedforsecurity=False).digest()
        return match[2] if hmac.compare_digest(bytes.fromhex(match[1].decode("ascii")), right) else None

    return value


def _template(name: str) -> Callable[[Block, Directive], None]:
    def put(block: Block, directive: Directive) -> None:
        once(block, directive, SecureLinkSettings, name)
        block.set(SecureLinkSettings, name, block.template(directive, 0))

    return put


def _secret(block: Block, directive: Directive) -> None:
    once(block, directive, SecureLinkSettings, "secret")
    block.set(SecureLinkSettings, "secret", directive.args[0])


def _close(block: Block) -> None:
    own = block.own(SecureLinkSettings)
    if own.get("secret") and not own.keys().isdisjoint(("link", "text")):
        message = '"secure_link_secret" cannot be mixed with "secure_link" and "secure_link_md5"'
        raise ConfigError(message, block.position)


MODULE = Module(
    "secure_link",
    (
        command("secure_link", _LEVELS, 1, _template("link")),
        command("secure_link_md5", _LEVELS, 1, _template("text")),
        command("secure_link_secret", _LEVELS, 1, _secret),
    ),
    {"server": _close, "location": _close},
    options=("http_secure_link_module",),
)
