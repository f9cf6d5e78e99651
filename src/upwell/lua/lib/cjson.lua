-- cjson: JSON to and from Lua values, with lua-cjson's rules for arrays, null and what cannot be written.

local base = ...

local py, type, tostring, raise, next, floor, huge = base.py, base.type, base.tostring, base.raise, base.next, base.floor, base.huge
local concat, format, gsub, byte, rawequal, find = base.concat, base.format, base.gsub, base.byte, base.rawequal, base.find
local setmetatable, getmetatable, pcall = base.setmetatable, base.getmetatable, base.pcall

local null = base.null
local empty_array = base.newproxy(true)
getmetatable(empty_array).__metatable = false
local array_mt = {}
local DEEPEST = 1000

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["/"] = "\\/" }

local function escape(char)
    return escapes[char] or format("\\u%04x", byte(char))
end

local function quote(text)
    return '"' .. gsub(text, '[%c"\\/\127]', escape) .. '"'
end

local function number(value)
    if value ~= value or value == huge or value == -huge then
        return raise("Cannot serialise number: must not be NaN or Infinity")
    end
    return format("%.14g", value)
end

-- The length of an array, or nil for an object.
local function length_of(value)
    local largest, count = 0, 0
    for key in next, value do
        if type(key) ~= "number" or key < 1 or floor(key) ~= key then
            return nil
        end
        count = count + 1
        if key > largest then
            largest = key
        end
    end
    if count == 0 then
        return rawequal(getmetatable(value), array_mt) and 0 or nil
    end
    if largest > 10 and largest > count * 2 then
        return raise("Cannot serialise table: excessively sparse array")
    end
    return largest
end

local encode

local function encode_table(value, parts, depth)
    if depth > DEEPEST then
        return raise("Cannot serialise, excessive depth (" .. depth .. ")")
    end
    local length = length_of(value)
    if length then
        parts[#parts + 1] = "["
        for i = 1, length do
            if i > 1 then
                parts[#parts + 1] = ","
            end
            encode(base.rawget(value, i), parts, depth)
        end
        parts[#parts + 1] = "]"
        return
    end
    local separator = "{"
    for key, item in next, value do
        local kind = type(key)
        if kind ~= "string" and kind ~= "number" then
            return raise("Cannot serialise table: table key must be a number or string")
        end
        parts[#parts + 1] = separator .. (kind == "string" and quote(key) or '"' .. number(key) .. '"') .. ":"
        encode(item, parts, depth)
        separator = ","
    end
    parts[#parts + 1] = separator == "{" and "{}" or "}"
end

encode = function(value, parts, depth)
    local kind = type(value)
    if kind == "string" then
        parts[#parts + 1] = quote(value)
    elseif kind == "number" then
        parts[#parts + 1] = number(value)
    elseif kind == "boolean" then
        parts[#parts + 1] = tostring(value)
    elseif kind == "nil" or rawequal(value, null) then
        parts[#parts + 1] = "null"
    elseif rawequal(value, empty_array) then
        parts[#parts + 1] = "[]"
    elseif kind == "table" then
        encode_table(value, parts, depth + 1)
    else
        return raise("Cannot serialise " .. kind .. ": type not supported")
    end
end

local cjson = { null = null, empty_array = empty_array, array_mt = array_mt, empty_array_mt = array_mt, _VERSION = "2.1.0", _NAME = "cjson" }

function cjson.encode(value)
    local parts = {}
    encode(value, parts, 0)
    return concat(parts)
end

function cjson.decode(text)
    if type(text) ~= "string" then
        return base.bad_argument(1, "decode", "string expected, got " .. type(text))
    end
    return py.json_decode(text, null)
end

function cjson.new()
    return cjson
end

return cjson
