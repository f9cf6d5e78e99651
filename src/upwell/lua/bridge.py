"""The wall between Lua and Python: only nil, booleans, numbers, strings and Lua's own values cross it.

A Python object that reached Lua would be a userdata with attributes, so results are checked here and exceptions become
messages. Knows lupa's types, no API.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import lupa.luajit21 as luajit

_MOST_INTEGER = 1 << 53


class LuaFailure(Exception):
    """An error to raise in the Lua code that called; `message` is shown to it as it is."""

    def __init__(self, message: str | bytes) -> None:
        super().__init__(message)
        self.message = message.encode("utf-8", "surrogateescape") if isinstance(message, str) else message


_PLAIN = frozenset((type(None), bool, float, bytes))


def plain(value: object) -> Any:
    """`value` if Lua may have it; an int that a Lua number cannot hold becomes a float. Raises LuaFailure otherwise."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is int:
        assert isinstance(value, int)
        return value if -_MOST_INTEGER <= value <= _MOST_INTEGER else _big(value)
    if luajit.lua_type(value) is not None:
        return value
    raise LuaFailure(b"internal error")


def _big(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def guarded(function: Callable[..., Any], report: Callable[[BaseException], None]) -> Callable[..., tuple[Any, ...]]:
    """`function` as sandbox.lua's `register` wants it: (True, values...) or (False, message), never raising."""

    def call(*args: Any) -> tuple[Any, ...]:
        try:
            result = function(*args)
            if type(result) is tuple:
                return (True, *map(plain, result))
            return (True, plain(result))
        except LuaFailure as failure:
            return (False, failure.message)
        except BaseException as error:  # even SystemExit: as an object in Lua it would hand out its attributes
            report(error)
            return (False, b"internal error")

    return call


def string(value: object, position: int, name: str) -> bytes:
    """Argument `position` of `name` as a string (a number counts as one). Raises LuaFailure."""
    if type(value) is bytes:
        return value
    if type(value) is int:
        return b"%d" % value
    if type(value) is float:
        return (b"%.14g" % value) if math.isfinite(value) else str(value).encode()
    raise LuaFailure(f"bad argument #{position} to '{name}' (string expected, got {type_name(value)})")


def number(value: object, position: int, name: str) -> float:
    """Argument `position` of `name` as a finite number. Raises LuaFailure."""
    if type(value) is bytes:
        with suppress(ValueError):
            value = float(value)
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return value
    raise LuaFailure(f"bad argument #{position} to '{name}' (number expected, got {type_name(value)})")


def integer(value: object, position: int, name: str) -> int:
    """Argument `position` of `name` as an integer, cut towards zero. Raises LuaFailure."""
    return int(number(value, position, name))


def type_name(value: object) -> str:
    """Lua's name of the type of `value`."""
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, bytes):
        return "string"
    kind = luajit.lua_type(value)
    return str(kind) if kind is not None else "userdata"
