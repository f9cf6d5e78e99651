"""What clients and peers may not bring about through features that meet: tunnels in error pages, lines in logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import get

CONFIGURATION = r"""
upstream one { server 10.0.0.1:80; }
upstream both { server 10.0.0.1:80; server 10.0.0.2:80; }
server {
    listen 127.0.0.1:8080;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection upgrade;
    location / { proxy_pass http://one; }
    location /both { proxy_pass http://both; }
    location /page { error_page 404 =200 /socket; return 404; }
    location /paced { error_page 404 =200 /slow; return 404; }
    location /slow { limit_rate 100; proxy_pass http://one; }
    location /filtered { proxy_pass http://one; header_filter_by_lua_block { ngx.status = 200 } }
    location /patient { proxy_ignore_client_abort on; proxy_pass http://one; }
    location /patient/slow { proxy_ignore_client_abort on; limit_rate 100; proxy_pass http://one; }
    location /loop { recursive_error_pages on; error_page 404 /loop$uri; return 404; }
    location /rate { set $limit_rate $arg_rate$uri; return 200 "x"; }
}
"""
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    return Serving(tmp_path, CONFIGURATION)


@pytest.mark.parametrize(("path", "status"), [("/page", 502), ("/paced", 502), ("/filtered", 200), ("/", 101)])
def test_a_101_that_the_client_does_not_get_opens_no_tunnel(serving: Serving, path: str, status: int) -> None:
    with serving:
        client = serving.client()
        client.send(get(path, "Connection: Upgrade", "Upgrade: websocket"))
        peer = serving.origins[0][0]
        peer.send(SWITCHED + b"raw bytes of the peer")
        taken = client.far.taken()
        assert taken.startswith(b"HTTP/1.1 %d " % status)
        assert (b"raw bytes" in taken) == (status == 101)
        assert peer.closed() == (status != 101)
        assert not [line for line in serving.log.lines if "unexpected" in line and "Error" in line]


@pytest.mark.parametrize("path", ["/loop/a%0d%0aforged", "/rate/%0aforged?rate=x"])
def test_no_request_begins_a_line_of_the_error_log(serving: Serving, path: str) -> None:
    with serving:
        serving.ask(get(path))
        lines = serving.log.lines
        assert any("forged" in line for line in lines)
        assert not any("\n" in line or "\r" in line for line in lines)


def test_a_peer_is_not_to_blame_for_a_switch_that_its_client_may_not_have(serving: Serving) -> None:
    serving.reply = SWITCHED
    with serving:
        for _ in range(4):  # more than max_fails of both
            assert serving.ask(get("/both", "Connection: Upgrade", "Upgrade: websocket", version="1.0")).status == 502
        client = serving.client()
        client.send(get("/both", "Connection: Upgrade", "Upgrade: websocket"))
        for origin in serving.origins:
            if origin.last.taken():
                origin.last.send(SWITCHED)
        assert client.far.taken().startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("path", ["/patient", "/patient/slow"])
def test_a_client_that_left_and_is_not_minded_raises_nothing(serving: Serving, path: str) -> None:
    with serving:
        client = serving.client()
        client.send(get(path))
        client.far.reset()
        serving.origins[0].last.send(b"HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n" + bytes(200_000))
        serving.origins[0].last.send(bytes(200_000))
        serving.loop.advance(5.0)
        assert not [line for line in serving.log.lines if "unexpected" in line]
