"""The ngx.* API, one area a file: `x.py` works on plain values, `x.lua` is what handlers see.

`API` lists the areas in the order of loading. An area is a module with `functions(vm)`: name -> Python
function; its Lua file is called with (base, ngx, core) and finds the functions as `base.py.name`.
"""

from __future__ import annotations

from types import ModuleType

from upwell.lua.api import capture, clock, codec, control, header, json, log, output, regex, req, shared, upstream, var

API: tuple[ModuleType, ...] = (
    output,
    log,
    control,
    codec,
    header,
    var,
    req,
    clock,
    shared,
    regex,
    capture,
    json,
    upstream,
)
