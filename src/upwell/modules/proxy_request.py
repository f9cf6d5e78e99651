"""What of a request goes to the peer: `proxy_method`, `proxy_set_body`, `proxy_pass_request_headers` and `_body`."""

from __future__ import annotations

from dataclasses import dataclass

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import flag, once
from upwell.config.template import Template

_LEVELS = "http server location"


@dataclass(frozen=True, slots=True)
class ProxyRequestSettings:
    """A part of ngx_http_proxy_module. `method` and `body` None: the client's own."""

    method: Template | None = None
    body: Template | None = None
    pass_headers: bool = True
    pass_body: bool = True


def _method(block: Block, directive: Directive) -> None:
    once(block, directive, ProxyRequestSettings, "method")
    block.set(ProxyRequestSettings, "method", block.template(directive, 0))


def _body(block: Block, directive: Directive) -> None:
    once(block, directive, ProxyRequestSettings, "body")
    block.set(ProxyRequestSettings, "body", block.template(directive, 0))


MODULE = Module(
    "proxy_request",
    (
        command("proxy_method", _LEVELS, 1, _method),
        command("proxy_set_body", _LEVELS, 1, _body),
        command("proxy_pass_request_headers", _LEVELS, 1, flag(ProxyRequestSettings, "pass_headers")),
        command("proxy_pass_request_body", _LEVELS, 1, flag(ProxyRequestSettings, "pass_body")),
    ),
)
