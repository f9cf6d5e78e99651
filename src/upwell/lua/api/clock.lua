-- Time, sleep, workers, timers.

local base, ngx, core = ...

local py, await, type, bad_argument, raise, tonumber = base.py, base.await, base.type, base.bad_argument, base.raise, base.tonumber

for _, name in base.ipairs({ "now", "time", "today", "localtime", "utctime" }) do
    local call = py["clock_" .. name]
    ngx[name] = function() return call() end
end

function ngx.update_time() end

for _, name in base.ipairs({ "http_time", "cookie_time", "parse_http_time" }) do
    local call = py[name]
    ngx[name] = function(value) return call(value) end
end

function ngx.sleep(seconds)
    local delay = tonumber(seconds)
    if not delay then
        return bad_argument(1, "sleep", "number expected, got " .. type(seconds))
    end
    if not (delay >= 0) or delay > 4e6 then
        return raise('invalid sleep duration "' .. base.tostring(seconds) .. '"')
    end
    py.may_wait()
    await("sleep", delay)
end

ngx.worker = {
    pid = function() return py.worker_pid() end,
    pids = function() return base.refusal("ngx.worker.pids")() end,
    id = function() return py.worker_id() end,
    count = function() return py.worker_count() end,
    exiting = function() return py.worker_exiting() end,
}

local function timer(name, every)
    return function(delay, callback, ...)
        local seconds = tonumber(delay)
        if not seconds then
            return bad_argument(1, name, "number expected, got " .. type(delay))
        end
        if type(callback) ~= "function" then
            return bad_argument(2, name, "Lua function expected")
        end
        if not (seconds >= 0) or seconds > 4e6 then
            return raise("invalid delay")
        end
        if every and seconds == 0 then
            return raise("delay cannot be zero")
        end
        local number, problem = py.timer_add(seconds, every)
        if not number then
            return nil, problem
        end
        core.keep_timer(number, callback, ...)
        return 1
    end
end

ngx.timer = {
    at = timer("at", false),
    every = timer("every", true),
    running_count = function() return py.timers_running() end,
    pending_count = function() return py.timers_pending() end,
}
