-- Takes out of a fresh LuaJIT state whatever reaches past Lua itself, and keeps private copies of what upwell's own Lua
-- code needs. Knows the Lua standard library; knows neither requests nor the ngx API.
--
-- Called once, before any user code, with one Python function (only to learn the metatable of Python objects). Returns
-- `register`, `load_internal` and `base`; `base` stays with internal code, user code must never see it.

local probe = ...

local error, type, tostring, tonumber, select = error, type, tostring, tonumber, select
local pcall, xpcall, rawequal, rawget, rawset = pcall, xpcall, rawequal, rawget, rawset
local next, pairs, ipairs, unpack = next, pairs, ipairs, unpack
local setmetatable, getmetatable = setmetatable, getmetatable
local setfenv, getfenv, load, loadfile, newproxy = setfenv, getfenv, load, loadfile, newproxy
local debug, string, table, math, os, coroutine, package, jit = debug, string, table, math, os, coroutine, package, jit
local getinfo, traceback, rawmetatable = debug.getinfo, debug.traceback, debug.getmetatable
local create, resume, yield, status, running =
    coroutine.create, coroutine.resume, coroutine.yield, coroutine.status, coroutine.running
local find, sub, gsub, format = string.find, string.sub, string.gsub, string.format
local open = io.open
local G = _G

local python_object = rawmetatable(probe)
local INTERNAL = "=upwell/"

-- Marks a yield that is meant for the worker; the wrapped coroutine library below passes it on and never shows it.
local OPERATION = {}

local base = {
    error = error, type = type, tostring = tostring, tonumber = tonumber, select = select, pcall = pcall,
    rawequal = rawequal, rawget = rawget, rawset = rawset, next = next, pairs = pairs, ipairs = ipairs,
    unpack = unpack, setmetatable = setmetatable, getmetatable = getmetatable, setfenv = setfenv, getfenv = getfenv,
    load = load, newproxy = newproxy, traceback = traceback, create = create, resume = resume, yield = yield,
    status = status, running = running, getinfo = getinfo, globals = G, package = package, require = require,
    find = find, sub = sub, gsub = gsub, format = format, byte = string.byte, char = string.char, rep = string.rep,
    lower = string.lower, upper = string.upper, match = string.match, gmatch = string.gmatch,
    concat = table.concat, insert = table.insert, remove = table.remove, sort = table.sort, floor = math.floor, huge = math.huge,
    clock = os.clock, new_table = require("table.new"), clear_table = require("table.clear"),
}

-- A Python exception that would arrive as an error value becomes a string: no Python object crosses into user code.
local function scrub(value)
    if type(value) == "userdata" and rawequal(rawmetatable(value), python_object) then
        return "internal error"
    end
    return value
end
base.scrub = scrub

local function clean(ok, ...)
    if not ok then
        return false, scrub((...))
    end
    return true, ...
end

-- Raises `message` at the nearest caller outside upwell's own Lua code.
local function raise(message)
    local level = 2
    while true do
        local frame = getinfo(level, "Sl")
        if frame == nil then
            return error(message, 0)
        end
        if frame.currentline > 0 and sub(frame.source, 1, #INTERNAL) ~= INTERNAL then
            return error(frame.short_src .. ":" .. frame.currentline .. ": " .. message, 0)
        end
        level = level + 1
    end
end
base.raise = raise

function base.bad_argument(position, name, problem)
    return raise("bad argument #" .. position .. " to '" .. name .. "' (" .. problem .. ")")
end

-- Suspends the handler until the worker has carried out the operation `name`; returns what Python sends back.
local function finish(ok, ...)
    if ok then
        return ...
    end
    return raise((...))
end

function base.await(name, ...)
    return finish(yield(OPERATION, name, ...))
end
base.OPERATION = OPERATION

-- Python functions live only inside these closures. Each answers true and its values, or false and an error message.
local py = {}

local function register(name, callable)
    py[name] = function(...)
        return finish(callable(...))
    end
end
base.py = py

-- Who serves may be told later which files its code came from.
local plain_loadfile = loadfile
local function loadfile(path, ...)
    if path ~= nil and py.loads_file then
        py.loads_file(path)
    end
    return plain_loadfile(path, ...)
end

-- So is it for the files that code reads while a worker begins (`base.beginning`): a reload would have it read them anew.
local function note_read(path)
    if base.beginning and type(path) == "string" and py.loads_file then
        py.loads_file(path)
    end
end
local io, plain_open, plain_lines = io, io.open, io.lines

function io.open(path, mode, ...)
    if mode == nil or mode == "r" or mode == "rb" then
        note_read(path)
    end
    return plain_open(path, mode, ...)
end

function io.lines(...)
    note_read((...))
    return plain_lines(...)
end

local strict = setmetatable({}, {
    __index = function(_, name) return error("upwell's own Lua code reads the global " .. tostring(name)) end,
    __newindex = function(_, name) return error("upwell's own Lua code writes the global " .. tostring(name)) end,
    __metatable = false,
})

local function load_internal(name, source)
    local chunk, problem = load(source, INTERNAL .. name, "t", strict)
    if not chunk then
        return error(problem, 0)
    end
    return chunk
end
base.load_internal = load_internal

-- `require(name)` gives what `chunk(base, ngx)` returns, whatever package.path holds.
function base.offer(name, chunk, ngx)
    package.preload[name] = function()
        return chunk(base, ngx)
    end
end
setfenv(1, strict)

local function absent(name)
    return function()
        return raise(name .. " is not available in upwell")
    end
end

-- A maker of functions from source that calls the local `_TURN` (turns.py); nil if there is none to be had.
function base.load_counted(source, name, env)
    local maker = load("local _TURN = ... return function() return function(...) " .. source .. "\nend end", name, "t", env)
    return maker and maker(base.turn)
end

-- Loading code: source text only (made-up bytecode can take over the process), and no native libraries. All of it is
-- given its turns.

local function with_turns(plain, problem, source, name, env)
    if not plain then
        return plain, problem
    end
    if not base.count_turns or type(env) ~= "table" then
        return plain
    end
    local maker = base.load_counted(base.count_turns(tostring(source)), name, env)
    return maker and maker() or plain
end

local function load_source(source, name, env)
    local plain, problem = load(source, name, "t", env)
    return with_turns(plain, problem, source, name or source, env)
end

-- What a function hands out piece by piece is kept for that, but read as Lua reads it.
local function load_pieces(reader, name, env)
    local pieces = {}
    local plain, problem = load(function()
        local piece = reader()
        if type(piece) == "string" then
            pieces[#pieces + 1] = piece
        end
        return piece
    end, name, "t", env)
    return with_turns(plain, problem, base.concat(pieces), name or "=(load)", env)
end

local function load_path(path, env)
    local plain, problem = loadfile(path, "t", env)
    local handle = plain and path ~= nil and base.count_turns and plain_open(path, "r")
    if not handle then
        return with_turns(plain, problem)
    end
    local source = handle.read(handle, "*a")
    handle.close(handle)
    return with_turns(plain, problem, source, "@" .. path, env)
end

-- The environment of whoever called the loading function that calls this.
local function caller_environment()
    local frame = getinfo(3, "f")
    local env = frame and getfenv(frame.func) or G
    return rawequal(env, strict) and G or env
end

local function text_only(mode)
    return mode == nil or find(mode, "t", 1, true)
end

local WRONG_MODE = "attempt to load chunk with wrong mode"

function G.load(chunk, name, mode, ...)
    if not text_only(mode) then
        return nil, WRONG_MODE
    end
    local env = select("#", ...) > 0 and (...) or caller_environment()
    if type(chunk) == "function" then
        return load_pieces(chunk, name, env)
    end
    return load_source(chunk, name, env)
end

function G.loadstring(chunk, name)
    local kind = type(chunk)
    if kind ~= "string" and kind ~= "number" then
        return base.bad_argument(1, "loadstring", "string expected, got " .. kind)
    end
    return load_source(tostring(chunk), name, caller_environment())
end

function G.loadfile(path, mode, ...)
    if not text_only(mode) then
        return nil, WRONG_MODE
    end
    local env = select("#", ...) > 0 and (...) or caller_environment()
    return load_path(path, env)
end

function G.dofile(path)
    local chunk, problem = load_path(path, caller_environment())
    if not chunk then
        return raise(problem)
    end
    return chunk()
end

package.loadlib = absent("package.loadlib")
package.loaded.python = nil
package.loaded["jit.opt"] = nil
for _, name in ipairs({ "ffi", "jit.util", "jit.profile", "string.buffer", "jit.opt", "python" }) do
    package.preload[name] = absent('the module "' .. name .. '"')
end

local preload_loader = package.loaders[1]

local function source_loader(name)
    local path = package.path
    if type(path) ~= "string" then
        return raise("'package.path' must be a string")
    end
    local tried = ""
    local file = gsub(name, "%.", "/")
    for template in base.gmatch(path, "[^;]+") do
        local candidate = gsub(template, "%?", (gsub(file, "%%", "%%%%")))
        local handle = open(candidate, "r")
        if handle then
            handle.close(handle)
            local chunk, problem = load_path(candidate, G)
            if not chunk then
                return error("error loading module '" .. name .. "' from file '" .. candidate .. "':\n\t" .. problem, 0)
            end
            return chunk
        end
        tried = tried .. "\n\tno file '" .. candidate .. "'"
    end
    return tried
end

package.loaders = { preload_loader, source_loader }

-- `require` in LuaJIT reads the loaders from its own environment, which is the package table, so the two above are what
-- it uses; user code that changes package.loaders only ever adds Lua functions.

-- Looking into other functions: names and lines yes, values and functions of the frames below no.

local kept_debug = { traceback = traceback }

local function describe(info, keep)
    if info and not keep then
        info.func = nil
    end
    return info
end

function kept_debug.getinfo(...)
    local thread, subject, what = ...
    if type(thread) ~= "thread" then
        thread, subject, what = nil, thread, subject
    end
    what = what or "nSluf"
    local by_function = type(subject) == "function"
    if thread then
        return describe(getinfo(thread, subject, what), by_function)
    end
    if type(subject) == "number" then
        subject = subject + 1
    end
    local info = getinfo(subject, what)
    return describe(info, by_function)
end

function kept_debug.getmetatable(value)
    return getmetatable(value)
end

local debug_names = {}
for name in pairs(debug) do
    debug_names[#debug_names + 1] = name
end
for _, name in ipairs(debug_names) do
    debug[name] = kept_debug[name] or absent("debug." .. name)
end

for _, name in ipairs({ "attach", "opt", "security" }) do
    jit[name] = nil
end

os.exit = absent("os.exit")
G.python = nil

-- Errors and coroutines.

function G.pcall(...)
    return clean(pcall(...))
end

function G.xpcall(f, handler, ...)
    if type(handler) ~= "function" then
        return xpcall(f, handler, ...)
    end
    return xpcall(f, function(problem) return handler(scrub(problem)) end, ...)
end

-- Coroutines that resume each other use the C stack; PUC-Rio's Lua stops at 200 of them, LuaJIT only at a crash.
-- A function of C that calls back (string.gsub) takes some 16 KiB for two frames, and each coroutine has room for 7000, so
-- what counts as well is how many frames wait below the one that runs: MOST_WAITING of them take 20 MiB at most.
local DEEPEST = 200
local MOST_WAITING = 2400
local depth, waiting, inside = 0, 0, nil

-- At least the number of frames of a coroutine.
local function frames(co)
    local level = 12
    while getinfo(co, level, "l") do
        level = level * 2
    end
    return level
end

local function left(before, cost, ...)
    depth, waiting, inside = depth - 1, waiting - cost, before
    return ...
end

local function enter(co, ...)
    -- Entered from Python that the coroutine before called, `running` says nothing about that one.
    local before = inside
    local cost = before and frames(before) or 0
    if depth >= DEEPEST or waiting + cost > MOST_WAITING then
        return false, "C stack overflow"
    end
    depth, waiting, inside = depth + 1, waiting + cost, co
    return left(before, cost, resume(co, ...))
end
base.resume = enter

local function passed(co, ok, first, ...)
    if not ok then
        return false, scrub(first)
    end
    if rawequal(first, OPERATION) then
        return passed(co, enter(co, yield(OPERATION, ...)))
    end
    return true, first, ...
end

local function user_resume(co, ...)
    return passed(co, enter(co, ...))
end
coroutine.resume = user_resume

local function unwrap(ok, ...)
    if ok then
        return ...
    end
    return error((...), 0)
end

function coroutine.wrap(f)
    local co = create(f)
    return function(...)
        return unwrap(user_resume(co, ...))
    end
end

return register, load_internal, base
