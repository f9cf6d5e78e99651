"""Blocks: inheritance, frozen settings, and what a loaded configuration does not allow any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from upwell.config.model import Config
from upwell.modules.access import AccessSettings
from upwell.modules.http import HttpSettings
from upwell.modules.load import load
from upwell.modules.proxy import ProxySettings

_TEXT = """
events {}
http {
    client_max_body_size 5;
    proxy_set_header A a;
    allow 10.0.0.1;
    server {
        listen 8099;
        keepalive_timeout 7;
        location / {
            proxy_pass http://127.0.0.1:1;
            proxy_set_header B b;
            location /in { deny all; }
        }
        location /other {}
    }
}
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "nginx.conf").write_text(_TEXT)
    return load("nginx.conf", str(tmp_path))


def test_levels_inherit_values_and_whole_lists(config: Config) -> None:
    http = next(config.main.of("http"))
    server = next(http.of("server"))
    root, other = server.of("location")
    inner = next(root.of("location"))
    assert [block[HttpSettings].client_max_body_size for block in (http, server, root, inner)] == [5, 5, 5, 5]
    assert (http[HttpSettings].keepalive_timeout, inner[HttpSettings].keepalive_timeout) == (75.0, 7.0)
    assert [name for name, _ in other[ProxySettings].set_headers] == ["A"]
    assert [name for name, _ in root[ProxySettings].set_headers] == ["B"]
    assert [name for name, _ in inner[ProxySettings].set_headers] == ["B"]
    assert [rule.allow for rule in root[AccessSettings].rules] == [True]
    assert [rule.allow for rule in inner[AccessSettings].rules] == [False]


def test_proxy_pass_is_not_inherited(config: Config) -> None:
    server = next(next(config.main.of("http")).of("server"))
    root = next(server.of("location"))
    assert root[ProxySettings].pass_ is not None
    assert next(root.of("location"))[ProxySettings].pass_ is None


def test_equal_levels_share_their_settings(config: Config) -> None:
    http = next(config.main.of("http"))
    server = next(http.of("server"))
    assert server[AccessSettings] is http[AccessSettings]
    assert server[HttpSettings] is server[HttpSettings]


def test_a_loaded_configuration_does_not_change(config: Config) -> None:
    with pytest.raises(RuntimeError, match="loaded"):
        config.main.set(HttpSettings, "default_type", "x")
    name = "default_type"
    with pytest.raises(AttributeError):
        setattr(config.main[HttpSettings], name, "x")


def test_around_finds_the_enclosing_block(config: Config) -> None:
    blocks = list(config.main.walk())
    assert blocks[-1].around("http").kind == "http"
    with pytest.raises(LookupError):
        config.main.around("server")
