"""The configurations of the system tests, for free ports."""

from __future__ import annotations


def proxying(
    front: int, peers: list[int], location: str = "", upstream: str = "", http: str = "", workers: int = 1
) -> str:
    """One server on `front` that proxies everything to one upstream; more directives for each level as text."""
    servers = "\n".join(f"        server 127.0.0.1:{peer};" for peer in peers)
    return f"""
worker_processes {workers};
events {{ worker_connections 1024; }}
http {{
    access_log logs/access.log;
    {http}
    upstream peers {{
{servers}
        {upstream}
    }}
    server {{
        listen 127.0.0.1:{front};
        server_name localhost;
        location / {{
            proxy_pass http://peers;
            {location}
        }}
    }}
}}
"""


def checked(front: int, peers: list[int], workers: int = 1, interval: int = 100, location: str = "") -> str:
    """`proxying` with the guide's checker and status page, but with probes `interval` milliseconds apart."""
    servers = "\n".join(f"        server 127.0.0.1:{peer};" for peer in peers)
    return f"""
worker_processes {workers};
error_log logs/error.log info;
events {{ worker_connections 1024; }}
http {{
    upstream peers {{
{servers}
    }}
    lua_shared_dict healthcheck 1m;
    init_worker_by_lua_block {{
        local hc = require "resty.upstream.healthcheck"
        local ok, err = hc.spawn_checker {{
            shm = "healthcheck", type = "http", upstream = "peers",
            http_req = "GET /index.html HTTP/1.0\\r\\nHost: peers\\r\\n\\r\\n",
            interval = {interval}, timeout = 1000, fall = 3, rise = 2, valid_statuses = {{200, 302}}, concurrency = 2,
        }}
        if not ok then ngx.log(ngx.ERR, "no checker: ", err) end
    }}
    server {{
        listen 127.0.0.1:{front};
        server_name localhost;
        location / {{ proxy_pass http://peers; }}
        location = /status {{
            access_log off;
            default_type text/plain;
            content_by_lua_block {{
                local hc = require "resty.upstream.healthcheck"
                ngx.say("Nginx Worker PID: ", ngx.worker.pid())
                ngx.print(hc.status_page())
            }}
        }}
        {location}
    }}
}}
"""
