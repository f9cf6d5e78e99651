-- ngx.say, print, flush, eof, send_headers: the answer's content.

local base, ngx = ...

local py, await = base.py, base.await
local type, tostring, concat, next, select, floor, rawget = base.type, base.tostring, base.concat, base.next, base.select, base.floor, base.rawget
local rawequal, bad_argument, newproxy, getmetatable = base.rawequal, base.bad_argument, base.newproxy, base.getmetatable
local write, output_flush, output_eof, output_head = py.write, py.output_flush, py.output_eof, py.output_head

-- ngx.null: a value of its own that no table lookup or metatable leads out of.
local null = newproxy(true)
do
    local meta = getmetatable(null)
    meta.__tostring = function() return "null" end
    meta.__metatable = false
end
ngx.null = null
base.null = null

local expected = "string, number, boolean, nil, ngx.null, or array table expected, but got "

local append

local function append_table(parts, count, list, position, name)
    local length = 0
    for key in next, list do
        if type(key) ~= "number" or key < 1 or floor(key) ~= key then
            return bad_argument(position, name, "non-array table found")
        end
        if key > length then
            length = key
        end
    end
    for i = 1, length do
        count = append(parts, count, rawget(list, i), position, name)
    end
    return count
end

append = function(parts, count, value, position, name)
    local kind = type(value)
    if kind == "string" then
        parts[count + 1] = value
    elseif kind == "number" or kind == "nil" or kind == "boolean" or rawequal(value, null) then
        parts[count + 1] = tostring(value)
    elseif kind == "table" then
        return append_table(parts, count, value, position, name)
    else
        return bad_argument(position, name, expected .. kind)
    end
    return count + 1
end

-- The text of the arguments of print, say and the like.
local function text(name, ...)
    local count = select("#", ...)
    local first = ...
    if count == 1 and type(first) == "string" then
        return first
    end
    local parts, filled = {}, 0
    local values = { ... }
    for i = 1, count do
        filled = append(parts, filled, values[i], i, name)
    end
    return concat(parts, "", 1, filled)
end
base.text = text

function ngx.print(...)
    return write(text("print", ...))
end

function ngx.say(...)
    return write(text("say", ...) .. "\n")
end

function ngx.flush(wait)
    local ok, problem = output_flush()
    if not ok then
        return nil, problem
    end
    if wait then
        return await("flush")
    end
    return 1
end

function ngx.eof()
    return output_eof()
end

function ngx.send_headers()
    return output_head()
end
