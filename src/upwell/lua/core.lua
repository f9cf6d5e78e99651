-- Runs handlers as coroutines and schedules light threads. Knows operations (what a handler waits for) only by name;
-- Python carries them out. Knows no request.
--
-- `start` and `proceed` answer with a kind and plain values:
--   DONE, results...                      the handler ended
--   FAILED, message, traceback            it raised an error
--   WAIT, handle, name, arguments...      it waits for the operation `name`; call `proceed(handle, ok, values...)`

local base, ngx = ...

local create, resume, yield, status, traceback = base.create, base.resume, base.yield, base.status, base.traceback
local setmetatable, setfenv, rawequal, select, unpack = base.setmetatable, base.setfenv, base.rawequal, base.select, base.unpack
local type, tostring, scrub, raise, await = base.type, base.tostring, base.scrub, base.raise, base.await
local sub, find, concat, insert, next = base.sub, base.find, base.concat, base.insert, base.next
local load, globals, py, OPERATION = base.load, base.globals, base.py, base.OPERATION

local DONE, FAILED, WAIT = 0, 1, 2

-- How long code may run without waiting. Source is given calls of `turn` where it could go on without end (turns.py);
-- the clock, which is the processor's, is looked at once in so many turns, and for the first time after as many.

local TURNS = 4096
local clock = base.clock
local most = base.huge
local turns, began = TURNS, nil

local function look()
    local now = clock()
    if not began then
        began = now
    elseif now - began >= most then
        turns = 0 -- who catches the error meets it again at the next turn
        return raise("Lua code has run for " .. most .. " seconds without waiting (lua_max_run_time)")
    end
    turns = TURNS
end

local function turn()
    turns = turns - 1
    if turns < 0 then
        look()
    end
end

local function pack(...)
    return { n = select("#", ...), ... }
end

-- The coroutine the worker started last, and the threads that belong to a handler once it has spawned one.
local active
local crews = {}

local function describe(problem)
    problem = scrub(problem)
    if type(problem) == "string" then
        return problem
    end
    if type(problem) == "number" then
        return tostring(problem)
    end
    local meta = base.getmetatable(problem)
    if type(meta) == "table" and base.rawget(meta, "__tostring") then
        local ok, text = base.pcall(tostring, problem)
        if ok and type(text) == "string" then
            return text
        end
    end
    return "unknown reason"
end

local function stack_of(co)
    local trace = traceback(co, "", 0)
    local from = find(trace, "stack traceback:\n", 1, true)
    trace = from and sub(trace, from + 17) or trace
    return "stack traceback:\ncoroutine 0:\n" .. trace
end

-- Light threads (ngx.thread). A crew is { entry, waiting = list of { co, name, args }, results, ready, ended }.

local function crew_of(entry)
    local crew = crews[entry]
    if not crew then
        crew = { entry = entry, waiting = {}, ready = {}, results = {}, joins = {}, alive = 0 }
        crews[entry] = crew
    end
    return crew
end

local function ended(crew, co, result)
    crew.results[co] = result
    if co ~= crew.entry then
        crew.alive = crew.alive - 1
    end
    for waiter, targets in next, crew.joins do
        for i = 1, #targets do
            if rawequal(targets[i], co) then
                crew.joins[waiter] = nil
                crew.results[co] = nil
                insert(crew.ready, { waiter, pack(true, unpack(result, 1, result.n)) })
                return
            end
        end
    end
end

-- Files what one resume of a thread of `crew` gave.
local function settle(crew, co, ok, first, name, ...)
    if not ok then
        local message = describe(first)
        if rawequal(co, crew.entry) then
            crew.failure = { message, stack_of(co) }
            return
        end
        py.log_line(4, "lua user thread aborted: runtime error: " .. message .. "\n" .. stack_of(co))
        return ended(crew, co, pack(false, message))
    end
    if status(co) == "dead" then
        if first == nil and name == nil and select("#", ...) == 0 then
            return ended(crew, co, pack(true))
        end
        return ended(crew, co, pack(true, first, name, ...))
    end
    if not rawequal(first, OPERATION) then
        insert(crew.ready, { co, { n = 0 } })
    elseif name == "join" then
        crew.joins[co] = (...)
    elseif name == "sleep" then
        insert(crew.waiting, { co, name, pack(...), py.monotonic() + (...) })
    else
        insert(crew.waiting, { co, name, pack(...) })
    end
end

local function next_wait(crew)
    local chosen
    for i = 1, #crew.waiting do
        local entry = crew.waiting[i]
        if not entry[4] then
            return i
        end
        if not chosen or entry[4] < crew.waiting[chosen][4] then
            chosen = i
        end
    end
    return chosen
end

-- Goes on until every thread waits or has ended; what can be carried out first is handed to the worker.
local function schedule(crew)
    while true do
        if crew.failure then
            crews[crew.entry] = nil
            return FAILED, crew.failure[1], crew.failure[2]
        end
        for i = 1, #crew.waiting do
            if crew.waiting[i][2] == "exit" then
                return WAIT, crew.entry, "exit", unpack(crew.waiting[i][3], 1, crew.waiting[i][3].n)
            end
        end
        local item = base.remove(crew.ready, 1)
        if item then
            local co = item[1]
            settle(crew, co, resume(co, unpack(item[2], 1, item[2].n)))
        elseif #crew.waiting > 0 then
            local entry = base.remove(crew.waiting, next_wait(crew))
            crew.current = entry[1]
            if entry[4] then
                local left = entry[4] - py.monotonic()
                return WAIT, crew.entry, "sleep", left > 0 and left or 0
            end
            return WAIT, crew.entry, entry[2], unpack(entry[3], 1, entry[3].n)
        else
            crews[crew.entry] = nil
            if crew.joins[crew.entry] then
                return FAILED, "all the threads waited for have ended already", ""
            end
            local result = crew.results[crew.entry] or { n = 1 }
            return DONE, unpack(result, 2, result.n)
        end
    end
end

local function step(co, ok, first, name, ...)
    local crew = crews[co]
    if crew then
        settle(crew, co, ok, first, name, ...)
        return schedule(crew)
    end
    if not ok then
        return FAILED, describe(first), stack_of(co)
    end
    if rawequal(first, OPERATION) then
        if name == "join" then
            crew = crew_of(co)
            settle(crew, co, ok, first, name, ...)
            return schedule(crew)
        end
        return WAIT, co, name, ...
    end
    if status(co) == "dead" then
        return DONE, first, name, ...
    end
    return WAIT, co, "give_way"
end

local core = {}

base.turn = turn

function core.limit(seconds)
    most = seconds
    base.count_turns = py.count_turns
end

-- Starts `main(...)`: a function made by `instance` or a callback.
function core.start(main, ...)
    local co = create(main)
    active, turns, began = co, TURNS, nil
    return step(co, resume(co, ...))
end

-- Goes on with a waiting handler: `ok` false raises the message that follows at the place that waits.
function core.proceed(entry, ...)
    active, turns, began = entry, TURNS, nil
    local crew = crews[entry]
    if crew then
        local co = crew.current
        settle(crew, co, resume(co, ...))
        return schedule(crew)
    end
    return step(entry, resume(entry, ...))
end

-- A waiting handler will not go on: let go of its threads.
function core.forget(entry)
    crews[entry] = nil
end

-- A chunk is compiled once into a maker of closures; each run gets a fresh one with its own globals over _G.

local inherit = { __index = globals }
base.inherit = inherit

-- `counted` is the source with its turns, or nil where there is no limit.
function core.compile(source, name, counted)
    local plain, problem = load(source, name, "t", globals)
    if not plain then
        return nil, problem
    end
    local maker = counted and base.load_counted(counted, name, globals)
    if maker then
        return maker
    end
    maker = load("return function(...) " .. source .. "\nend", name, "t", globals)
    return maker or function() return plain end
end

function core.run(maker, ...)
    local main = maker()
    setfenv(main, setmetatable({}, inherit))
    local co = create(main)
    active, turns, began = co, TURNS, nil
    return step(co, resume(co, ...))
end

-- init_by_lua and init_worker_by_lua write real globals, and nobody waits for them yet: they take the time they need.
function core.run_global(maker, ...)
    local main = maker()
    setfenv(main, globals)
    local co = create(main)
    active, turns, base.beginning = co, base.huge, true
    local outcome = pack(step(co, resume(co, ...)))
    base.beginning = false
    return unpack(outcome, 1, outcome.n)
end

-- Callbacks of timers, by number.

local timers = {}

function core.keep_timer(number, callback, ...)
    timers[number] = { callback, pack(...) }
end

function core.call_timer(number, premature, keep)
    local timer = timers[number]
    if not keep then
        timers[number] = nil
    end
    return core.start(timer[1], premature, unpack(timer[2], 1, timer[2].n))
end

-- ngx.thread

local thread = {}
ngx.thread = thread

function thread.spawn(f, ...)
    if type(f) ~= "function" then
        return base.bad_argument(1, "spawn", "function expected, got " .. type(f))
    end
    py.may_wait()
    local crew = crew_of(active)
    local co = create(f)
    crew.alive = crew.alive + 1
    settle(crew, co, resume(co, ...))
    return co
end

local function join(...)
    return ...
end

function thread.wait(...)
    py.may_wait()
    local targets = { ... }
    if #targets == 0 then
        return raise("at least one coroutine should be specified")
    end
    local crew = crew_of(active)
    for i = 1, #targets do
        local co = targets[i]
        if type(co) ~= "thread" then
            return base.bad_argument(i, "wait", "lua thread expected")
        end
        local result = crew.results[co]
        if result then
            crew.results[co] = nil
            return unpack(result, 1, result.n)
        end
        if status(co) == "dead" then
            return nil, "already waited or killed"
        end
    end
    return join(await("join", targets))
end

function thread.kill(co)
    local crew = crews[active]
    if type(co) ~= "thread" then
        return base.bad_argument(1, "kill", "lua thread expected")
    end
    if not crew or status(co) == "dead" or rawequal(co, crew.entry) then
        return nil, "already terminated"
    end
    for _, list in base.ipairs({ crew.waiting, crew.ready }) do
        for i = #list, 1, -1 do
            if rawequal(list[i][1], co) then
                base.remove(list, i)
                crew.alive = crew.alive - 1
                return 1
            end
        end
    end
    if crew.joins[co] then
        crew.joins[co] = nil
        return 1
    end
    return nil, "killer not parent"
end

return core
