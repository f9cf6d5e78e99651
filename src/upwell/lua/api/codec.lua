-- Escaping, base64, digests: all done in Python.

local base, ngx = ...

local py, type, tostring, bad_argument = base.py, base.type, base.tostring, base.bad_argument

local function text_of(value)
    local kind = type(value)
    if kind == "nil" then
        return ""
    end
    return kind == "string" and value or tostring(value)
end

local function simple(name)
    local call = py[name]
    ngx[name] = function(value)
        return call(text_of(value))
    end
end

for _, name in base.ipairs({
    "unescape_uri", "md5", "md5_bin", "sha1_bin", "crc32_short", "crc32_long", "quote_sql_str",
}) do
    simple(name)
end

function ngx.escape_uri(value, kind)
    if type(value) == "nil" then
        return bad_argument(1, "escape_uri", "string expected, got nil")
    end
    if kind ~= nil and type(kind) ~= "number" then
        return bad_argument(2, "escape_uri", "number expected, got " .. type(kind))
    end
    return py.escape_uri(text_of(value), kind)
end

function ngx.encode_base64(value, unpadded)
    return py.encode_base64(text_of(value), unpadded and true or false)
end

function ngx.decode_base64(value)
    if type(value) ~= "string" then
        return bad_argument(1, "decode_base64", "string argument only")
    end
    return py.decode_base64(value)
end

function ngx.hmac_sha1(key, value)
    return py.hmac_sha1(text_of(key), text_of(value))
end
