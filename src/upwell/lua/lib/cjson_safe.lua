-- cjson.safe: cjson that gives nil and a message instead of raising.

local base = ...

local pcall = base.pcall
local cjson = base.require("cjson")

local function safe(call)
    return function(value)
        local ok, result = pcall(call, value)
        if ok then
            return result
        end
        return nil, result
    end
end

local copy = {}
for name, value in base.next, cjson do
    copy[name] = value
end
copy.encode = safe(cjson.encode)
copy.decode = safe(cjson.decode)
copy.new = function() return copy end

return copy
