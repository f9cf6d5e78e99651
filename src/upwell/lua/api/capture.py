"""ngx.location.capture: what a subrequest asks for; phase.py carries it out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from upwell.lua.api.req import method_name
from upwell.lua.bridge import LuaFailure, string
from upwell.lua.contexts import MAY_ANSWER

if TYPE_CHECKING:
    from upwell.lua.vm import Vm

_UNSAFE = re.compile(rb"[\x00-\x1f\x7f]|(?:^|/)\.\.(?:/|$)")


def functions(vm: Vm) -> Mapping[str, Callable[..., Any]]:
    def capture_target(uri: object = None, args: bytes | None = None, method: object = None) -> Any:
        vm.request(MAY_ANSWER)
        path, _, query = string(uri, 1, "capture").partition(b"?")
        path = unquote_to_bytes(path)
        if not path or _UNSAFE.search(path):
            raise LuaFailure(b"unsafe uri in argument #1: " + path)
        if args:
            query = query + b"&" + args if query else args
        return path, query, b"GET" if method is None else method_name(method)

    return {"capture_target": capture_target}
