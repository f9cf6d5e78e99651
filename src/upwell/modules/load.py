"""A configuration file into a Config: the one entry. Reads files and resolves names, starts nothing."""

from __future__ import annotations

import os
from functools import cache

from upwell.config.command import Table, words
from upwell.config.directive import Directive, broken, parse, shape
from upwell.config.model import Block, Config, Load, Resolve
from upwell.config.source import Source, Sources
from upwell.errors import ConfigError, ConfigErrors, Position
from upwell.modules import MODULES
from upwell.modules.resolve import resolve_host
from upwell.modules.unsupported import LACKING, REASONS, UNSUPPORTED

# nginx builds these in unless told otherwise (its ./configure --help)
_BUILT_IN = words("""
http_charset_module http_gzip_module http_ssi_module http_userid_module http_access_module http_auth_basic_module
http_mirror_module http_autoindex_module http_geo_module http_map_module http_split_clients_module http_referer_module
http_rewrite_module http_proxy_module http_fastcgi_module http_uwsgi_module http_scgi_module http_grpc_module
http_memcached_module http_limit_conn_module http_limit_req_module http_empty_gif_module http_browser_module
http_upstream_hash_module http_upstream_ip_hash_module http_upstream_least_conn_module http_upstream_random_module
http_upstream_least_time_module http_upstream_keepalive_module http_upstream_zone_module http_upstream_sticky_module
""")

_ON_DEMAND = words("http_auth_request_module http_secure_link_module http_stub_status_module")  # only when told to

_MEMBERS = frozenset((("upstream", "server"),))


def load(path: str, prefix: str, overrides: str = "", resolve: Resolve = resolve_host) -> Config:
    """Read the file at `path` (relative paths start at `prefix`) and make it into settings.

    `overrides` is the text of nginx's `-g`: it stands before the file's own main level. `resolve` turns host names into
    addresses. Raises ConfigErrors with everything that is wrong, in the order of the files' reading.
    """
    full = os.path.join(prefix, path)
    folder = os.path.dirname(full)
    sources = Sources(folder)
    state = Load(prefix, folder, resolve, sources)
    table = command_table()
    errors = state.errors
    main = Block("main", Position(full, 0), (), None, state)
    given: list[Directive] = []
    if overrides:
        given = parse(Source("command line", overrides, numbered=False), sources, errors)
        table.apply(main, given)
    try:
        directives = parse(sources.read(full), sources, errors)
    except ConfigError as error:
        raise ConfigErrors([error]) from None
    state.broken = broken(errors)
    table.apply(main, directives)
    table.close(main)
    if state.broken:
        # With the braces wrong, whatever comes after stands in the wrong block: only the first such complaint helps.
        misplaced = [error for error in errors if error.message.endswith("directive is not allowed here")]
        errors[:] = [error for error in errors if error not in misplaced[1:]]
    if errors:
        raise ConfigErrors(_in_order(errors, sources), () if state.broken else tuple(state.idle))
    main.seal()
    said = shape((*given, *directives), _MEMBERS), tuple(state.outside)
    return Config(main, sources.all, full, prefix, tuple(state.warnings), tuple(state.idle), said)


@cache
def command_table() -> Table:
    """All directives of upwell; built once, at the first load."""
    return Table(MODULES, UNSUPPORTED, LACKING, REASONS)


def configure_arguments() -> list[str]:
    """What nginx's `-V` would print for a build with the areas that upwell has, and without those it lacks."""
    present = {option for module in MODULES for option in module.options}
    arguments = [f"--without-{name}" for name in sorted(_BUILT_IN) if name not in present]
    arguments.append("--without-http-cache")
    chosen = {name for name in present if name.startswith("stream") or name in _ON_DEMAND}
    arguments += [f"--with-{name}" for name in sorted(chosen)]
    arguments += [f"--add-module={name}" for name in sorted(present - chosen) if name not in _BUILT_IN]
    return arguments


def _in_order(errors: list[ConfigError], sources: Sources) -> list[ConfigError]:
    files = {source.path: index for index, source in enumerate(sources.all)}

    def place(error: ConfigError) -> tuple[int, int, int]:
        position = error.position
        if position is None:
            return len(files), 0, 0
        return files.get(position.file, -1), position.line, position.column

    unique = {(error.message, error.position): error for error in errors}
    return sorted(unique.values(), key=place)
