-- ngx.shared: the lua_shared_dict zones.

local base, ngx = ...

local py, type, tostring, select, rawget, raise, tonumber = base.py, base.type, base.tostring, base.select, base.rawget, base.raise, base.tonumber
local setmetatable, unpack = base.setmetatable, base.unpack

local names = setmetatable({}, { __mode = "k" })
local methods = {}

local function zone_of(dict)
    local name = type(dict) == "table" and names[dict]
    if not name then
        return raise('bad "zone" argument')
    end
    return name
end

-- The key as a string, or nil and why there is none.
local function key_of(key)
    if key == nil then
        return nil, "nil key"
    end
    if type(key) ~= "string" then
        key = tostring(key)
    end
    if #key == 0 then
        return nil, "empty key"
    end
    if #key > 65535 then
        return nil, "key too long"
    end
    return key
end

local function seconds(value, name)
    if value == nil then
        return 0
    end
    local number = tonumber(value)
    if not number or not (number >= 0) then
        return raise('bad "' .. name .. '" argument')
    end
    return number
end

local function store(operation)
    return function(dict, key, value, exptime, flags)
        local zone = zone_of(dict)
        local lifetime = seconds(exptime, "exptime")
        local name, problem = key_of(key)
        if not name then
            return nil, problem
        end
        local kind = type(value)
        if kind ~= "string" and kind ~= "number" and kind ~= "boolean" and kind ~= "nil" then
            return nil, "bad value type"
        end
        return py.shared_store(zone, operation, name, value, lifetime, tonumber(flags) or 0)
    end
end

methods.set = store("set")
methods.safe_set = store("safe_set")
methods.add = store("add")
methods.safe_add = store("safe_add")
methods.replace = store("replace")

function methods.delete(dict, key)
    return methods.set(dict, key, nil)
end

local function with_key(call)
    return function(dict, key, ...)
        local zone = zone_of(dict)
        local name, problem = key_of(key)
        if not name then
            return nil, problem
        end
        return call(zone, name, ...)
    end
end

methods.get = with_key(function(zone, key) return py.shared_get(zone, key) end)
methods.get_stale = with_key(function(zone, key) return py.shared_get_stale(zone, key) end)
methods.ttl = with_key(function(zone, key) return py.shared_ttl(zone, key) end)
methods.llen = with_key(function(zone, key) return py.shared_llen(zone, key) end)
methods.lpop = with_key(function(zone, key) return py.shared_pop(zone, key, true) end)
methods.rpop = with_key(function(zone, key) return py.shared_pop(zone, key, false) end)

function methods.expire(dict, key, exptime)
    local zone = zone_of(dict)
    if not exptime then
        return raise('bad "exptime" argument')
    end
    local name, problem = key_of(key)
    if not name then
        return nil, problem
    end
    return py.shared_expire(zone, name, seconds(exptime, "exptime"))
end

local function push(head)
    return function(dict, key, value)
        local zone = zone_of(dict)
        local name, problem = key_of(key)
        if not name then
            return nil, problem
        end
        if type(value) ~= "string" and type(value) ~= "number" then
            return nil, "bad value type"
        end
        return py.shared_push(zone, name, value, head)
    end
end

methods.lpush = push(true)
methods.rpush = push(false)

local function number_or_nil(value, name)
    if value == nil or value == false then
        return nil
    end
    local number = tonumber(value)
    if not number then
        return raise("bad " .. name .. " arg: number expected, got " .. type(value))
    end
    return number
end

function methods.incr(dict, key, value, init, init_ttl)
    local zone = zone_of(dict)
    local name, problem = key_of(key)
    if not name then
        return nil, problem
    end
    local step = tonumber(value)
    if not step then
        return base.bad_argument(3, "incr", "number expected, got " .. type(value))
    end
    init = number_or_nil(init, "init")
    local ttl = number_or_nil(init_ttl, "init_ttl")
    if ttl then
        if not (ttl >= 0) then
            return raise('bad "init_ttl" argument')
        end
        if not init then
            return raise('must provide "init" when providing "init_ttl"')
        end
    end
    return py.shared_incr(zone, name, step, init, ttl or 0)
end

function methods.flush_all(dict)
    return py.shared_flush_all(zone_of(dict))
end

function methods.flush_expired(dict, most)
    return py.shared_flush_expired(zone_of(dict), tonumber(most) or 0)
end

function methods.get_keys(dict, most)
    return py.shared_keys(zone_of(dict), tonumber(most) or 1024)
end

function methods.capacity(dict)
    return py.shared_capacity(zone_of(dict))
end

function methods.free_space(dict)
    return py.shared_free_space(zone_of(dict))
end

local meta = { __index = methods }
local shared = {}

for _, name in base.ipairs({ py.shared_names() }) do
    local dict = setmetatable({}, meta)
    names[dict] = name
    shared[name] = dict
end

ngx.shared = shared
