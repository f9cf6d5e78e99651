-- ngx.req: the request as it came, and changes to it.

local base, ngx = ...

local py, await, type, tostring, tonumber = base.py, base.await, base.type, base.tostring, base.tonumber
local setmetatable, raise, bad_argument, unpack, select = base.setmetatable, base.raise, base.bad_argument, base.unpack, base.select
local collect, rawequal, next, sort = base.collect, base.rawequal, base.next, base.sort

local req = {}
ngx.req = setmetatable(req, { __index = function(_, name) return base.refusal("ngx.req." .. tostring(name)) end })

req.get_method = function() return py.req_method() end
req.is_internal = function() return py.req_is_internal() end
req.start_time = function() return py.req_start_time() end
req.http_version = function() return py.req_http_version() end
req.raw_header = function(no_line) return py.req_raw_header(no_line and true or false) end
req.discard_body = function() return py.req_discard_body() end

function req.set_method(method)
    if type(method) ~= "number" then
        return raise("bad method number")
    end
    return py.req_set_method(method)
end

function req.get_headers(most, raw)
    local fields, problem
    local function take(truncated, ...)
        problem = truncated
        fields = collect(...)
    end
    take(py.req_headers(most))
    if not raw then
        setmetatable(fields, base.by_any_case)
    end
    return fields, problem
end

local function values_of(value, position, name)
    local kind = type(value)
    if kind == "table" then
        local values = {}
        for i = 1, #value do
            values[i] = tostring(value[i])
        end
        return values
    elseif kind == "nil" then
        return {}
    elseif kind == "string" or kind == "number" or kind == "boolean" then
        return { tostring(value) }
    end
    return bad_argument(position, name, "string or table expected, got " .. kind)
end

function req.set_header(name, value)
    return py.req_set_header(name, unpack(values_of(value, 2, "set_header")))
end

function req.clear_header(name)
    return py.req_set_header(name)
end

-- Arguments as flat name, value pairs; `false` stands for a name without "=".
local function arguments(truncated, ...)
    local values, args = { ... }, {}
    for i = 1, #values, 2 do
        local name, value = values[i], values[i + 1]
        if value == false then
            value = true
        end
        local there = args[name]
        if there == nil then
            args[name] = value
        elseif type(there) == "table" then
            there[#there + 1] = value
        else
            args[name] = { there, value }
        end
    end
    return args, truncated
end

function req.get_uri_args(most)
    return arguments(py.req_uri_args(most))
end

function req.read_body()
    if py.req_body_ready() then
        return
    end
    await("read_body")
end

function req.get_body_data()
    return py.req_body()
end

function req.get_body_file()
    return py.req_body_file()
end

function req.get_post_args(most)
    if py.req_body_file() then
        return nil, "request body in temp file not supported"
    end
    if not py.req_body() then
        return {}
    end
    return arguments(py.req_post_args(most))
end

function req.set_body_data(data)
    return py.req_set_body(data)
end

-- ngx.encode_args and friends.

local escape = py.escape_uri

local function encode_pair(parts, name, value)
    local kind = type(value)
    if value == true then
        parts[#parts + 1] = escape(name)
    elseif value == false then
        return
    elseif kind == "string" or kind == "number" then
        parts[#parts + 1] = escape(name) .. "=" .. escape(tostring(value))
    else
        return raise("attempt to use " .. kind .. " as query arg value")
    end
end

local function encode_args(args)
    if type(args) ~= "table" then
        return bad_argument(1, "encode_args", "table expected, got " .. type(args))
    end
    local parts = {}
    for name, value in next, args do
        if type(name) ~= "string" and type(name) ~= "number" then
            return raise("attempt to use " .. type(name) .. " as query arg name")
        end
        name = tostring(name)
        if type(value) == "table" then
            for i = 1, #value do
                encode_pair(parts, name, value[i])
            end
        else
            encode_pair(parts, name, value)
        end
    end
    return base.concat(parts, "&")
end
ngx.encode_args = encode_args
base.encode_args = encode_args

function ngx.decode_args(text, most)
    if type(text) ~= "string" then
        return bad_argument(1, "decode_args", "string expected, got " .. type(text))
    end
    return arguments(py.decode_args(text, most))
end

function req.set_uri_args(args)
    if type(args) == "table" then
        args = encode_args(args)
    elseif type(args) ~= "string" and type(args) ~= "number" then
        return bad_argument(1, "set_uri_args", "string, number, or table expected, but got " .. type(args))
    end
    return py.req_set_uri_args(tostring(args))
end

function req.set_uri(uri, jump)
    if py.req_set_uri(uri, jump and true or false) then
        return base.yield(base.OPERATION, "exit", -5)
    end
end
