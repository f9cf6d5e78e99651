"""The entry: the guide's file, overrides, the shipped types, the table of directives, and the time it takes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from upwell.config.model import Config
from upwell.errors import ConfigErrors
from upwell.modules import MODULES, no_effect
from upwell.modules.core import CoreSettings, ErrorLogSettings
from upwell.modules.http import HttpSettings
from upwell.modules.load import command_table, configure_arguments, load
from upwell.modules.location import LocationSettings
from upwell.modules.lua import LuaSettings, chunk_name
from upwell.modules.proxy import ProxySettings
from upwell.modules.server import ServerSettings
from upwell.modules.unsupported import UNSUPPORTED
from upwell.modules.upstream import UpstreamsSettings
from upwell.modules.variables import PREFIXES, SUPPORTED, is_known, is_unsupported
from upwell.proxy.variables import VARIABLES
from upwell.proxy.variables import find as find_variable

_GUIDE = """
#user  nobody;
worker_processes  1;
events {
    worker_connections  1024;
}
http {
    include       mime.types;
    default_type  application/octet-stream;
    lua_package_path "/path/to/lib/?.lua;;";
    upstream tomcat_upstream {
        server 127.0.0.1:81;
        server 127.0.0.1:82;
    }
upstream nginx_upstream {
        server 127.0.0.1:83;
        server 127.0.0.1:84;
    }
lua_shared_dict healthcheck 1m;
init_worker_by_lua_block {
   local ok, err = hc.spawn_checker {
   shm = "healthcheck", -- 注释 }
   http_req = "GET /index.html HTTP/1.0\\r\\nHost: tomcat\\r\\n\\r\\n",
   valid_statuses = {200, 302},
   }
}
server {

listen       80;
        server_name  localhost;
location / {
            proxy_pass   http://tomcat_upstream;
        }
        location = /status {
            access_log off;
            allow 127.0.0.1;
            deny all;

            default_type text/plain;
            content_by_lua_block {
                ngx.say("Nginx Worker PID: ", ngx.worker.pid())
            }
        }
    }
}
"""


def _load(tmp_path: Path, text: str, overrides: str = "") -> Config:
    (tmp_path / "nginx.conf").write_text(text)
    return load("nginx.conf", str(tmp_path), overrides)


def test_the_guides_file_loads(tmp_path: Path) -> None:
    config = _load(tmp_path, _GUIDE)
    http = next(config.main.of("http"))
    assert [spec.name for spec in http[UpstreamsSettings].specs] == ["tomcat_upstream", "nginx_upstream"]
    server = next(http.of("server"))
    assert [listen.spec.text for listen in server[ServerSettings].listens] == ["0.0.0.0:80"]
    root, status = server.of("location")
    target = root[ProxySettings].pass_
    assert target is not None
    assert (target.upstream, target.uri) == ("tomcat_upstream", None)
    assert status[HttpSettings].default_type == "text/plain"
    assert root[HttpSettings].default_type == "application/octet-stream"
    assert status[LocationSettings].handler == "content_by_lua"
    lua = http[LuaSettings]
    assert lua.init_worker is not None
    assert lua.init_worker.chunk == "=init_worker_by_lua(nginx.conf:20)"
    assert "valid_statuses = {200, 302}" in lua.init_worker.source
    assert root[LuaSettings].content is None
    assert config.warnings == ()


@pytest.mark.skipif(not Path("/work/shared/seed/nginx.conf").exists(), reason="the guide's own file is not here")
def test_the_guides_own_file_loads_unmodified() -> None:
    config = load("/work/shared/seed/nginx.conf", "/work/shared/seed")
    assert len(list(config.main.walk())) == 12


def test_the_shipped_types_are_used_where_the_folder_has_none(tmp_path: Path) -> None:
    config = _load(tmp_path, "events {}\nhttp { include mime.types; }\n")
    types = next(config.main.of("http"))[HttpSettings].types
    assert (types["html"], types["css"], types["svg"]) == ("text/html", "text/css", "image/svg+xml")
    assert len(config.files) == 2
    (tmp_path / "mime.types").write_text("types { a/b c; }")
    config = _load(tmp_path, "events {}\nhttp { include mime.types; }\n")
    assert dict(next(config.main.of("http"))[HttpSettings].types) == {"c": "a/b"}


def test_includes_are_read_in_their_place_and_kept_for_T(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    for name in ("b", "a"):
        (tmp_path / "conf.d" / f"{name}.conf").write_text(f"server {{ listen 80{ord(name)}; }}\n")
    config = _load(tmp_path, "events {}\nhttp { include conf.d/*.conf; include none/*; }\n")
    servers = list(next(config.main.of("http")).of("server"))
    assert [server[ServerSettings].listens[0].spec.address for server in servers] == [
        ("0.0.0.0", 8097),
        ("0.0.0.0", 8098),
    ]
    assert [Path(source.path).name for source in config.files] == ["nginx.conf", "a.conf", "b.conf"]
    assert str(servers[1].position) == f"{tmp_path}/conf.d/b.conf:1:1"


def test_overrides_stand_before_the_file(tmp_path: Path) -> None:
    config = _load(tmp_path, "events {}\n", 'daemon off; pid /x/y.pid; error_log "stderr" info;')
    core = config.main[CoreSettings]
    assert (core.daemon, core.pid) == (False, "/x/y.pid")
    assert [log.path for log in config.main[ErrorLogSettings].logs] == ["stderr"]


def test_defaults_are_those_of_nginx(tmp_path: Path) -> None:
    config = _load(tmp_path, "events {}\nhttp { server { location / { proxy_pass http://127.0.0.1; } } }\n")
    core = config.main[CoreSettings]
    assert (core.daemon, core.master_process, core.worker_processes) == (True, True, 1)
    assert core.pid == f"{tmp_path}/logs/nginx.pid"
    location = next(next(next(config.main.of("http")).of("server")).of("location"))
    proxy = location[ProxySettings]
    assert (proxy.connect_timeout, proxy.buffers, proxy.http_version, proxy.next_upstream) == (
        60.0,
        (8, 4096),
        11,
        frozenset(("error", "timeout")),
    )
    server = location.around("server")[ServerSettings]
    assert [(name.kind, name.text) for name in server.names] == [("exact", "")]
    assert len(server.listens) == 1


def test_warnings_do_not_stop_a_load(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        "events {}\nhttp { allow 1.2.3.4/24;\nserver { listen 81; server_name a; }\n"
        "server { listen 81; server_name A b/c; } }\n",
    )
    assert [str(warning).removeprefix(str(tmp_path)) for warning in config.warnings] == [
        f"low address bits of 1.2.3.4/24 are meaningless in {tmp_path}/nginx.conf:2:14",
        f'server name "b/c" has suspicious symbols in {tmp_path}/nginx.conf:4:35',
        f'conflicting server name "a" on 0.0.0.0:81, ignored in {tmp_path}/nginx.conf:4:10',
    ]


def test_a_refused_directive_does_not_make_its_variable_unknown(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        _load(tmp_path, "events {}\nhttp { perl_set $x y;\nserver { return 200 $x; } }\n")
    (error,) = caught.value.errors
    assert error.message == '"perl_set" is not supported by upwell: programs in a configuration are Lua\'s'


def test_each_name_is_in_one_table_only() -> None:
    supported = {item.name for module in MODULES if module is not no_effect.MODULE for item in module.commands}
    idle = {item.name for item in no_effect.MODULE.commands}
    assert not supported & idle
    assert not (supported | idle) & UNSUPPORTED
    assert command_table().names == supported | idle
    assert len(UNSUPPORTED) > 500
    assert {
        "proxy_cache_path",
        "brotli",
        "grpc_pass",
        "balancer_by_lua_block",
    } <= UNSUPPORTED


@pytest.mark.parametrize("name", sorted(UNSUPPORTED)[::40])
def test_what_upwell_lacks_is_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        _load(tmp_path, f"events {{}}\nhttp {{ {name} x; }}\n")
    [error] = caught.value.errors
    assert error.message.startswith(f'"{name}" is not supported by upwell')  # some say why


def test_variables_are_in_one_table_only() -> None:
    assert not any(is_unsupported(name) for name in SUPPORTED)
    assert not any(name.startswith(PREFIXES) for name in SUPPORTED)
    assert is_known("http_x_y")
    assert is_known("remote_addr")
    assert not is_known("nosuch")
    assert is_unsupported("ssl_sigalg")
    assert not is_unsupported("ssl_protocol")


def test_configure_arguments_say_what_there_is_and_is_not() -> None:
    arguments = configure_arguments()
    assert "--without-http_fastcgi_module" in arguments
    assert "--without-http_proxy_module" not in arguments
    assert "--without-http_access_module" not in arguments
    assert any(argument.startswith("--add-module=") and "lua" in argument for argument in arguments)


@pytest.mark.parametrize(
    ("file", "folder", "chunk"),
    [
        ("/etc/nginx/nginx.conf", "/etc/nginx", "=content_by_lua(nginx.conf:60)"),
        ("/etc/nginx/conf.d/a.conf", "/etc/nginx", "=content_by_lua(conf.d/a.conf:60)"),
        ("/opt/a.conf", "/etc/nginx", "=content_by_lua(/opt/a.conf:60)"),
        ("/opt/" + "x" * 40 + ".conf", "/etc/nginx", f"=content_by_lua(...{'x' * 18}.conf:60)"),
    ],
)
def test_chunk_names_are_those_of_openresty(file: str, folder: str, chunk: str) -> None:
    assert chunk_name("content_by_lua", file, 60, folder) == chunk


def test_ten_thousand_servers_load_quickly(tmp_path: Path) -> None:
    lines = "".join(
        f"    server 10.0.{index >> 8}.{index & 255}:80 weight=2 max_fails=3 fail_timeout=5s;\n"
        for index in range(10_000)
    )
    text = f"events {{}}\nhttp {{\nupstream a {{\n{lines}}}\n}}\n"
    best = 60.0
    for _ in range(3):
        start = time.process_time()
        config = _load(tmp_path, text)
        best = min(best, time.process_time() - start)
    assert len(next(config.main.of("http"))[UpstreamsSettings].specs[0].peers) == 10_000
    assert best < 0.5


def test_every_known_variable_can_be_answered() -> None:
    assert [name for name in sorted(SUPPORTED) if find_variable(name) is None] == []
    assert [prefix for prefix in PREFIXES if find_variable(f"{prefix}x") is None] == []
    assert find_variable("nosuch") is None
    assert set(VARIABLES) <= SUPPORTED
