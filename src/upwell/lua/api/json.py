"""What the cjson module reads JSON with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from upwell.lua.bridge import LuaFailure

if TYPE_CHECKING:
    from upwell.lua.vm import Vm


def functions(vm: Vm) -> Mapping[str, Callable[..., Any]]:
    def build(value: Any, null: Any) -> Any:
        if value is None:
            return null
        if isinstance(value, str):
            return value.encode("utf-8", "surrogateescape")
        if isinstance(value, list):
            return vm.table([build(item, null) for item in value])
        if isinstance(value, dict):
            return vm.table({build(key, null): build(item, null) for key, item in value.items()})
        return value

    def json_decode(text: bytes, null: Any) -> Any:
        try:
            value = json.loads(text.decode("utf-8", "surrogateescape"), parse_int=float)
        except RecursionError:
            raise LuaFailure(b"Found too many nested data structures") from None
        except ValueError as error:
            at = getattr(error, "pos", 0) + 1
            raise LuaFailure(f"Expected value but found invalid token at character {at}") from None
        try:
            return build(value, null)
        except RecursionError:
            raise LuaFailure(b"Found too many nested data structures") from None

    return {"json_decode": json_decode}
