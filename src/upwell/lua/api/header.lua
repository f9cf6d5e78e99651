-- ngx.header and ngx.resp.get_headers: the fields of the answer.

local base, ngx = ...

local py, type, tostring, setmetatable, raise, unpack, select = base.py, base.type, base.tostring, base.setmetatable, base.raise, base.unpack, base.select
local header_get, header_set = py.header_get, py.header_set

local function gather(...)
    local count = select("#", ...)
    if count <= 1 then
        return (...)
    end
    return { ... }
end

ngx.header = setmetatable({}, {
    __index = function(_, name)
        return gather(header_get(name))
    end,
    __newindex = function(_, name, value)
        local kind = type(value)
        if kind == "table" then
            local values = {}
            for i = 1, #value do
                values[i] = tostring(value[i])
            end
            return header_set(name, unpack(values))
        elseif kind == "nil" then
            return header_set(name)
        end
        return header_set(name, tostring(value))
    end,
    __metatable = false,
})

-- A flat list name, value, name, value as a table; names that repeat get a list of their values.
local function collect(...)
    local fields, values = {}, { ... }
    for i = 1, #values, 2 do
        local name, value = values[i], values[i + 1]
        local there = fields[name]
        if there == nil then
            fields[name] = value
        elseif type(there) == "table" then
            there[#there + 1] = value
        else
            fields[name] = { there, value }
        end
    end
    return fields
end
base.collect = collect

-- Names may be looked up in lower case with underscores.
base.by_any_case = {
    __index = function(self, name)
        if type(name) ~= "string" then
            return nil
        end
        return base.rawget(self, (base.gsub(base.lower(name), "_", "-")))
    end,
}

ngx.resp = setmetatable({
    get_headers = function(most, raw)
        local problem = py.response_truncated(most)
        local fields = collect(py.response_fields(most, raw and true or false))
        if not raw then
            setmetatable(fields, base.by_any_case)
        end
        return fields, problem
    end,
}, { __index = function(_, name) return base.refusal("ngx.resp." .. tostring(name)) end })
