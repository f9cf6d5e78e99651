-- ngx.location.capture and capture_multi: requests to this server from within.

local base, ngx = ...

local py, await, type, tostring, unpack, select = base.py, base.await, base.type, base.tostring, base.unpack, base.select
local bad_argument, raise = base.bad_argument, base.raise

-- Appends the six values of one request to `list`.
local function describe(list, count, uri, options, name)
    options = options or {}
    if type(options) ~= "table" then
        return bad_argument(2, name, "table expected, got " .. type(options))
    end
    local args = options.args
    if type(args) == "table" then
        args = base.encode_args(args)
    elseif args ~= nil and type(args) ~= "string" then
        return raise("Bad args option value")
    end
    if options.copy_all_vars or options.share_all_vars or options.vars then
        -- Variables that `set` made are copied into each subrequest; sharing them back is what upwell lacks.
        if options.share_all_vars then
            return raise("the share_all_vars option is not supported by upwell")
        end
        if options.vars then
            return raise("the vars option is not supported by upwell")
        end
    end
    local path, query, method = py.capture_target(uri, args, options.method)
    local body = options.body
    if body ~= nil and type(body) ~= "string" then
        return raise("Bad http request body")
    end
    if body == nil and (options.always_forward_body or method == "POST" or method == "PUT") then
        body = py.req_body()
    end
    local ctx = options.ctx
    if ctx ~= nil and type(ctx) ~= "table" then
        return raise("Bad ctx option value type " .. type(ctx) .. ", expected a Lua table")
    end
    list[count + 1], list[count + 2], list[count + 3], list[count + 4] = path, query, method, body
    list[count + 5], list[count + 6] = ctx ~= nil, ctx
    return count + 6
end

local function answers(...)
    local results = {}
    for i = 1, select("#", ...), 4 do
        local status, body, truncated, header = select(i, ...)
        results[#results + 1] = { status = status, body = body, truncated = truncated, header = header }
    end
    return unpack(results)
end

ngx.location = {}

function ngx.location.capture(uri, options)
    local list = {}
    local count = describe(list, 0, uri, options, "capture")
    return answers(await("capture", unpack(list, 1, count)))
end

function ngx.location.capture_multi(requests)
    if type(requests) ~= "table" then
        return bad_argument(1, "capture_multi", "table expected, got " .. type(requests))
    end
    if #requests == 0 then
        return raise("at least one subrequest should be specified")
    end
    local list, count = {}, 0
    for i = 1, #requests do
        local request = requests[i]
        if type(request) ~= "table" then
            return raise("the query argument " .. i .. " is not a table, but a " .. type(request))
        end
        count = describe(list, count, request[1], request[2], "capture_multi")
    end
    return answers(await("capture", unpack(list, 1, count)))
end
