"""The rewrite phase with Lua code in it, and within subrequests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import get

CONFIGURATION = r"""
upstream one { server 10.0.0.1:80; }
upstream two { server 10.0.0.2:80; }
server {
    listen 127.0.0.1:8080;
    location /content {
        proxy_pass http://one;
        if ($arg_a) { content_by_lua_block { ngx.print("lua ", ngx.var.o or "nil") } }
        set $o "$arg_o";
    }
    location /set {
        if ($arg_a) { set_by_lua_block $b { return "from lua " .. ngx.var.arg_a } }
        return 200 "<$b>";
    }
    location /late {
        rewrite_by_lua_block { ngx.var.seen = ngx.var.seen .. "outer" }
        set $seen "";
        if ($arg_a) { rewrite_by_lua_block { ngx.var.seen = ngx.var.seen .. "inner" } }
        if ($arg_b) { add_header X b; }
        if ($arg_c) { rewrite ^ /moved last; }
        content_by_lua_block { ngx.print(ngx.var.seen) }
    }
    location /moved { return 200 "moved <$seen>"; }
    location /access {
        content_by_lua_block { ngx.print("let in") }
        if ($arg_a) { access_by_lua_block { ngx.exit(403) } }
    }
    location /again { rewrite_by_lua_block { ngx.req.set_uri("/again", true) } proxy_pass http://one; }
    location /jump { if ($arg_a) { rewrite_by_lua_block { ngx.req.set_uri("/moved", true) } } proxy_pass http://one; }
    location /stays { rewrite_by_lua_block { ngx.req.set_uri("/new") } proxy_pass http://one; }
    location /capture { content_by_lua_block { ngx.print(ngx.location.capture("/captured/a%20b").body) } }
    location /captured/ { rewrite ^/captured/(.*) /shown?q=$1; }
    location /shown { return 200 "$uri $args"; }
    location /two { proxy_pass http://one; if ($arg_a) { proxy_pass http://two; } }
    location /uses { set $seen2 "$unset"; return 200 "$seen2"; if ($arg_a) { set $unset 1; } }
}
"""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(tmp_path_factory.mktemp("rewrite"), CONFIGURATION) as made:
        yield made


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/content?a=1&o=2", 200, "lua 2"),
        ("/set?a=x", 200, "<from lua x>"),
        ("/set", 200, "<>"),
        ("/late", 200, "outer"),
        ("/late?a=1", 200, "inner"),
        ("/late?b=1", 200, "outer"),
        ("/late?c=1", 200, "moved <>"),
        ("/access", 200, "let in"),
        ("/access?a=1", 403, None),
        ("/again", 500, None),
        ("/jump?a=1", 200, "moved <>"),
        ("/capture", 200, "/shown q=a%20b"),
        ("/uses", 200, ""),
    ],
)
def test_lua_code_and_steps_take_turns(serving: Serving, path: str, status: int, body: str | None) -> None:
    answer = serving.ask(get(path))
    assert answer.status == status
    if body is not None:
        assert answer.body.decode() == body


@pytest.mark.parametrize(
    ("path", "line"), [("/content", b"GET /content "), ("/stays?a", b"GET /new?a "), ("/two?a=1", b"GET /two?a=1 ")]
)
def test_what_reaches_a_peer(serving: Serving, path: str, line: bytes) -> None:
    assert serving.ask(get(path)).body.startswith(line)
