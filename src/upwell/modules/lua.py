"""lua-nginx-module's directives: the Lua texts with their places. Running them is lua/'s and the runtime's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from upwell.config.command import Command, Module, Setter, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.slots import once, time
from upwell.config.template import Template
from upwell.errors import ConfigError, Position
from upwell.modules.core import full_path
from upwell.modules.location import LocationSettings
from upwell.modules.rewrite import CONTEXTS, RewriteSettings, variable_name
from upwell.units import parse_size

_LEVELS = "http server location"
_SMALLEST_DICT = 8192
_LONGEST_NAME = 42
"""LuaJIT shows no more of a chunk's name than this (LJ_CHUNKNAME_MAX_LEN in lua-nginx-module)."""


@dataclass(frozen=True, slots=True)
class LuaCode:
    """One Lua text. `chunk` is its chunk name as OpenResty gives it: "=content_by_lua(nginx.conf:60)", or "@/path".

    `position` is where the directive stands; line 1 of `source` is the line of the block's opening brace.
    """

    source: str
    chunk: str
    position: Position


@dataclass(frozen=True, slots=True)
class SharedDict:
    """One `lua_shared_dict`; `size` in bytes."""

    name: str
    size: int
    position: Position


@dataclass(frozen=True, slots=True)
class SetByLua:
    """A step of the rewrite phase: `set_by_lua $name code args...`; `args` are the Lua text's ngx.arg[1..]."""

    name: str
    code: LuaCode
    args: tuple[Template, ...]
    position: Position


@dataclass(frozen=True, slots=True)
class LuaSettings:
    """What Lua a level runs. The first six fields belong to the http block; `content` is not inherited."""

    package_path: str = ""
    package_cpath: str = ""
    max_run_time: float = 10.0
    shared_dicts: tuple[SharedDict, ...] = ()
    init: LuaCode | None = None
    init_worker: LuaCode | None = None
    rewrite: LuaCode | None = None
    access: LuaCode | None = None
    content: LuaCode | None = field(default=None, metadata=LOCAL)
    header_filter: LuaCode | None = None
    log: LuaCode | None = None


def chunk_name(phase: str, file: str, line: int, folder: str) -> str:
    """OpenResty's name for inline code: nginx.conf by its bare name, other files from the conf's folder, cut left."""
    if file.endswith("/nginx.conf"):
        shown = "nginx.conf"
    else:
        shown = file.removeprefix(f"{folder}/") if folder else file
        room = _LONGEST_NAME - len(phase) - len(str(line))
        if len(shown) > room:
            shown = f"...{shown[len(shown) - room + 3 :]}"
    return f"={phase}({shown}:{line})"


def _code(block: Block, directive: Directive, phase: str, index: int) -> LuaCode:
    """The Lua text of a directive in any of its three forms; `index` is the argument of the code or the path."""
    load = block.loading
    position = directive.position
    if directive.lua is not None:
        source = directive.lua
    else:
        source = directive.args[index]
        if not source:
            raise directive.error("invalid location config: no runnable Lua code", index)
        if directive.name.endswith("_file"):
            return _read(block, directive, index)
    return LuaCode(source, chunk_name(phase, position.file, position.line, load.folder), position)


def _read(block: Block, directive: Directive, index: int) -> LuaCode:
    if "$" in directive.args[index]:
        raise directive.error(f'"{directive.name}" with variables is not supported by upwell', index)
    path = full_path(block, directive.args[index])
    try:
        source = Path(path).read_text("utf-8", "surrogateescape")
    except OSError as error:
        raise ConfigError(f'open() "{path}" failed ({error.errno}: {error.strerror})', directive.place(index)) from None
    block.loading.outside.append(source)
    return LuaCode(source, f"@{path}", directive.position)


def _phase(field: str) -> Setter:
    def put(block: Block, directive: Directive) -> None:
        once(block, directive, LuaSettings, field)
        block.set(LuaSettings, field, _code(block, directive, f"{field}_by_lua", 0))
        if field == "content":
            block.set(LocationSettings, "handler", "content_by_lua")

    return put


def _set_by_lua(block: Block, directive: Directive) -> None:
    name = variable_name(block, directive)
    code = _code(block, directive, "set_by_lua", 1)
    args = tuple(block.template(directive, index) for index in range(2, len(directive.args)))
    block.append(RewriteSettings, "steps", SetByLua(name, code, args, directive.position))


def _text(field: str) -> Setter:
    def put(block: Block, directive: Directive) -> None:
        once(block, directive, LuaSettings, field)
        block.set(LuaSettings, field, directive.args[0])

    return put


def _shared_dict(block: Block, directive: Directive) -> None:
    name, text = directive.args
    if not name:
        raise directive.error(f'invalid lua shared dict name "{name}"', 0)
    try:
        size = parse_size(text)
    except ValueError:
        size = 0
    if size < _SMALLEST_DICT:
        raise directive.error(f'invalid lua shared dict size "{text}"', 1)
    if any(known.name == name for known in block[LuaSettings].shared_dicts):
        raise directive.error(f'lua_shared_dict "{name}" is already defined as "{name}"', 0)
    block.append(LuaSettings, "shared_dicts", SharedDict(name, size, directive.position))


def _forms(field: str, contexts: str) -> tuple[Command, ...]:
    """The three spellings of a phase: `x_by_lua_block { }`, `x_by_lua "code"`, `x_by_lua_file path`."""
    name = f"{field}_by_lua"
    setter = _phase(field)
    return (
        command(f"{name}_block", contexts, 0, setter, block=True),
        command(name, contexts, 1, setter),
        command(f"{name}_file", contexts, 1, setter),
    )


MODULE = Module(
    "lua",
    (
        command("lua_package_path", "http", 1, _text("package_path")),
        command("lua_package_cpath", "http", 1, _text("package_cpath")),
        command("lua_max_run_time", "http", 1, time(LuaSettings, "max_run_time")),
        command("lua_shared_dict", "http", 2, _shared_dict),
        *_forms("init", "http"),
        *_forms("init_worker", "http"),
        *_forms("rewrite", f"{_LEVELS} if"),
        *_forms("access", f"{_LEVELS} if"),
        *_forms("content", "location if"),
        *_forms("header_filter", f"{_LEVELS} if"),
        *_forms("log", f"{_LEVELS} if"),
        command("set_by_lua_block", CONTEXTS, 1, _set_by_lua, block=True),
        command("set_by_lua", CONTEXTS, (2, None), _set_by_lua),
        command("set_by_lua_file", CONTEXTS, (2, None), _set_by_lua),
    ),
    options=("lua-nginx-module",),
)
