"""Where contents go by configuration: client_body_temp_path, client_body_in_file_only, the buffer, the limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import get, post
from upwell.errors import ConfigErrors
from upwell.modules.load import load
from upwell.runtime.build import plan

SERVER = "server { listen 127.0.0.1:8080; access_log logs/access.log lengths; %s }"
HTTP = """
upstream o { server 10.0.0.1:80; }
log_format lengths "$request_length $request_body_file";
client_body_buffer_size 10;
"""


def _folders(tmp_path: Path, http: str) -> list[str]:
    (tmp_path / "nginx.conf").write_text(f"events {{}} http {{ {http} }}")
    return [path.removeprefix(str(tmp_path)) for path in plan(load("nginx.conf", str(tmp_path))).folders]


def test_folders_are_made_where_the_configuration_has_use_for_them(tmp_path: Path) -> None:
    assert _folders(tmp_path, "server { listen 8080; }") == []
    assert _folders(tmp_path, "client_body_in_file_only off; server { listen 8080; }") == []
    assert _folders(tmp_path, "server { location / { client_body_in_file_only clean; } }") == ["/client_body_temp"]
    text = "client_body_temp_path a; server { client_body_temp_path b 1 2; location / { client_body_temp_path /c; } }"
    assert _folders(tmp_path, text) == ["/a", "/b", "/c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("client_body_temp_path a 0;", '"client_body_temp_path" directive invalid value'),
        ("client_body_temp_path a 1 x;", '"client_body_temp_path" directive invalid value'),
        ("client_body_temp_path a 1 2 3 4;", 'invalid number of arguments in "client_body_temp_path" directive'),
        ("client_body_temp_path a; client_body_temp_path b;", '"client_body_temp_path" directive is duplicate'),
        ("client_body_in_file_only yes;", 'invalid value "yes"'),
    ],
)
def test_bad_ones_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigErrors, match=message):
        _folders(tmp_path, text)


def test_a_level_has_its_own_folder(tmp_path: Path) -> None:
    text = (
        HTTP
        + f"client_body_temp_path {tmp_path}/outer;"
        + SERVER
        % f"""
        location / {{ proxy_pass http://o; client_body_in_file_only on; }}
        location /inner/ {{ proxy_pass http://o; client_body_temp_path {tmp_path}/inner; client_body_in_file_only on; }}
        location /none/ {{ proxy_pass http://o; client_body_in_file_only off; }}
        """
    )
    for name in ("outer", "inner"):
        (tmp_path / name).mkdir()
    with Serving(tmp_path, text) as serving:
        for path, body in (("/", b"one"), ("/inner/", b"two"), ("/none/", b"not in a file, and then gone")):
            assert serving.ask(post(body, path=path)).body.endswith(b"\r\n\r\n" + body)
        (one,) = os.listdir(tmp_path / "outer")
        (two,) = os.listdir(tmp_path / "inner")
        assert (tmp_path / "outer" / one).read_bytes() == b"one"
        assert (tmp_path / "inner" / two).read_bytes() == b"two"
        files = [line.split()[1].rpartition(b"/")[0] for line in serving.lines()]
        assert files == [str(tmp_path / "outer").encode(), str(tmp_path / "inner").encode(), files[2]]


def test_lua_finds_the_file(tmp_path: Path) -> None:
    text = (
        HTTP
        + SERVER
        % """
        location / { content_by_lua_block {
            ngx.req.read_body()
            local file = ngx.req.get_body_file()
            local args, problem = ngx.req.get_post_args()
            ngx.say(ngx.req.get_body_data(), " ", ngx.var.request_body, " ", file and #file > 10, " ", problem)
        } }
        """
    )
    with Serving(tmp_path, text) as serving:
        assert serving.ask(post(b"0123456789")).body == b"0123456789 0123456789 nil nil\n"
        assert serving.ask(post(b"0123456789" * 200)).body == (
            b"nil nil true request body in temp file not supported\n"
        )
        assert serving.ask(get("/")).body == b"nil nil nil nil\n"
