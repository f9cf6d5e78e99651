-- ngx.re: match, find, gmatch, sub, gsub.

local base, ngx = ...

local py, type, tostring, raise, bad_argument, sub, concat, select = base.py, base.type, base.tostring, base.raise, base.bad_argument, base.sub, base.concat, base.select

local function texts(name, subject, pattern, options)
    local kind = type(subject)
    if kind == "nil" or kind == "table" or kind == "function" then
        return bad_argument(1, name, "string expected, got " .. kind)
    end
    kind = type(pattern)
    if kind ~= "string" and kind ~= "number" then
        return bad_argument(2, name, "string expected, got " .. kind)
    end
    if options ~= nil and type(options) ~= "string" then
        return bad_argument(3, name, "string expected, got " .. type(options))
    end
    return tostring(subject), tostring(pattern), options or ""
end

local function start_of(context)
    if context == nil then
        return nil
    end
    if type(context) ~= "table" then
        return raise("bad argument #4 (ctx must be a table)")
    end
    local pos = context.pos
    if pos == nil then
        return 1
    end
    if type(pos) ~= "number" then
        return raise("bad ctx.pos value type " .. type(pos))
    end
    return pos < 1 and 1 or pos
end

-- Fills a table from: groups, capture 0..groups (false for none), then pairs of name and capture number.
local function fill(result, groups, ...)
    local values = { ... }
    for i = 0, groups do
        result[i] = values[i + 1]
    end
    for i = groups + 2, select("#", ...), 2 do
        result[values[i]] = result[values[i + 1]]
    end
    return result
end

local re = {}
ngx.re = base.setmetatable(re, { __index = function(_, name) return base.refusal("ngx.re." .. tostring(name)) end })

-- The answers of Python begin with: an error or nil, the place after the match or nil.
local function matched(context, result, problem, after, ...)
    if problem then
        return nil, problem
    end
    if not after then
        return nil
    end
    if context then
        context.pos = after
    end
    return fill(result or {}, ...)
end

function re.match(subject, pattern, options, context, result)
    subject, pattern, options = texts("match", subject, pattern, options)
    return matched(context, result, py.re_match(subject, pattern, options, start_of(context)))
end

function re.find(subject, pattern, options, context, group)
    subject, pattern, options = texts("find", subject, pattern, options)
    local problem, from, to, after = py.re_find(subject, pattern, options, start_of(context), group)
    if problem then
        return nil, nil, problem
    end
    if not after then
        return nil
    end
    if context then
        context.pos = after
    end
    if not from then
        return nil
    end
    return from, to
end

-- A function that gives match after match; an empty match moves on by one.
local function walker(subject, pattern, options)
    local place = 1
    local function step(problem, after, empty, ...)
        if problem then
            place = nil
            return nil, problem
        end
        if not after then
            place = nil
            return nil
        end
        place = empty and after + 1 or after
        return fill({}, ...)
    end
    return function()
        if not place then
            return nil
        end
        return step(py.re_step(subject, pattern, options, place))
    end
end

function re.gmatch(subject, pattern, options)
    subject, pattern, options = texts("gmatch", subject, pattern, options)
    local problem = py.re_check(pattern, options)
    if problem then
        return nil, problem
    end
    return walker(subject, pattern, options)
end

local function replace(name, subject, pattern, replacement, options, most)
    subject, pattern, options = texts(name, subject, pattern, options)
    local kind = type(replacement)
    if kind == "string" or kind == "number" then
        return py.re_replace(subject, pattern, options, tostring(replacement), most)
    end
    if kind ~= "function" then
        return bad_argument(3, name, "string, number, or function expected, got " .. kind)
    end
    local parts, place, count = {}, 1, 0
    local at = 1
    while most == 0 or count < most do
        local problem, after, from, captures
        local function take(wrong, behind, _, ...)
            problem, after = wrong, behind
            if behind then
                captures = fill({}, ...)
            end
        end
        take(py.re_step(subject, pattern, options, at))
        if problem then
            return nil, nil, problem
        end
        if not after then
            break
        end
        from = after - #captures[0]
        parts[#parts + 1] = sub(subject, place, from - 1)
        local value = replacement(captures)
        kind = type(value)
        if kind ~= "string" and kind ~= "number" then
            return bad_argument(3, name, "string or number expected to be returned by the replace function, got " .. kind)
        end
        parts[#parts + 1] = tostring(value)
        count = count + 1
        place = after
        at = #captures[0] == 0 and after + 1 or after
    end
    if count == 0 then
        return subject, 0
    end
    parts[#parts + 1] = sub(subject, place)
    return concat(parts), count
end

function re.sub(subject, pattern, replacement, options)
    return replace("sub", subject, pattern, replacement, options, 1)
end

function re.gsub(subject, pattern, replacement, options)
    return replace("gsub", subject, pattern, replacement, options, 0)
end
