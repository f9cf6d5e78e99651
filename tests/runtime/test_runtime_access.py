"""Gates that nginx is not built with (Lua code), and clients that leave while somebody decides about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.serving import Serving

_ASK = b"GET %b HTTP/1.1\r\nHost: a\r\nAuthorization: Basic cDpw\r\n\r\n"  # p:p


def _serving(folder: Path, locations: str) -> Serving:
    (folder / "users").write_text("p:{PLAIN}p\nq:{PLAIN}x\n")
    return Serving(
        folder,
        f"""server {{ listen 127.0.0.1:8080; auth_basic_user_file users;
            location = /yes {{ return 204; }} location = /no {{ return 403; }} {locations} }}""",
    )


@pytest.mark.parametrize(
    ("gates", "status"),
    [
        ("access_by_lua 'return';", 404),  # a handler that ends has let the request in
        ("access_by_lua 'ngx.exit(ngx.OK)';", 404),
        ("access_by_lua 'ngx.exit(ngx.DECLINED)';", 403),
        ("access_by_lua 'ngx.exit(403)';", 403),
        ("access_by_lua 'ngx.exit(401)';", 401),
        ("access_by_lua 'ngx.exit(500)';", 500),
        ("access_by_lua 'ngx.exit(401)'; auth_request /yes;", 404),
        ("access_by_lua 'ngx.exit(403)'; auth_request /no;", 403),
        ("access_by_lua 'return'; auth_request /no;", 404),
        ("access_by_lua 'ngx.say(1)';", 200),
        ("access_by_lua 'ngx.exit(403)'; auth_basic r;", 404),
        ("access_by_lua 'error(1)';", 500),
    ],
)
def test_satisfy_any_with_lua(tmp_path: Path, gates: str, status: int) -> None:
    with _serving(tmp_path, f"location /x {{ satisfy any; deny all; {gates} }}") as serving:
        assert serving.ask(_ASK % b"/x").status == status


def test_lua_code_s_challenge_goes_out(tmp_path: Path) -> None:
    code = """access_by_lua 'ngx.header["WWW-Authenticate"] = "Bearer" ngx.exit(401)';"""
    for more in ("satisfy any;", "auth_delay 1s;", ""):
        with _serving(tmp_path, f"location /x {{ {more} {code} }}") as serving:
            client = serving.client()
            client.send(_ASK % b"/x")
            serving.loop.advance(1.0)
            answer = client.answer()
            assert (answer.status, answer.field("WWW-Authenticate")) == (401, "Bearer"), more


def test_lua_code_comes_last(tmp_path: Path) -> None:
    with _serving(tmp_path, "location /x { auth_request /no; access_by_lua 'ngx.exit(500)'; }") as serving:
        assert serving.ask(_ASK % b"/x").status == 403


def test_a_401_waits_and_nothing_else(tmp_path: Path) -> None:
    with _serving(tmp_path, "location /x { auth_delay 3s; auth_basic r; } location /no { deny all; }") as serving:
        client = serving.client()
        client.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        serving.loop.advance(2.9)
        assert client.protocol.exchange is not None
        assert not client.far.received
        serving.loop.advance(0.2)
        assert client.answer().status == 401
        assert serving.ask(_ASK % b"/x").status == 404
        assert serving.ask(_ASK % b"/no").status == 403


@pytest.mark.parametrize("leave", ["reset", "finish"])
@pytest.mark.parametrize("more", ["", "satisfy any;"])
def test_who_leaves_does_not_wait_on(tmp_path: Path, leave: str, more: str) -> None:
    with _serving(tmp_path, f"location /x {{ auth_delay 3s; auth_basic r; {more} }}") as serving:
        client = serving.client()
        client.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        getattr(client.far, leave)()
        serving.loop.run()
        assert b" 499 " in serving.lines()[-1]
        assert client.far.closed()


def test_who_leaves_takes_the_request_along_that_was_asked_for_him(tmp_path: Path) -> None:
    text = "location /x { auth_request /decides; } location = /decides { proxy_pass http://10.0.0.1; }"
    with _serving(tmp_path, text) as serving:
        client = serving.client()
        client.send(_ASK % b"/x")
        serving.loop.run()
        (asked,) = serving.origins[0].connections
        assert asked.taken().startswith(b"GET /decides HTTP/1.1\r\n")
        client.far.reset()
        serving.loop.run()
        assert asked.closed()
        assert b" 499 " in serving.lines()[-1]


def test_the_content_of_who_is_asked_is_not_fetched(tmp_path: Path) -> None:
    text = "location /x { auth_request /decides; } location = /decides { proxy_pass http://10.0.0.1; }"
    with _serving(tmp_path, text) as serving:
        client = serving.client()
        client.send(_ASK % b"/x")
        serving.loop.run()
        (asked,) = serving.origins[0].connections
        asked.taken()
        asked.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        serving.loop.run()
        assert client.answer().status == 404  # let in, and nothing is there
        assert asked.closed()


def test_what_does_not_decide_costs_nothing(tmp_path: Path) -> None:
    with _serving(tmp_path, "location /x { satisfy any; auth_delay 1s; proxy_pass http://10.0.0.1; }") as serving:
        (endpoint,) = serving.runtime._endpoints
        client = serving.client()
        client.send(_ASK % b"/x")
        serving.loop.run()
        assert client.protocol.exchange is not None
        location = client.protocol.exchange.location
        assert location.simple
        assert not location.access
        assert not location.variables
        assert endpoint.on_open is None
