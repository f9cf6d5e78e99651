-- ngx.var: nginx's variables, and the captures of the location's regex by number.

local base, ngx = ...

local py, type, tostring, raise = base.py, base.type, base.tostring, base.raise
local var_get, var_set, var_capture = py.var_get, py.var_set, py.var_capture

ngx.var = base.setmetatable({}, {
    __index = function(_, name)
        local kind = type(name)
        if kind == "string" then
            return var_get(name)
        elseif kind == "number" then
            return var_capture(name)
        end
        return raise("bad variable name")
    end,
    __newindex = function(_, name, value)
        if type(name) ~= "string" then
            return raise("bad variable name")
        end
        if value == nil then
            return var_set(name)
        end
        return var_set(name, tostring(value))
    end,
    __metatable = false,
})

-- ngx.arg: what set_by_lua* passed.
ngx.arg = base.setmetatable({}, {
    __index = function(_, index) return py.argument(index) end,
    __newindex = function() return raise("ngx.arg is read-only in upwell") end,
    __metatable = false,
})
