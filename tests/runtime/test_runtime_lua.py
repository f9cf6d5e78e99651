"""Lua handlers in a served configuration: what reaches the client when they set fields, redirect or fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import get

CONFIGURATION = """
access_log off;
server {
    listen 127.0.0.1:8080;
    location /redirect { content_by_lua_block { ngx.redirect("/foo") } }
    location /fields { content_by_lua_block { ngx.header.Server = "mine" ngx.header.Date = "today" ngx.say("x") } }
    location /wrong { set_by_lua_block $z { error("no") } return 200 "in"; }
    location /right { set_by_lua_block $z { return "value" } return 200 $z; }
}
"""


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path, CONFIGURATION) as made:
        yield made


def values(serving: Serving, path: str, name: str) -> list[str]:
    return [value for key, value in serving.ask(get(path)).fields if key.lower() == name]


def test_a_redirect_has_one_location(serving: Serving) -> None:
    assert len(values(serving, "/redirect", "location")) == 1


def test_server_and_date_are_the_handler_s_alone(serving: Serving) -> None:
    assert values(serving, "/fields", "server") == ["mine"]
    assert values(serving, "/fields", "date") == ["today"]


def test_an_error_in_set_by_lua_is_500(serving: Serving) -> None:
    assert serving.ask(get("/wrong")).status == 500
    answer = serving.ask(get("/right"))
    assert (answer.status, answer.body) == (200, b"value")
