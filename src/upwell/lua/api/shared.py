"""ngx.shared: `lua_shared_dict` zones by name; their rules are zone/shared_dict.py's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from upwell.lua.bridge import LuaFailure, integer
from upwell.zone.shared_dict import SharedDict, Value

if TYPE_CHECKING:
    from upwell.lua.vm import Vm


def functions(vm: Vm) -> Mapping[str, Callable[..., Any]]:
    dicts: dict[bytes, SharedDict] = {name.encode(): zone for name, zone in vm.host.dicts.items()}

    def zone(name: bytes) -> SharedDict:
        try:
            return dicts[name]
        except KeyError:
            raise LuaFailure(b'bad "zone" argument') from None

    def store(name: bytes, operation: bytes, key: bytes, value: Value, exptime: float, flags: float) -> Any:
        number = int(flags) & 0xFFFFFFFF if flags == flags and abs(flags) != float("inf") else 0
        return zone(name).store(operation.decode(), key, value, exptime, number)

    return {
        "shared_names": lambda: tuple(dicts),
        "shared_store": store,
        "shared_get": lambda name, key: zone(name).get(key),
        "shared_get_stale": lambda name, key: zone(name).get_stale(key),
        "shared_ttl": lambda name, key: zone(name).ttl(key),
        "shared_expire": lambda name, key, exptime: zone(name).expire(key, exptime),
        "shared_incr": lambda name, key, step, init, ttl: zone(name).incr(key, step, init, ttl),
        "shared_push": lambda name, key, value, head: zone(name).push(key, value, head),
        "shared_pop": lambda name, key, head: zone(name).pop(key, head),
        "shared_llen": lambda name, key: zone(name).llen(key),
        "shared_flush_all": lambda name: zone(name).flush_all(),
        "shared_flush_expired": lambda name, most: zone(name).flush_expired(integer(most, 2, "flush_expired")),
        "shared_keys": lambda name, most: vm.table(zone(name).keys(integer(most, 2, "get_keys"))),
        "shared_capacity": lambda name: zone(name).capacity,
        "shared_free_space": lambda name: zone(name).free_space(),
    }
