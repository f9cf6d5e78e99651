"""`auth_request` and `auth_request_set`: another location decides who gets in (ngx_http_auth_request_module)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import once
from upwell.config.template import Template
from upwell.log import ERROR
from upwell.modules.limit_rate import set_rate
from upwell.modules.rewrite import variable_name
from upwell.proxy.location import Access

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_LEVELS: Final = "http server location"
_UNAUTHORIZED, _FORBIDDEN, _BROKEN = 401, 403, 500

Rendering = Callable[[Template], Callable[["Exchange"], bytes]]


@dataclass(frozen=True, slots=True)
class AuthRequestSettings:
    """`uri` is "" where nobody is asked. `variables` take their values from the request that was asked."""

    uri: str = ""
    variables: tuple[tuple[str, Template], ...] = ()


def compile_auth_request(settings: AuthRequestSettings, render: Rendering, passes: int | None) -> Access:
    """The gate of a location that asks another one. `passes` is what it says of who may pass."""
    uri = settings.uri.encode("utf-8", "surrogateescape")
    variables = [(name, render(value)) for name, value in settings.variables]

    async def gate(exchange: Exchange) -> int | None:
        abortable, exchange.abortable = exchange.abortable, True
        try:
            inner = await exchange.ask_within(uri, head_only=True)
        finally:
            exchange.abortable = abortable
        if inner.variables:  # nginx has one set of them for a request and its subrequests
            exchange.variables = {**(exchange.variables or {}), **inner.variables}
        for name, value in variables:
            _assign(exchange, name, value(inner))
        captured = inner.capture
        assert captured is not None
        status = captured.status
        if 200 <= status < 300:
            return passes
        if status == _UNAUTHORIZED:
            exchange.keep([field for field in captured.fields if field[0].lower() == b"www-authenticate"])
            return status
        if status == _FORBIDDEN:
            return status
        doing = " while sending to client" if inner.proxying and inner.answered is None else ""
        exchange.log(ERROR, f"auth request unexpected status: {status}{doing}")
        return _BROKEN

    return gate


def _assign(exchange: Exchange, name: str, value: bytes) -> None:
    if name == "limit_rate":
        set_rate(lambda _: value)(exchange)
        return
    if exchange.variables is None:
        exchange.variables = {}
    exchange.variables[name] = value


def _auth_request(block: Block, directive: Directive) -> None:
    once(block, directive, AuthRequestSettings, "uri")
    text = directive.args[0]
    block.set(AuthRequestSettings, "uri", "" if text == "off" else text)


def _auth_request_set(block: Block, directive: Directive) -> None:
    name = variable_name(block, directive)
    block.append(AuthRequestSettings, "variables", (name, block.template(directive, 1)))


MODULE = Module(
    "auth_request",
    (
        command("auth_request", _LEVELS, 1, _auth_request),
        command("auth_request_set", _LEVELS, 2, _auth_request_set),
    ),
    options=("http_auth_request_module",),
)
