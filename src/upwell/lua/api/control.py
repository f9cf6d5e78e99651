"""ngx.exit, redirect, status, ctx, get_phase, config: what steers a request and what is known about the worker."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from upwell.log import ERROR
from upwell.lua.bridge import LuaFailure, integer, string
from upwell.lua.contexts import CONTEXTS, HEADER_FILTER, MAY_ANSWER, TIMER
from upwell.version import NGINX_VERSION

if TYPE_CHECKING:
    from upwell.lua.vm import Vm

_UNSAFE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_REDIRECTS = (301, 302, 303, 307, 308)
_ACTIONS = (0, -1, -2, -4, -5)  # ngx.OK, ERROR, AGAIN, DONE, DECLINED
_AFTER_HEAD = (408, 444, 499)


def functions(vm: Vm) -> Mapping[str, Callable[..., Any]]:
    def leave(status: object = None) -> Any:
        code = integer(status, 1, "exit")
        run = vm.current
        if run is not None and run.phase == TIMER:
            return code, True
        run, exchange = vm.request(MAY_ANSWER | HEADER_FILTER)
        if code > 999 or (code < 100 and code not in _ACTIONS):
            raise LuaFailure(f"bad argument #1 to 'exit' (no such status: {code if abs(code) < 1e9 else 'too large'})")
        if run.phase == HEADER_FILTER:
            if code >= 200:
                exchange.status = code
            return code, True
        if code >= 300 and code not in _AFTER_HEAD and run.head_is_fixed():
            sent = exchange.status or 200
            if code != sent:
                message = f"attempt to set status {code} via ngx.exit after sending out the response status {sent}"
                exchange.log(ERROR, message)
            code = 200
        return code, True

    def redirect(uri: object = None, status: object = None) -> Any:
        target = string(uri, 1, "redirect")
        code = 302 if status is None else integer(status, 2, "redirect")
        if code not in _REDIRECTS:
            raise LuaFailure(
                "only ngx.HTTP_MOVED_TEMPORARILY, ngx.HTTP_MOVED_PERMANENTLY, ngx.HTTP_PERMANENT_REDIRECT, "
                "ngx.HTTP_SEE_OTHER, and ngx.HTTP_TEMPORARY_REDIRECT are allowed"
            )
        run, exchange = vm.request(MAY_ANSWER)
        if run.head_is_fixed():
            raise LuaFailure(b"attempt to call ngx.redirect after sending out the headers")
        if _UNSAFE.search(target):
            raise LuaFailure(b"attempt to set unsafe redirect uri")
        exchange.out = [field for field in exchange.out if field[0].lower() != b"location"]
        exchange.out.append((b"Location", target))
        return code, True

    def status_get() -> Any:
        return vm.request()[1].status

    def status_set(value: object = None) -> None:
        code = integer(value, 3, "__newindex")
        run, exchange = vm.request()
        if run.head_is_fixed():
            exchange.log(ERROR, "attempt to set ngx.status after sending out response headers")
            return
        if not 100 <= code <= 999:
            raise LuaFailure(b"invalid status code")
        exchange.status = code

    def headers_sent() -> Any:
        run, _ = vm.request()
        return run.head_is_fixed()

    def is_subrequest() -> Any:
        return vm.request()[1].capture is not None

    def ctx_get() -> Any:
        run = vm.current
        if run is None:
            raise LuaFailure(b"no request ctx found")
        if run.ctx is None:
            run.ctx = vm.table({})
        return run.ctx

    def ctx_set(value: object) -> None:
        run = vm.current
        if run is None:
            raise LuaFailure(b"no request ctx found")
        run.ctx = value

    def get_phase() -> Any:
        run = vm.current
        return CONTEXTS[run.phase][1] if run is not None else b"init"

    def nginx_version() -> Any:
        major, minor, patch = map(int, NGINX_VERSION.split("."))
        return major * 1_000_000 + minor * 1_000 + patch

    def prefix() -> Any:
        return vm.host.prefix.encode("utf-8", "surrogateescape")

    return {
        "exit": leave,
        "redirect": redirect,
        "status_get": status_get,
        "status_set": status_set,
        "headers_sent": headers_sent,
        "is_subrequest": is_subrequest,
        "ctx_get": ctx_get,
        "ctx_set": ctx_set,
        "get_phase": get_phase,
        "nginx_version": nginx_version,
        "prefix": prefix,
    }
