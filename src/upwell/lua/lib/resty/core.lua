-- resty.core: nothing to load, as upwell's API is what that library would put in place.

return { version = "0.1.28" }
