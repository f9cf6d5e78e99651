-- ngx.exit, redirect, status, get_phase, and the constants.

local base, ngx = ...

local py, await, yield, OPERATION = base.py, base.await, base.yield, base.OPERATION
local type, tostring, rawset, raise, bad_argument, tonumber = base.type, base.tostring, base.rawset, base.raise, base.bad_argument, base.tonumber
local setmetatable = base.setmetatable

ngx.OK, ngx.ERROR, ngx.AGAIN, ngx.DONE, ngx.DECLINED = 0, -1, -2, -4, -5

for name, value in base.next, {
    GET = 2, HEAD = 4, POST = 8, PUT = 16, DELETE = 32, MKCOL = 64, COPY = 128, MOVE = 256, OPTIONS = 512,
    PROPFIND = 1024, PROPPATCH = 2048, LOCK = 4096, UNLOCK = 8192, PATCH = 16384, TRACE = 32768,

    CONTINUE = 100, SWITCHING_PROTOCOLS = 101, OK = 200, CREATED = 201, ACCEPTED = 202, NO_CONTENT = 204,
    PARTIAL_CONTENT = 206, SPECIAL_RESPONSE = 300, MOVED_PERMANENTLY = 301, MOVED_TEMPORARILY = 302, FOUND = 302,
    SEE_OTHER = 303, NOT_MODIFIED = 304, TEMPORARY_REDIRECT = 307, PERMANENT_REDIRECT = 308, BAD_REQUEST = 400,
    UNAUTHORIZED = 401, PAYMENT_REQUIRED = 402, FORBIDDEN = 403, NOT_FOUND = 404, NOT_ALLOWED = 405,
    NOT_ACCEPTABLE = 406, REQUEST_TIMEOUT = 408, CONFLICT = 409, GONE = 410, UPGRADE_REQUIRED = 426,
    TOO_MANY_REQUESTS = 429, CLOSE = 444, ILLEGAL = 451, INTERNAL_SERVER_ERROR = 500, METHOD_NOT_IMPLEMENTED = 501,
    NOT_IMPLEMENTED = 501, BAD_GATEWAY = 502, SERVICE_UNAVAILABLE = 503, GATEWAY_TIMEOUT = 504,
    VERSION_NOT_SUPPORTED = 505, INSUFFICIENT_STORAGE = 507,
} do
    ngx["HTTP_" .. name] = value
end

-- Ends the handler: the operation "exit" is never resumed.
local function leave(status, waits)
    if waits then
        return yield(OPERATION, "exit", status)
    end
    return status
end

function ngx.exit(status)
    return leave(py.exit(status))
end

function ngx.redirect(uri, status)
    return leave(py.redirect(uri, status))
end

function ngx.get_phase()
    return py.get_phase()
end

-- ngx.status, ngx.headers_sent and ngx.is_subrequest are read and written like fields.

local read = {
    status = py.status_get,
    headers_sent = py.headers_sent,
    is_subrequest = py.is_subrequest,
    ctx = py.ctx_get,
}
local write = {
    status = py.status_set,
    ctx = function(value)
        if type(value) ~= "table" then
            return raise("bad argument #3 to '?' (table expected, got " .. type(value) .. ")")
        end
        return py.ctx_set(value)
    end,
    headers_sent = function() return raise("attempt to write to ngx.headers_sent") end,
}

-- What OpenResty has and upwell has not is refused by its name where it is used, not as a nil value.
local refuse_below

local function refusal(path)
    return setmetatable({}, {
        __index = function(_, name) return refuse_below(path .. "." .. tostring(name)) end,
        __call = function() return raise(path .. " is not supported by upwell") end,
        __metatable = false,
    })
end

refuse_below = refusal

local absent = {
    socket = refusal("ngx.socket"), exec = refusal("ngx.exec"), on_abort = refusal("ngx.on_abort"),
    balancer = refusal("ngx.balancer"), ssl = refusal("ngx.ssl"), semaphore = refusal("ngx.semaphore"),
    run_worker_thread = refusal("ngx.run_worker_thread"), pipe = refusal("ngx.pipe"), resp = refusal("ngx.resp"),
    errlog = refusal("ngx.errlog"), process = refusal("ngx.process"), udp = refusal("ngx.udp"),
}
base.refusal = refusal

setmetatable(ngx, {
    __index = function(_, name)
        local get = read[name]
        if get then
            return get()
        end
        return absent[name]
    end,
    __newindex = function(self, name, value)
        local set = write[name]
        if set then
            return set(value)
        end
        return rawset(self, name, value)
    end,
})

ngx.config = {
    debug = false,
    subsystem = "http",
    nginx_version = py.nginx_version(),
    ngx_lua_version = 10028,
    prefix = function() return py.prefix() end,
    nginx_configure = function() return "" end,
}
