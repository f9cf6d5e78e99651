"""How a level takes over what the level above it says (nginx's merge functions). Knows dataclasses, not directives."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import fields
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar, cast

S = TypeVar("S")


LOCAL: Mapping[str, bool] = MappingProxyType({"local": True})
"""The metadata of a settings field that inner levels do not inherit (`proxy_pass`, `listen`); an `if` in a location
does, being that location once more."""

OWN: Mapping[str, bool] = MappingProxyType({"local": True, "own": True})
"""The same, where an `if` does not either (`set`, `rewrite`)."""


@cache
def inherited(settings: Hashable) -> tuple[str, ...]:
    return tuple(item.name for item in fields(cast(Any, settings)) if not item.metadata.get("local"))


@cache
def kept(settings: Hashable) -> tuple[str, ...]:
    """What an `if` in a location takes over from it."""
    return tuple(item.name for item in fields(cast(Any, settings)) if not item.metadata.get("own"))


@cache
def has_local(settings: Hashable) -> bool:
    return len(inherited(settings)) < len(fields(cast(Any, settings)))


def merge(settings: type[S], outer: S | None, own: Mapping[str, Any] | None, unnamed: bool = False) -> S:
    """The settings of a level: its own values, then the outer level's, then the defaults. `unnamed`: it is an `if`.

    A list counts as one value: `allow`/`deny`, `proxy_set_header`, `access_log` inherit only where none is given.
    """
    if outer is None:
        return settings(**own) if own else settings()
    if not own and not has_local(cast(Hashable, settings)):
        return outer
    names = kept(cast(Hashable, settings)) if unnamed else inherited(cast(Hashable, settings))
    values = {name: getattr(outer, name) for name in names}
    if own:
        values.update(own)
    return settings(**values)
