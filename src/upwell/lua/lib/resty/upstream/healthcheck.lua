-- resty.upstream.healthcheck: the interface of lua-resty-upstream-healthcheck 0.08 in front of upwell's checker.
--
-- spawn_checker only describes the check; the checker process carries it out. The pages are the library's, byte for byte.

local base, ngx = ...

local py, type, tostring, concat, ipairs = base.py, base.type, base.tostring, base.concat, base.ipairs

local upstream = base.require("ngx.upstream")
local get_upstreams, get_primary_peers, get_backup_peers =
    upstream.get_upstreams, upstream.get_primary_peers, upstream.get_backup_peers
local shared = ngx.shared

-- Checkers that this worker has started, by upstream.
local checkers = {}

local KINDS = { http = true, https = true, tcp = true }

local function spawn_checker(options)
    local kind = options.type
    if not kind then
        return nil, '"type" option required'
    end
    if not KINDS[kind] then
        return nil, 'only "http" and "https" type are supported right now'
    end

    local verify = options.ssl_verify
    if verify == nil then
        verify = true
    end

    local request = options.http_req
    if not request and kind ~= "tcp" then
        return nil, '"http_req" option required'
    end

    local interval = 1
    if options.interval then
        interval = options.interval / 1000
        if interval < 0.002 then
            interval = 0.002
        end
    end

    -- A list without a usable status accepts none; 0 is no status, so it stands for that.
    local statuses = ""
    if options.valid_statuses then
        local accepted = {}
        for _, status in ipairs(options.valid_statuses) do
            if type(status) == "number" then
                accepted[#accepted + 1] = tostring(status)
            end
        end
        statuses = #accepted > 0 and concat(accepted, " ") or "0"
    end

    local zone = options.shm
    if not zone then
        return nil, '"shm" option required'
    end
    if not shared[zone] then
        return nil, 'shm "' .. tostring(zone) .. '" not found'
    end

    local name = options.upstream
    if not name then
        return nil, "no upstream specified"
    end
    local peers, problem = get_primary_peers(name)
    if not peers then
        return nil, "failed to get primary peers: " .. problem
    end
    peers, problem = get_backup_peers(name)
    if not peers then
        return nil, "failed to get backup peers: " .. problem
    end

    problem = py.check_add(
        tostring(name), kind, tostring(request or ""), interval, options.timeout or 1000, options.fall or 5,
        options.rise or 2, statuses, options.port or 0, options.host or "", verify and true or false,
        options.concurrency or 1
    )
    if problem then
        return nil, problem
    end
    checkers[name] = (checkers[name] or 0) + 1
    return true
end

local function checked(name)
    return (checkers[name] or 0) ~= 0
end

-- The plain page.

local function list_peers(page, peers)
    for _, peer in ipairs(peers) do
        page[#page + 1] = "        " .. peer.name .. (peer.down and " DOWN\n" or " UP\n")
    end
end

local function status_page()
    local names, problem = get_upstreams()
    if not names then
        return "failed to get upstream names: " .. problem
    end
    local page = {}
    for i, name in ipairs(names) do
        local primary, backup
        page[#page + 1] = (i > 1 and "\n" or "") .. "Upstream " .. name .. (checked(name) and "" or " (NO checkers)")
        page[#page + 1] = "\n    Primary Peers\n"
        primary, problem = get_primary_peers(name)
        if not primary then
            return "failed to get primary peers in upstream " .. name .. ": " .. problem
        end
        list_peers(page, primary)
        page[#page + 1] = "    Backup Peers\n"
        backup, problem = get_backup_peers(name)
        if not backup then
            return "failed to get backup peers in upstream " .. name .. ": " .. problem
        end
        list_peers(page, backup)
    end
    return concat(page)
end

-- The page for Prometheus.

local METRIC = "nginx_upstream_status_info"

local function summary(page, name, state)
    for _, each in ipairs({ "UP", "DOWN", "UNKNOWN" }) do
        page[#page + 1] = METRIC .. '{name="' .. name .. '",status="' .. each .. '"} ' .. (each == state and 1 or 0) .. "\n"
    end
end

local function measure(page, name, peers, role)
    local found = false
    for _, peer in ipairs(peers or {}) do
        local head = METRIC .. '{name="' .. name .. '",endpoint="' .. peer.name .. '",status="'
        local tail = '",role="' .. role .. '"} '
        page[#page + 1] = head .. "UP" .. tail .. (peer.down and 0 or 1) .. "\n"
        page[#page + 1] = head .. "DOWN" .. tail .. (peer.down and 1 or 0) .. "\n"
        found = found or not peer.down
    end
    return found
end

local function prometheus_status_page()
    local names, problem = get_upstreams()
    if not names then
        return nil, "failed to get upstream names: " .. problem
    end
    local page = {
        "# HELP " .. METRIC .. " The running status of nginx upstream\n",
        "# TYPE " .. METRIC .. " gauge\n",
    }
    for _, name in ipairs(names) do
        if not checked(name) then
            summary(page, name, "UNKNOWN")
        else
            local primary = measure(page, name, get_primary_peers(name), "PRIMARY")
            local backup = measure(page, name, get_backup_peers(name), "BACKUP")
            summary(page, name, (primary or backup) and "UP" or "DOWN")
        end
    end
    return concat(page)
end

return {
    _VERSION = "0.08",
    spawn_checker = spawn_checker,
    status_page = status_page,
    prometheus_status_page = prometheus_status_page,
}
