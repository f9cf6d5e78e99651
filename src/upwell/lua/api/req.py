"""ngx.req: the request's method, URI, fields and content."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from upwell.lua.api.codec import unescape_uri
from upwell.lua.bridge import LuaFailure, integer, string
from upwell.lua.contexts import CONTEXTS, MAY_ANSWER, REWRITE

if TYPE_CHECKING:
    from upwell.lua.vm import Vm

_METHODS = {
    2: b"GET",
    4: b"HEAD",
    8: b"POST",
    16: b"PUT",
    32: b"DELETE",
    64: b"MKCOL",
    128: b"COPY",
    256: b"MOVE",
    512: b"OPTIONS",
    1024: b"PROPFIND",
    2048: b"PROPPATCH",
    4096: b"LOCK",
    8192: b"UNLOCK",
    16384: b"PATCH",
    32768: b"TRACE",
}
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_UNSAFE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def method_name(number: object) -> bytes:
    """The method of one of the ngx.HTTP_* numbers. Raises LuaFailure for any other."""
    name = _METHODS.get(number) if isinstance(number, int) else None
    if name is None:
        raise LuaFailure(b"unsupported HTTP method: %d" % integer(number, 1, "set_method"))
    return name


def split_args(text: bytes, most: int) -> tuple[bytes | None, list[bytes | bool]]:
    """Query arguments as name, value, name, value; False for a name without `=`; first "truncated" over `most`."""
    flat: list[bytes | bool] = []
    count = 0
    for pair in text.split(b"&"):
        name, equals, value = pair.partition(b"=")
        if not name:
            continue
        if most > 0 and count >= most:
            return b"truncated", flat
        count += 1
        flat += (unescape_uri(name), unescape_uri(value) if equals else False)
    return None, flat


def functions(vm: Vm) -> Mapping[str, Callable[..., Any]]:
    def limit(most: object, name: str) -> int:
        return 100 if most is None else integer(most, 1, name)

    def method() -> Any:
        return vm.request()[1].method

    def set_method(number: object) -> None:
        exchange = vm.request()[1]
        exchange.method = method_name(number)
        exchange.special = True  # what comes of it may have no content where the client waits for some

    def is_internal() -> Any:
        return vm.request()[1].internal

    def start_time() -> Any:
        # `started` is of the loop's clock; the difference to now is the same on every clock.
        exchange = vm.request()[1]
        return round(vm.host.time() - (exchange.client.loop.time() - exchange.started), 3)

    def http_version() -> Any:
        version = vm.request()[1].version
        return {9: 0.9, 10: 1.0, 11: 1.1}.get(version)

    def raw_header(no_line: bool) -> Any:
        exchange = vm.request()[1]
        lines = [] if no_line else [exchange.request_line]
        lines += [name + b": " + value for name, value in exchange.fields]
        return b"\r\n".join([*lines, b"", b""])

    def headers(most: object = None) -> Any:
        exchange = vm.request()[1]
        fields = exchange.fields
        count = limit(most, "get_headers")
        truncated = None
        if 0 < count < len(fields):
            fields = fields[:count]
            truncated = b"truncated"
        flat: list[bytes] = []
        for field in fields:
            flat += field
        return (truncated, *flat)

    def set_header(name: object = None, *values: bytes) -> None:
        exchange = vm.request()[1]
        key = string(name, 1, "set_header").replace(b"_", b"-").lower()
        if not _TOKEN.fullmatch(key):
            raise LuaFailure(b"invalid header name")
        kept = [field for field in exchange.fields if field[0] != key]
        kept += [(key, _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], value)) for value in values]
        exchange.set_fields(kept)
        exchange.fields_set |= {key}
        if key == b"host" and values:
            exchange.host = values[-1].lower()

    def uri_args(most: object = None) -> Any:
        truncated, flat = split_args(vm.request()[1].args, limit(most, "get_uri_args"))
        return (truncated, *flat)

    def decode_args(text: bytes, most: object = None) -> Any:
        truncated, flat = split_args(text, limit(most, "decode_args"))
        return (truncated, *flat)

    def post_args(most: object = None) -> Any:
        exchange = vm.request()[1]
        content = exchange.body.content() if exchange.body is not None else b""
        truncated, flat = split_args(content, limit(most, "get_post_args"))
        return (truncated, *flat)

    def body_ready() -> Any:
        run, exchange = vm.request(MAY_ANSWER)
        if exchange.body is None:
            run.body_read = True
        return run.body_read

    def body() -> Any:
        run, exchange = vm.request()
        if not run.body_read:
            return None
        return (exchange.body.content() or None) if exchange.body is not None else None

    def body_file() -> Any:
        run, exchange = vm.request()
        if not run.body_read or exchange.body is None or exchange.body.file is None:
            return None
        return exchange.body.file.path.encode("utf-8", "surrogateescape")

    def discard_body() -> None:
        vm.request(MAY_ANSWER)

    def set_body(data: object = None) -> None:
        raise LuaFailure(b"ngx.req.set_body_data is not supported by upwell")

    def set_uri_args(args: bytes) -> None:
        if _UNSAFE.search(args):
            raise LuaFailure(b"unsafe arguments")
        exchange = vm.request()[1]
        exchange.aim(exchange.uri, args)

    def set_uri(uri: object = None, jump: bool = False) -> Any:
        run, exchange = vm.request()
        target = string(uri, 1, "set_uri")
        if not target:
            raise LuaFailure(b"attempt to use zero-length uri")
        if _UNSAFE.search(target):
            raise LuaFailure(b"unsafe byte in uri")
        if jump and run.phase != REWRITE:
            raise LuaFailure(f"API disabled in the context of {CONTEXTS[run.phase][0]}")
        exchange.aim(target, exchange.args)
        if run.phase == REWRITE:
            exchange.moved = jump
        return jump

    return {
        "req_method": method,
        "req_set_method": set_method,
        "req_is_internal": is_internal,
        "req_start_time": start_time,
        "req_http_version": http_version,
        "req_raw_header": raw_header,
        "req_headers": headers,
        "req_set_header": set_header,
        "req_uri_args": uri_args,
        "req_post_args": post_args,
        "req_body_ready": body_ready,
        "req_body": body,
        "req_body_file": body_file,
        "req_discard_body": discard_body,
        "req_set_body": set_body,
        "req_set_uri_args": set_uri_args,
        "req_set_uri": set_uri,
        "decode_args": decode_args,
    }
