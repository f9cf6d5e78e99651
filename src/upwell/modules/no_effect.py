"""Directives of nginx that change nothing in upwell: their place and arguments are checked, and that is all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from upwell.config.command import Command, Module, command, words
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import note_idle, once, read_flag, read_levels, read_number, read_seconds, read_size, read_time
from upwell.modules.unsupported import REASONS

# One line each: name, what it takes, where it may stand. What it takes is a kind of value (see _KINDS, or levels of a
# path), a number of arguments of any kind ("1", "1-4", "1+"), or the only values that say what upwell does anyhow
# ("=on"): any other value of those is refused, because it would ask for something else.
_TABLE = """
accept_mutex flag events
accept_mutex_delay time events
debug_points =stop|abort main
debug_connection 1 events
lock_file 1 main
multi_accept flag events
pcre_jit flag main
timer_resolution time main
use =epoll events
worker_aio_requests number events
thread_pool 2-3 main

aio 1 http server location
aio_write flag http server location
client_body_in_single_buffer flag http server location
connection_pool_size size http server
directio 1 http server location
directio_alignment size http server location
map_hash_bucket_size number http stream
map_hash_max_size number http stream
msie_padding flag http server location
msie_refresh flag http server location
open_file_cache 1-2 http server location
open_file_cache_errors flag http server location
open_file_cache_events flag http server location
open_file_cache_min_uses number http server location
open_file_cache_valid seconds http server location
output_buffers 2 http server location
postpone_output size http server location
proxy_headers_hash_bucket_size number http server location
proxy_headers_hash_max_size number http server location
proxy_send_lowat size http server location
proxy_temp_path levels http server location
read_ahead size http server location
request_pool_size size http server
send_lowat size http server location
sendfile flag http server location if
sendfile_max_chunk size http server location
referer_hash_bucket_size number server location
referer_hash_max_size number server location
server_names_hash_bucket_size number http
server_names_hash_max_size number http
tcp_nodelay flag http server location
tcp_nopush flag http server location
gunzip_buffers 2 http server location
gzip_buffers 2 http server location
gzip_hash size http server location
gzip_no_buffer flag http server location
gzip_window size http server location
postpone_gzipping size http server location
types_hash_bucket_size number http server location
types_hash_max_size number http server location
variables_hash_bucket_size number http stream
variables_hash_max_size number http stream

tcp_nodelay =on stream stream_server
disable_symlinks =off http server location
http2 =off http server
http3 =off http server
log_subrequest =off http server location
proxy_cache =off http server location
proxy_force_ranges =off http server location
proxy_store =off http server location
ssi =off http server location if
ssl_early_data =off http server
ssl_stapling =off http server
ssl_stapling_verify =off http server
ssl_ocsp =off http server

access_by_lua_no_postpone =off http
lua_check_client_abort =off http server location
lua_code_cache =on http server location
lua_http10_buffering =on http server location
lua_load_resty_core =on http
lua_malloc_trim number http
lua_max_pending_timers number http
lua_max_running_timers number http
lua_need_request_body =off http server location
lua_regex_cache_max_entries number http
lua_regex_match_limit number http
lua_sa_restart flag http
lua_socket_log_errors flag http server location
lua_thread_cache_max_entries number http
lua_transform_underscores_in_response_headers =on http server location
lua_use_default_type =on http server location
lua_worker_thread_vm_pool_size number http
rewrite_by_lua_no_postpone =off http
"""


def _any(block: Block, directive: Directive) -> None:
    """Whatever the arguments are, they change nothing."""
    note_idle(block, directive)


@dataclass(frozen=True, slots=True)
class _Given:
    """Where a level notes which of these directives it has, for "is duplicate"; no field is ever read."""


def _read(read: Callable[[Directive], object]) -> Callable[[Block, Directive], None]:
    def check(block: Block, directive: Directive) -> None:
        _first(block, directive)
        read(directive)
        note_idle(block, directive)

    return check


def _first(block: Block, directive: Directive) -> None:
    once(block, directive, _Given, directive.name)
    block.set(_Given, directive.name, True)


def _only(values: frozenset[str]) -> Callable[[Block, Directive], None]:
    def check(block: Block, directive: Directive) -> None:
        _first(block, directive)
        value = directive.args[0].lower()
        if value in values:
            return
        if directive.name == "use":
            raise directive.error(f'invalid event type "{directive.args[0]}"', 0)
        if values <= {"on", "off"}:
            _check_flag(directive)
        given = f"{directive.name} {directive.args[0]}" if directive.name in _FLAGS else directive.name
        why = REASONS.get(directive.name)
        raise directive.error(f'"{given}" is not supported by upwell{f": {why}" if why else ""}', 0)

    return check


def _check_flag(directive: Directive) -> None:
    """nginx's complaint about a misspelt flag comes first where the directive is a flag and nothing else."""
    if directive.name in _FLAGS:
        read_flag(directive)


_FLAGS = words(
    """tcp_nodelay http2 http3 log_subrequest
    proxy_force_ranges ssl_early_data ssl_stapling ssl_stapling_verify
    ssi lua_code_cache
    access_by_lua_no_postpone lua_check_client_abort lua_http10_buffering lua_load_resty_core lua_need_request_body
    lua_transform_underscores_in_response_headers lua_use_default_type rewrite_by_lua_no_postpone"""
)

_KINDS = {
    "flag": _read(read_flag),
    "number": _read(read_number),
    "seconds": _read(read_seconds),
    "size": _read(read_size),
    "time": _read(read_time),
}


def described() -> Iterator[tuple[str, str]]:
    """Each directive of this file with what it does, in words (tools/compatibility.py)."""
    for line in _TABLE.split("\n"):
        if line:
            name, takes, _ = line.split(maxsplit=2)
            yield name, f"only `{takes[1:].replace('|', '` or `')}`" if takes.startswith("=") else "no effect"


def _command(line: str) -> Command:
    name, takes, contexts = line.split(maxsplit=2)
    if takes.startswith("="):
        return command(name, contexts, 1, _only(frozenset(takes[1:].split("|"))))
    if takes == "levels":
        return command(name, contexts, (1, 4), _read(read_levels))
    if takes in _KINDS:
        return command(name, contexts, 1, _KINDS[takes])
    least, _, most = takes.rstrip("+").partition("-")
    return command(name, contexts, (int(least), None if takes.endswith("+") else int(most or least)), _any)


MODULE = Module("no_effect", tuple(_command(line) for line in _TABLE.splitlines() if line))
