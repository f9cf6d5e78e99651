"""`limit_req` with a clock that stands still, and requests with another client than their connection."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import get

LIMITED = """
limit_req_zone $arg_x zone=a:1m rate=2r/s;
limit_req_zone $arg_y zone=b:1m rate=1r/s;
limit_req_status 429;
server {
    listen 8080;
    add_header X-Limit $limit_req_status always;
    location / { limit_req zone=a burst=3; proxy_pass http://10.0.0.1; }
    location /some { limit_req zone=a burst=3 delay=1; proxy_pass http://10.0.0.1; }
    location /two { limit_req zone=a burst=5; limit_req zone=b burst=5; proxy_pass http://10.0.0.1; }
    location /page { limit_req zone=a; error_page 429 = /other; proxy_pass http://10.0.0.1; }
    location /other { limit_req zone=a; proxy_pass http://10.0.0.1; }
}
"""


def waits(serving: Serving, path: str) -> float:
    """For how many seconds the request is kept from the peer."""
    before = len(serving.origins[0].connections)
    serving.client().send(get(path))
    for tenth in range(100):
        serving.loop.run()
        if len(serving.origins[0].connections) > before:
            return tenth / 10
        serving.loop.advance(0.1)
    raise AssertionError("it was never sent")


def test_requests_above_the_rate_wait_for_their_turn(tmp_path: Path) -> None:
    with Serving(tmp_path, LIMITED) as serving:
        assert waits(serving, "/?x=1") == 0.0
        assert waits(serving, "/?x=1") == 0.5
        assert waits(serving, "/?x=2") == 0.0
        clients = [serving.client() for _ in range(4)]
        for client in clients:
            client.send(get("/?x=2"))
        assert clients[3].answer().status == 429
        assert clients[3].protocol.exchange is None
        assert "delaying request, excess: 1.000, by zone" in "".join(serving.log.lines)


def test_a_part_of_a_burst_goes_at_once(tmp_path: Path) -> None:
    with Serving(tmp_path, LIMITED) as serving:
        assert [waits(serving, "/some?x=1") for _ in range(3)] == [0.0, 0.0, 0.5]


def test_the_longest_of_several_delays_counts(tmp_path: Path) -> None:
    with Serving(tmp_path, LIMITED) as serving:
        assert waits(serving, "/two?x=1&y=1") == 0.0
        assert waits(serving, "/two?x=1&y=1") == 1.0
        assert waits(serving, "/two?x=1&y=2") == 0.0
        assert waits(serving, "/two?x=1") == 0.5
        assert 'by zone "b"' in "".join(serving.log.lines)


def test_a_request_meets_its_limits_once(tmp_path: Path) -> None:
    with Serving(tmp_path, LIMITED) as serving:
        assert serving.ask(get("/page?x=1")).field("X-Limit") == "PASSED"
        answer = serving.ask(get("/page?x=1"))
        assert (answer.status, answer.field("X-Limit")) == (200, "REJECTED")


@pytest.mark.parametrize("place", ["http", "server", "location"])
def test_lua_the_rules_and_the_logs_see_the_real_client(tmp_path: Path, place: str) -> None:
    believing = "set_real_ip_from 192.0.2.1;"
    given = {one: believing if one == place else "" for one in ("http", "server", "location")}
    text = f"""
    {given["http"]}
    log_format who "$remote_addr $realip_remote_addr $realip_remote_port";
    access_log logs/access.log who;
    server {{
        listen 8080;
        {given["server"]}
        location / {{
            {given["location"]}
            deny 203.0.113.9;
            content_by_lua_block {{
                ngx.say(ngx.var.remote_addr, " ", ngx.var.remote_port, " ", ngx.var.realip_remote_addr)
            }}
        }}
    }}
    """
    with Serving(tmp_path, text) as serving:
        client = serving.client()
        assert client.ask(get("/", "X-Real-IP: 203.0.113.7:80")).body == b"203.0.113.7 80 192.0.2.1\n"
        assert client.ask(get("/", "X-Real-IP: 203.0.113.9")).status == 403
        assert client.ask(get("/")).body == b"192.0.2.1 50000 192.0.2.1\n"
        client.send(b"nonsense\r\n\r\n")
        lines = [b"203.0.113.7 192.0.2.1 50000", b"203.0.113.9 192.0.2.1 50000", *[b"192.0.2.1 192.0.2.1 50000"] * 2]
        assert serving.lines() == lines
        assert "access forbidden by rule, client: 203.0.113.9," in "".join(serving.log.lines)


def test_a_subrequest_is_its_request_s_client_s(tmp_path: Path) -> None:
    text = """
    set_real_ip_from 192.0.2.1;
    server {
        listen 8080;
        location / {
            content_by_lua_block { ngx.print(ngx.location.capture("/inner").body) }
        }
        location /inner { return 200 "$remote_addr $realip_remote_addr"; }
    }
    """
    with Serving(tmp_path, text) as serving:
        assert serving.ask(get("/", "X-Real-IP: 203.0.113.7")).body == b"203.0.113.7 192.0.2.1"
