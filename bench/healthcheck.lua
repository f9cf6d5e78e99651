-- A stand-in for lua-resty-upstream-healthcheck in the benchmark: no registry has the library, so this asks the same
-- of ngx_lua for each probe (a new cosocket: settimeout, connect, send, receive a line, a regular expression over it, a
-- look into the shared dictionary, close), in light threads over slices of the peers as it does. It logs nothing and
-- keeps no streaks, so that its cost is rather below the library's.

local _M = {}

local tcp, spawn, wait, timer = ngx.socket.tcp, ngx.thread.spawn, ngx.thread.wait, ngx.timer.at
local find, sub, ceil, min = ngx.re.find, string.sub, math.ceil, math.min

local function probe(all, peer, number)
    local sock = tcp()
    sock:settimeout(all.timeout)
    local ok = sock:connect(peer.host, peer.port)
    if ok then
        ok = sock:send(all.request)
    end
    local line
    if ok then
        line = sock:receive()
    end
    local status = 0
    if line then
        local from, to = find(line, [[^HTTP/\d+\.\d+\s+(\d+)]], "joi", nil, 1)
        status = from and tonumber(sub(line, from, to)) or 0
        sock:close()
    end
    if all.statuses[status] then
        if all.shm:get("nok:many:p" .. number) then
            all.shm:delete("nok:many:p" .. number)
        end
    else
        all.shm:incr("nok:many:p" .. number, 1, 0)
    end
end

local function part(all, first, last)
    for number = first, last do
        probe(all, all.peers[number], number)
    end
end

local function cycle(premature, all)
    if premature then
        return
    end
    all.shm:get("v:many")
    local size = ceil(#all.peers / all.concurrency)
    local threads = {}
    for first = 1, #all.peers, size do
        threads[#threads + 1] = spawn(part, all, first, min(first + size - 1, #all.peers))
    end
    for _, thread in ipairs(threads) do
        wait(thread)
    end
    timer(all.interval, cycle, all)
end

function _M.spawn(all)
    timer(0, cycle, all)
end

return _M
