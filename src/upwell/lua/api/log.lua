-- ngx.log, print and the levels.

local base, ngx = ...

local py, getinfo, type, tostring, select = base.py, base.getinfo, base.type, base.tostring, base.select
local concat, match, floor, bad_argument, raise = base.concat, base.match, base.floor, base.bad_argument, base.raise
local rawequal, getmetatable, null = base.rawequal, base.getmetatable, base.null

ngx.STDERR, ngx.EMERG, ngx.ALERT, ngx.CRIT = 0, 1, 2, 3
ngx.ERR, ngx.WARN, ngx.NOTICE, ngx.INFO, ngx.DEBUG = 4, 5, 6, 7, 8

local function piece(value, position, name)
    local kind = type(value)
    if kind == "string" then
        return value
    end
    if kind == "number" or kind == "boolean" or kind == "nil" or rawequal(value, null) then
        return tostring(value)
    end
    if kind == "table" then
        local meta = getmetatable(value)
        if type(meta) == "table" and meta.__tostring then
            return tostring(value)
        end
        return bad_argument(position, name, "expected table to have __tostring metamethod")
    end
    return bad_argument(position, name, "string, number, boolean, or nil expected, got " .. kind)
end

-- `depth` is the frame that called the logging function.
local function log(level, name, offset, ...)
    if not py.log_takes(level) then
        return
    end
    local parts = {}
    local values = { ... }
    for i = 1, select("#", ...) do
        parts[i] = piece(values[i], i + offset, name)
    end
    local frame = getinfo(3, "nSl")
    local place = ""
    if frame then
        place = "[lua] " .. (match(frame.short_src, "([^/]*)$") or "") .. ":" .. frame.currentline .. ": "
        if frame.name and frame.namewhat ~= "" then
            place = place .. frame.name .. "(): "
        end
    end
    py.log_line(level, place .. concat(parts))
end

function ngx.log(level, ...)
    if type(level) ~= "number" then
        return bad_argument(1, "log", "number expected, got " .. type(level))
    end
    if not (level >= 0 and level <= 8) then
        return raise("bad log level: " .. tostring(level))
    end
    log(floor(level), "log", 1, ...)
end

function base.globals.print(...)
    log(6, "print", 0, ...)
end
