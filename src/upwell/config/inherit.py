"""How a level takes over what the level above it says (nginx's merge functions). Knows dataclasses, not directives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, field, fields
from functools import cache
from typing import Any, TypeVar

S = TypeVar("S")


def local(default: Any = MISSING, factory: Any = MISSING) -> Any:
    """A field of a settings dataclass that inner levels do not inherit (`proxy_pass`, `return`, `listen`)."""
    if factory is not MISSING:
        return field(default_factory=factory, metadata={"local": True})
    return field(default=default, metadata={"local": True})


@cache
def inherited(settings: type[Any]) -> tuple[str, ...]:
    return tuple(item.name for item in fields(settings) if not item.metadata.get("local"))


@cache
def has_local(settings: type[Any]) -> bool:
    return len(inherited(settings)) < len(fields(settings))


def merge(settings: type[S], outer: S | None, own: Mapping[str, Any] | None) -> S:
    """The settings of a level: its own values, then the outer level's, then the defaults.

    A list counts as one value: `allow`/`deny`, `proxy_set_header`, `access_log` inherit only where none is given.
    """
    if outer is None:
        return settings(**own) if own else settings()
    if not own and not has_local(settings):
        return outer
    values = {name: getattr(outer, name) for name in inherited(settings)}
    if own:
        values.update(own)
    return settings(**values)
