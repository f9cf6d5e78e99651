"""The pages that tell of the inside are for local clients, unless the configuration says who may see them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.serving import Serving

_OUTSIDE = ("192.0.2.1", 50000)
_PAGES = ("upwell_status", "check_status")


def _status(serving: Serving, peer: tuple[str, int], target: str = "/") -> int:
    client = serving.client(peer)
    client.send(b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % target.encode())
    return client.answer().status


@pytest.mark.parametrize("page", _PAGES)
@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("127.0.0.1", 200),
        ("127.255.0.9", 200),
        ("::1", 200),
        ("::ffff:127.0.0.1", 200),
        ("128.0.0.1", 403),
        ("10.0.0.1", 403),
        ("192.0.2.1", 403),
        ("::", 403),
        ("fe80::1", 403),
        ("::ffff:10.0.0.1", 403),
    ],
)
def test_without_a_rule_they_are_for_local_clients(tmp_path: Path, page: str, address: str, status: int) -> None:
    with Serving(tmp_path, f"server {{ listen 127.0.0.1:8080; location / {{ {page}; }} }}") as serving:
        assert _status(serving, (address, 50000)) == status
        said = [line for line in serving.log.lines if f'"{page}" without "allow" or "deny"' in line]
        assert len(said) == (status == 403)


@pytest.mark.parametrize("page", _PAGES)
@pytest.mark.parametrize(
    ("http", "server", "location", "status"),
    [
        ("", "", "allow 192.0.2.0/24; deny all;", 200),
        ("", "allow all;", "", 200),
        ("allow all;", "", "", 200),
        ("", "", "deny 10.0.0.0/8;", 200),  # the operator's own rule, and as open as it says
        ("", "", "allow 127.0.0.1; deny all;", 403),
        ("allow all;", "deny all;", "", 403),
    ],
)
def test_a_rule_of_any_level_decides(
    tmp_path: Path, page: str, http: str, server: str, location: str, status: int
) -> None:
    text = f"{http} server {{ listen 127.0.0.1:8080; {server} location / {{ {page}; {location} }} }}"
    with Serving(tmp_path, text) as serving:
        assert _status(serving, _OUTSIDE) == status


_LUA = 'access_by_lua_block { if ngx.var.arg_key ~= "open" then ngx.exit(403) end }'


@pytest.mark.parametrize("page", _PAGES)
@pytest.mark.parametrize(
    ("rules", "outside", "inside"),
    [
        # With the key, and without. Code may look at every request and decide nothing: it opens no page by being there.
        (_LUA, (403, 403), (200, 403)),
        (f"allow all; {_LUA}", (200, 403), (200, 403)),
        (f"satisfy any; {_LUA}", (403, 403), (200, 403)),
        (f"satisfy any; deny all; {_LUA}", (200, 403), (200, 403)),
    ],
    ids=["all", "opened", "any", "any of two"],
)
def test_lua_code_alone_opens_no_page(
    tmp_path: Path, page: str, rules: str, outside: tuple[int, int], inside: tuple[int, int]
) -> None:
    with Serving(tmp_path, f"server {{ listen 127.0.0.1:8080; location / {{ {page}; {rules} }} }}") as serving:
        for client, expected in ((_OUTSIDE, outside), (("127.0.0.1", 50000), inside)):
            assert (_status(serving, client, "/?key=open"), _status(serving, client)) == expected


def test_nobody_is_led_around_the_gate_but_by_the_author(tmp_path: Path) -> None:
    """Redirects within the server meet it again. A subrequest of Lua code does not, as in nginx for any access rule."""
    text = """
    server {
        listen 127.0.0.1:8080;
        location = /status { upwell_status; status_format json; }
        location = /page { error_page 404 /status; return 404; }
        location = /captured { content_by_lua_block { ngx.print(ngx.location.capture("/status").status) } }
    }
    """
    with Serving(tmp_path, text) as serving:
        for target in ("/status", "/page"):
            assert (target, _status(serving, _OUTSIDE, target)) == (target, 403)
        client = serving.client(_OUTSIDE)
        client.send(b"GET /captured HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert client.answer().body == b"200"


@pytest.mark.parametrize("page", _PAGES)
@pytest.mark.parametrize(
    ("came_from", "named", "status"),
    [("127.0.0.1", "127.0.0.1", 200), ("127.0.0.1", "192.0.2.1", 403), ("192.0.2.1", "127.0.0.1", 403)],
)
def test_a_proxy_that_is_believed_makes_nobody_local(
    tmp_path: Path, page: str, came_from: str, named: str, status: int
) -> None:
    believed = "set_real_ip_from 127.0.0.1; set_real_ip_from 192.0.2.0/24;"
    text = f"{believed} server {{ listen 127.0.0.1:8080; location / {{ {page}; }} }}"
    with Serving(tmp_path, text) as serving:
        client = serving.client((came_from, 50000))
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Real-IP: %s\r\nConnection: close\r\n\r\n" % named.encode())
        assert client.answer().status == status


def test_other_locations_are_as_open_as_ever(tmp_path: Path) -> None:
    text = "server { listen 127.0.0.1:8080; location / { return 204; } location = /status { upwell_status; } }"
    with Serving(tmp_path, text) as serving:
        assert _status(serving, _OUTSIDE) == 204
        assert _status(serving, _OUTSIDE, "/status") == 403
