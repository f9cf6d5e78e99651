-- ngx.upstream (lua-upstream-nginx-module): what the worker knows of its upstreams.

local base = ...

local py, type, raise, select = base.py, base.type, base.raise, base.select

-- Python gives a list as its length and one flat table, in which false stands for a field that is not there.
local function split(fields, ok, length, flat)
    if not ok then
        return nil, length
    end
    local count, list = #fields, {}
    for i = 0, length - 1 do
        local entry = {}
        for j = 1, count do
            entry[fields[j]] = flat[i * count + j] or nil
        end
        list[i + 1] = entry
    end
    return list
end

local PEER = {
    "id", "name", "weight", "current_weight", "effective_weight", "conns", "fails", "max_fails", "fail_timeout",
    "accessed", "checked", "down",
}
local SERVER = { "name", "addr", "weight", "max_fails", "fail_timeout", "backup", "down" }

local function name_of(name, count)
    if count ~= 1 then
        return raise("exactly one argument expected")
    end
    if type(name) ~= "string" and type(name) ~= "number" then
        return base.bad_argument(1, "?", "string expected, got " .. type(name))
    end
    return base.tostring(name)
end

local upstream = {}

function upstream.get_upstreams(...)
    if select("#", ...) ~= 0 then
        return raise("no argument expected")
    end
    return py.upstream_names()
end

function upstream.get_primary_peers(...)
    return split(PEER, py.upstream_peers(name_of((...), select("#", ...)), false))
end

function upstream.get_backup_peers(...)
    return split(PEER, py.upstream_peers(name_of((...), select("#", ...)), true))
end

function upstream.get_servers(...)
    local list, problem = split(SERVER, py.upstream_servers(name_of((...), select("#", ...))))
    if list then
        for i = 1, #list do
            -- Several addresses of one name come as one string, separated by spaces.
            local addresses = {}
            for address in base.gmatch(list[i].addr, "%S+") do
                addresses[#addresses + 1] = address
            end
            if #addresses > 1 then
                list[i].addr = addresses
            end
        end
    end
    return list, problem
end

function upstream.set_peer_down(...)
    if select("#", ...) ~= 4 then
        return raise("exactly 4 arguments expected")
    end
    local name, backup, id, down = ...
    return py.upstream_set_down(name_of(name, 1), backup and true or false, id, down and true or false)
end

function upstream.current_upstream_name()
    return py.upstream_current()
end

return upstream
