"""ngx.var and ngx.arg: variables by name, the captures of the location's regex, the arguments of set_by_lua*."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from upwell.lua.bridge import LuaFailure
from upwell.lua.contexts import SET

if TYPE_CHECKING:
    from upwell.lua.vm import Vm


def functions(vm: Vm) -> Mapping[str, Callable[..., Any]]:
    def var_get(name: bytes) -> Any:
        run, exchange = vm.request()
        key = name.decode("latin-1").lower()
        if key == "request_body":
            return exchange.variable(key) if run.body_read else None
        return exchange.variable(key)

    def var_capture(index: float) -> Any:
        _, exchange = vm.request()
        match = exchange.match
        if match is None or index != index or not 0 < index <= (match.re.groups or 0):
            return None
        return match[int(index)]

    def var_set(name: bytes, value: bytes | None = None) -> None:
        _, exchange = vm.request()
        key = name.decode("latin-1").lower()
        if key == "args":
            exchange.aim(exchange.uri, value or b"")
            return
        if exchange.variables is None:
            exchange.variables = {}
        if key not in exchange.variables and key not in vm.host.changeable:
            raise LuaFailure(
                f'variable "{key}" not found for writing; maybe it is a built-in variable that is not changeable '
                f"or you forgot to use \"set ${key} '';\" in the config file to define it first"
            )
        exchange.variables[key] = value or b""

    def argument(index: object = None) -> Any:
        run = vm.current
        if run is None or run.phase != SET:
            raise LuaFailure(b"API disabled in the current context")
        if not isinstance(index, int) or not 0 < index <= len(run.arguments):
            return None
        return run.arguments[index - 1]

    return {"var_get": var_get, "var_capture": var_capture, "var_set": var_set, "argument": argument}
