"""Lua for handlers: the ngx.* API of lua-nginx-module on LuaJIT (lupa), and upwell's own resty.upstream.healthcheck.

`vm.Vm` is one Lua state in one worker; `phase` makes handlers out of chunks; `host.LuaHost` is what a worker lends to
it; `api/` has the areas of the API, `lib/` the modules to require. Nothing here knows a configuration.

What Lua code may reach is what Lua gives (its io and os libraries included, as in OpenResty) and the API, never Python:

* Python functions live inside Lua closures only, plain values are all that crosses, exceptions cross as text
  (`bridge.py`, `sandbox.lua`); lupa's attribute access is denied besides.
* Of `debug` there are traceback, getinfo (without the functions of the frames below) and getmetatable: the others could
  take a Python function out of a closure.
* No native code, which would reach all of the process's memory: no ffi, no package.loadlib, no C modules, no
  string.buffer (it gives raw pointers), no jit.util/profile/attach, and bytecode is not loaded.
* os.exit is refused; endless recursion ends in an error, not in a crash.
"""
