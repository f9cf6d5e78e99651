"""The contexts in which Lua code runs, as bits, with lua-nginx-module's names for them. Knows nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SET, REWRITE, ACCESS, CONTENT, LOG, HEADER_FILTER, TIMER, INIT_WORKER, INIT = (1 << bit for bit in range(9))

CONTEXTS: Final[Mapping[int, tuple[str, bytes]]] = {
    SET: ("set_by_lua*", b"set"),
    REWRITE: ("rewrite_by_lua*", b"rewrite"),
    ACCESS: ("access_by_lua*", b"access"),
    CONTENT: ("content_by_lua*", b"content"),
    LOG: ("log_by_lua*", b"log"),
    HEADER_FILTER: ("header_filter_by_lua*", b"header_filter"),
    TIMER: ("ngx.timer", b"timer"),
    INIT_WORKER: ("init_worker_by_lua*", b"init_worker"),
    INIT: ("init_by_lua*", b"init"),
}
"""For each bit its name in error messages and what ngx.get_phase() gives."""

MAY_WAIT = REWRITE | ACCESS | CONTENT | TIMER
MAY_ANSWER = REWRITE | ACCESS | CONTENT
WITH_REQUEST = SET | REWRITE | ACCESS | CONTENT | LOG | HEADER_FILTER
